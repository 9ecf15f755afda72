"""What keeps a request from being done, in a fixed vocabulary, the first thing to do first."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Literal

from safeedit.errors import SafeEditError
from safeedit.evidence.clock import RULES
from safeedit.evidence.keyring import Keyring
from safeedit.evidence.measured import last_probing
from safeedit.evidence.requests import Request
from safeedit.evidence.standing import SignOff, standing_of
from safeedit.runs.audit import Clock, utc_now
from safeedit.runs.listing import RunSummary

BlockCode = Literal[
    "overdue",
    "not-acknowledged",
    "no-run",
    "run-unfinished",
    "rolled-back",
    "gate-failed",
    "inconclusive",
    "no-baseline",
    "run-error",
    "probing-failed",
    "unsigned",
    "rejected",
    "sign-off-expired",
    "sign-off-void",
    "unverifiable",
    "recipients",
    "artefacts",
    "not-answered",
    "cycle-due",
]
_VERDICTS: dict[str | None, tuple[BlockCode, str]] = {
    "FAIL": ("gate-failed", "a required gate failed"),
    "INCONCLUSIVE": ("inconclusive", "the run could not decide"),
    "NO_BASELINE": ("no-baseline", "the model knew none of it; a person has to decide what that means"),
    "ERROR": ("run-error", "the run ended in an error"),
    None: ("run-error", "the run has no verdict"),
}
_SIGNED: dict[str, tuple[BlockCode, str]] = {
    "rejected": ("rejected", "an approver rejected the run"),
    "expired": ("sign-off-expired", "the approval has expired"),
    "void": ("sign-off-void", "the signatures do not fit the run"),
}


@dataclass(frozen=True)
class Block:
    """One thing that is in the way."""

    code: BlockCode
    message: str
    """One line for a person: codes, days and numbers."""

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


def blocks_of(request: Request, today: date, clock: Clock = utc_now) -> tuple[Block, ...]:
    """What is in the way of a request on a day; nothing where it is done."""
    return tuple(_blocks(request, today, clock))


def _blocks(request: Request, today: date, clock: Clock) -> Iterator[Block]:
    days, rule = request.deadline, RULES[request.regime]
    if request.closed is None:
        if days.overdue(today):
            yield Block("overdue", f"an answer was due on {days.last} ({days.source})")
        confirm = days.acknowledge_by
        if confirm is not None and "acknowledged" not in request.steps:
            late = "was" if today > confirm else "is"
            yield Block("not-acknowledged", f"receipt {late} to be confirmed by {confirm}")
    if "refused" in request.steps:
        return
    if request.outcome != "nothing-held":
        yield from _of_run(request, clock)
    waiting = [code for code, told in request.recipients.items() if told == "pending"]
    if waiting:
        yield Block(
            "recipients", f"not told yet: {', '.join(sorted(waiting))} ({rule.notify_source})".strip()
        )
    left = sorted(f"{one.role} at {one.place}" for one in request.artefacts if one.state == "pending")
    if left:
        yield Block("artefacts", f"made of the model before, and not dealt with: {', '.join(left)}")
    if request.closed is None and rule.answer is not None:
        yield Block("not-answered", "nobody noted an answer to the person")
    if request.closed is not None and request.run is not None and rule.cycle_days is not None:
        probed = date.fromisoformat((last_probing(request.run).time or request.received.isoformat())[:10])
        again = max(probed, request.closed) + timedelta(days=rule.cycle_days)
        if today > again:
            yield Block("cycle-due", f"was to be probed again by {again} ({rule.cycle_source})")


def failed_since(run: RunSummary, signed: SignOff) -> str | None:
    """What a later measurement came to that did not pass, where nobody has approved the run in its face."""
    last = last_probing(run)
    if last.entry is None or last.verdict in ("PASS", run.verdict) or signed.approved_since(last.entry):
        return None
    return f"probed again on {str(last.time)[:10]}: {last.verdict}"


def _of_run(request: Request, clock: Clock) -> Iterator[Block]:
    run = request.run
    if run is None:
        if request.runs:
            yield Block(
                "run-unfinished", f"no run has come to its end; the last is {request.runs[-1].status}"
            )
        else:
            yield Block("no-run", "no run of its policy is in the workspace")
        return
    if run.recorded == "rolled_back":
        yield Block("rolled-back", "its run was rolled back, so the model is what it was before")
        return
    if run.status == "running":
        yield Block("unverifiable", "a process is writing its run now; look again when that has ended")
        return
    try:
        signed = standing_of(run.path, Keyring.load(), clock)
    except SafeEditError:
        yield Block("unverifiable", "its run cannot be checked; safeedit verify says why")
        return
    # Whoever approves a run that did not pass names the risk that is taken: that settles its verdict.
    if run.verdict != "PASS" and signed.status != "approved":
        code, words = _VERDICTS[run.verdict]
        yield Block(code, f"{words}{_probes(run)}")
    later = failed_since(run, signed)
    if later is not None:
        yield Block("probing-failed", later)
    yield from _of_sign_off(signed)


def _of_sign_off(signed: SignOff) -> Iterator[Block]:
    if signed.status in _SIGNED:
        yield Block(*_SIGNED[signed.status])
    elif signed.status != "approved" and signed.needed:
        yield Block("unsigned", f"{signed.approvals} of {signed.needed} approvers have signed")


def _probes(run: RunSummary) -> str:
    """The required probes that a verdict comes from."""
    try:
        results = json.loads((run.path / "probes.json").read_bytes())["results"]
        bad = [one["id"] for one in results if one["required"] and one["verdict"] == run.verdict]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return f": {', '.join(bad)}" if bad else ""
