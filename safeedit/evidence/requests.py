"""Requests and what became of them: noted in the workspace's ledger, in codes, days and digests alone.

A request is known by its policy's id. It comes into being by a note that it was received, or by a run of
its policy, whose log tells regime and day of receipt. Nothing here is free text: who has the data is told
by kind and number (`processor-2`), and the list of who that is belongs elsewhere.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Literal, get_args

from safeedit.errors import IntegrityError, UsageError
from safeedit.evidence.clock import RULES, Deadline, deadline
from safeedit.evidence.ledger import Ledger, workspace_of
from safeedit.policy.model import Regime
from safeedit.runs.audit import Clock, Event, utc_now
from safeedit.runs.chain import Entry
from safeedit.runs.folder import RunFolder
from safeedit.runs.listing import RunSummary, list_runs
from safeedit.runs.record import FINAL, SEALED

Step = Literal[
    "received", "identified", "acknowledged", "extended", "answered", "refused", "notified", "derived"
]
STEPS: tuple[Step, ...] = get_args(Step)

CODES: Mapping[str, tuple[str, ...]] = {
    "regime": get_args(Regime),
    "reason": ("complexity", "number-of-requests"),
    "outcome": ("erased", "corrected", "partly", "nothing-held"),
    "ground": (
        "not-identified",
        "unfounded",
        "excessive",
        "expression",
        "legal-obligation",
        "public-interest",
        "public-health",
        "research",
        "legal-claims",
        "security",
        "not-covered",
    ),
    "told": ("pending", "informed", "confirmed", "impossible", "disproportionate"),
    "role": ("checkpoint", "adapter", "merged", "quantised", "distilled", "cache", "index", "backup"),
    "state": ("pending", "edited", "retrained", "withdrawn", "deleted", "not-applicable"),
}
"""Every word that a note may hold, by its field."""

RECIPIENTS = ("controller", "processor", "contractor", "provider", "customer", "registry", "mirror", "public")
PLACES = ("registry", "cluster", "region", "bucket", "device", "customer", "archive")
"""Kinds of recipients and of places; a number tells one from the next."""

FIELDS: Mapping[Step, tuple[str, ...]] = {
    "received": ("regime",),
    "identified": (),
    "acknowledged": (),
    "extended": ("reason",),
    "answered": ("outcome",),
    "refused": ("ground",),
    "notified": ("recipient", "told"),
    "derived": ("role", "place", "state", "digest"),
}
_TIME_ZONES = timedelta(days=1)
"""It may be tomorrow already where the person is who notes a step."""
_OPTIONAL = frozenset({"digest"})
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Artefact:
    """Something that was made of the model before the edit, and may still say what was erased."""

    role: str
    place: str
    state: str
    digest: str | None = None


@dataclass(frozen=True)
class Request:
    """One request, as the ledger and the runs of a workspace tell."""

    id: str
    regime: Regime
    received: date
    steps: Mapping[str, date] = field(default_factory=dict)
    """The day of each step that was noted; the first of each kind."""
    outcome: str | None = None
    ground: str | None = None
    recipients: Mapping[str, str] = field(default_factory=dict)
    """By code, how far each has been told."""
    artefacts: tuple[Artefact, ...] = ()
    runs: tuple[RunSummary, ...] = ()
    """The runs of its policy, the oldest first."""

    @property
    def deadline(self) -> Deadline:
        """The days that it has."""
        return deadline(self.regime, self.received, self.steps.get("extended"))

    @property
    def closed(self) -> date | None:
        """The day on which it was answered or refused."""
        return self.steps.get("answered") or self.steps.get("refused")

    @property
    def run(self) -> RunSummary | None:
        """The run that stands for it: the last that finished and that no other took the place of.

        One that was rolled back is that only where none stands beside it.
        """
        ended = [run for run in self.runs if run.recorded in FINAL]
        replaced = {other for run in ended if (other := _record_of(run.path).replaces)}
        ended = [run for run in ended if run.uuid not in replaced]
        standing = [run for run in ended if run.recorded == "finished"]
        return next(reversed(standing or ended), None)


def note(
    workspace: str | os.PathLike[str],
    id: str,
    step: Step,
    *,
    on: date | None = None,
    clock: Clock = utc_now,
    **codes: str,
) -> Entry:
    """Note a step of a request in the ledger of a workspace.

    Args:
        workspace: the folder that holds the runs.
        id: the policy's id.
        step: what happened.
        on: the day on which it did; today by default.
        clock: gives the time.
        codes: the fields of the step (`FIELDS`), in the vocabulary (`CODES`).

    Raises:
        UsageError: an unknown request or word, a field that is missing, or a step that cannot be.
    """
    _check_words(id, step, codes)
    today = clock().date()
    day = today if on is None else on
    if day > today + _TIME_ZONES:
        raise UsageError(f"request {id}: {day} is yet to come; give the day on which it happened (--on)")
    known = {request.id: request for request in requests_of(workspace)}
    if step == "received":
        if id in known and "received" in known[id].steps:
            raise UsageError(f"request {id} was noted as received already, on {known[id].received}")
    elif id not in known:
        raise UsageError(
            f"there is no request {id} in {workspace}: no run of it, and nobody noted that it was received"
        )
    else:
        _check_order(known[id], step, day)
    event: Event = f"request.{step}"  # type: ignore[assignment]
    return Ledger.of(workspace, clock).append(event, id=id, on=day.isoformat(), **codes)


def requests_of(workspace: str | os.PathLike[str]) -> tuple[Request, ...]:
    """Every request of a workspace, by the day of its receipt.

    Raises:
        UsageError: there is no such folder.
        IntegrityError: the ledger cannot be read.
    """
    folder = Path(workspace)
    runs: dict[str, list[RunSummary]] = {}
    for run in list_runs(folder):
        if run.id is not None:
            runs.setdefault(run.id, []).append(run)
    notes: dict[str, list[Entry]] = {}
    for entry in _sound(Ledger.of(folder)):
        if entry.event.startswith("request."):
            notes.setdefault(entry.data["id"], []).append(entry)
    found = []
    for id in dict.fromkeys([*notes, *runs]):
        made = request_from(id, notes.get(id, []), runs.get(id, []))
        if made is not None:
            found.append(made)
    return tuple(sorted(found, key=lambda request: (request.received, request.id)))


def _sound(ledger: Ledger) -> Sequence[Entry]:
    """The entries of a ledger whose chain holds; of no other anything is believed."""
    if not ledger.exists:
        return ()
    wrong = [found for found in ledger.verify() if found.code != "log-half-line"]
    if wrong:
        raise IntegrityError(f"{ledger.path}: {wrong[0].message}; nothing can be said of requests")
    return ledger.entries()


def request_of(run: Path) -> Request | None:
    """The request that a run is about, with that run alone; None where nothing tells of one.

    Raises:
        IntegrityError: the ledger of its workspace does not verify.
    """
    (summary,) = list_runs(run)
    notes = [
        entry
        for entry in _sound(Ledger.of(workspace_of(run)))
        if entry.event.startswith("request.") and entry.data["id"] == summary.id
    ]
    return request_from(summary.id or "", notes, [summary])


def request_from(id: str, notes: Sequence[Entry], runs: Sequence[RunSummary]) -> Request | None:
    """A request, from the notes about it and the runs of its policy; None where neither tells of one."""
    told = next((entry.data for entry in notes if entry.event == "request.received"), None)
    asked = {"regime": told["regime"], "received": told["on"]} if told else _asked(runs)
    if asked is None:
        return None
    steps: dict[str, date] = {}
    recipients: dict[str, str] = {}
    artefacts: dict[tuple[str, str, str | None], Artefact] = {}
    codes: dict[str, str] = {}
    for entry in notes:
        data, step = entry.data, entry.event.removeprefix("request.")
        steps.setdefault(step, date.fromisoformat(data["on"]))
        codes |= {name: data[name] for name in ("outcome", "ground") if name in data}
        if step == "notified":
            recipients[data["recipient"]] = data["told"]
        elif step == "derived":
            one = Artefact(data["role"], data["place"], data["state"], data.get("digest"))
            artefacts[(one.role, one.place, one.digest)] = one
    return Request(
        id=id,
        regime=asked["regime"],
        received=date.fromisoformat(asked["received"]),
        steps=steps,
        outcome=codes.get("outcome"),
        ground=codes.get("ground"),
        recipients=recipients,
        artefacts=tuple(artefacts.values()),
        runs=tuple(runs),
    )


def _asked(runs: Sequence[RunSummary]) -> dict[str, Any] | None:
    """Regime and day of receipt, as the first run that can be read tells them."""
    for run in runs:
        if run.status == "unreadable" or (run.status == "running" and run.recorded not in SEALED):
            continue
        for entry in RunFolder.open(run.path).log.entries():
            if entry.event == "policy.registered":
                return entry.data
    return None


def _record_of(path: Path) -> Any:
    return RunFolder.open(path).record


def _check_words(id: str, step: Step, codes: Mapping[str, str]) -> None:
    if step not in FIELDS:
        raise UsageError(f"there is no step {step!r}; there are: {', '.join(STEPS)}")
    if not _ID.fullmatch(id):
        raise UsageError("a request is named by its policy's id: letters, digits, '.', '_', '-', at most 64")
    for name in FIELDS[step]:
        if name not in codes and name not in _OPTIONAL:
            raise UsageError(f"{step}: {name} is missing; it is {_words(name)}")
    for name, value in codes.items():
        if name not in FIELDS[step]:
            raise UsageError(f"{step} has no {name}; it has: {', '.join(FIELDS[step]) or 'nothing more'}")
        if not _is_word(name, value):
            raise UsageError(f"{step}: {name} is {_words(name)}")


def _is_word(name: str, value: str) -> bool:
    if name in CODES:
        return value in CODES[name]
    if name == "digest":
        return _DIGEST.fullmatch(value) is not None
    kind, _, number = value.rpartition("-")
    allowed = RECIPIENTS if name == "recipient" else PLACES
    return kind in allowed and re.fullmatch(r"[0-9]{1,4}", number) is not None


def _words(name: str) -> str:
    if name in CODES:
        return f"one of: {', '.join(CODES[name])}"
    if name == "digest":
        return "the SHA-256 of the artefact, in 64 hex digits"
    return f"one of {', '.join(RECIPIENTS if name == 'recipient' else PLACES)}, with a number: processor-2"


def _check_order(request: Request, step: Step, day: date) -> None:
    if day < request.received:
        raise UsageError(f"request {request.id}: {day} is before {request.received}, when it was received")
    if step in ("answered", "refused") and request.closed is not None:
        raise UsageError(f"request {request.id} was answered on {request.closed}")
    if step == "extended":
        limit = request.deadline.notice_by
        if limit is None:
            raise UsageError(f"request {request.id}: its regime, {request.regime}, knows no extension")
        if "extended" in request.steps:
            raise UsageError(f"request {request.id} was extended already, on {request.steps['extended']}")
        if day > limit:
            raise UsageError(
                f"request {request.id} could be extended until {limit}: "
                f"{RULES[request.regime].extension_source}"
            )
