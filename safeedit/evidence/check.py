"""Whether a workspace is in order now: what CI asks every day, after the runs themselves are long done.

A run stands if it finished and was neither rolled back nor replaced. Each one that stands has to verify, to
have passed (or to be approved with the risk named), to be signed off as its policy asks, and to have been
probed not too long ago; and no request may be overdue, or have been answered for a run that does not stand. A
run that a process is writing cannot be verified, and is in no case in order.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Literal

from safeedit.errors import SafeEditError, UsageError
from safeedit.evidence.blockers import BlockCode, blocks_of, failed_since
from safeedit.evidence.keyring import Keyring
from safeedit.evidence.measured import last_probing
from safeedit.evidence.requests import Request, requests_of
from safeedit.evidence.standing import SignOff, standing_of
from safeedit.evidence.workspace import verify_workspace
from safeedit.runs.audit import Clock, utc_now
from safeedit.runs.findings import Finding
from safeedit.runs.folder import RunFolder
from safeedit.runs.listing import RunSummary, list_runs
from safeedit.runs.record import FINAL
from safeedit.runs.verify import VerifyReport

ProblemCode = Literal[
    "integrity",
    "not-passed",
    "undecided",
    "error",
    "unsigned",
    "rejected",
    "sign-off-expired",
    "sign-off-void",
    "too-old",
    "probing-failed",
    "overdue",
    "unfinished",
    "not-checked",
    "request-open-again",
]
_EXIT: dict[ProblemCode, int] = {"integrity": 5, "sign-off-void": 5, "error": 4, "undecided": 3}
"""Everything else is 1: something required does not hold."""
_WEIGHT = {5: 3, 4: 2, 1: 1, 3: 0}
_UNFINISHED = frozenset({"running", "interrupted", "sealing-interrupted", "file-leftover"})
_UNDONE: frozenset[BlockCode] = frozenset({"no-run", "run-unfinished", "rolled-back", "run-error"})
"""What an answer to a request cannot stand on."""
_NOT_WHILE_WRITTEN: frozenset[ProblemCode] = frozenset({"integrity", "sign-off-void"})
"""What half of a change looks like."""
_AGE = re.compile(r"([1-9][0-9]{0,4})([hdw])")
_UNITS = {"h": "hours", "d": "days", "w": "weeks"}


@dataclass(frozen=True)
class Problem:
    """One thing that is not in order."""

    code: ProblemCode
    where: str
    """The run's folder inside the workspace, or the request's id."""
    message: str

    @property
    def exit_code(self) -> int:
        """What the command line makes of it, by itself."""
        return _EXIT.get(self.code, 1)

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


@dataclass(frozen=True)
class CheckReport:
    """What was looked at, and what is wrong with it."""

    runs: int
    """Runs that stand."""
    requests: int
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether all is in order."""
        return not self.problems

    @property
    def exit_code(self) -> int:
        """As the command line gives it: that of the gravest problem."""
        return max((one.exit_code for one in self.problems), key=lambda code: _WEIGHT[code], default=0)


def age(text: str) -> timedelta:
    """A length of time as it is written on the command line: `12h`, `30d`, `4w`.

    Raises:
        UsageError: it is none.
    """
    found = _AGE.fullmatch(text)
    if found is None:
        raise UsageError("--max-age is a number of hours, days or weeks, such as 12h, 30d or 4w")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def check(
    workspace: str | os.PathLike[str], max_age: timedelta | None = None, clock: Clock = utc_now
) -> CheckReport:
    """Look at every run and every request of a workspace; reads only.

    Args:
        workspace: the folder that holds the runs.
        max_age: how long ago a run may have been probed last.
        clock: gives the time.

    Raises:
        UsageError: the folder holds neither runs nor a ledger.
    """
    folder = Path(workspace)
    verified = verify_workspace(folder)
    problems = [
        Problem("integrity", one.file, one.message) for check in verified.checks for one in check.findings
    ]
    if problems:
        # Which runs and requests there are, and since when, is what the ledger would have to tell.
        return CheckReport(0, 0, tuple(problems))
    unsound = {path: _serious(report) for path, report in verified.runs}
    unseen = {path for path, report in verified.runs if report.status == "running"}
    listed, today, requests = list_runs(folder), clock().date(), requests_of(folder)
    # One may have begun, or come under a lock, since the others were looked at.
    unseen |= {run.path for run in listed if run.status == "running" or run.path not in unsound}
    runs = [run for run in listed if run.path in unseen or not unsound[run.path]]
    standing = [run for run in runs if _stands(run)]
    for path, findings in unsound.items():
        if findings:
            more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
            problems.append(Problem("integrity", path.name, f"does not verify; {findings[0]}{more}"))
    for run in standing:
        found = _of_run(run, max_age, clock)
        problems += [one for one in found if run.path not in unseen or one.code not in _NOT_WHILE_WRITTEN]
    problems += [one for run in runs for one in _not_ended(run, run.path in unseen)]
    problems += _failed(runs, requests)
    for request in requests:
        problems += _of_request(request, today, clock)
    return CheckReport(len(standing), len(requests), tuple(problems))


def _serious(report: VerifyReport) -> list[Finding]:
    """What is wrong with a run beyond that it is being written, or was left in the middle."""
    return [found for found in report.findings if found.code not in _UNFINISHED]


def _not_ended(run: RunSummary, unseen: bool) -> Iterator[Problem]:
    """Of a run that is in somebody's hands, or that was left there."""
    name = run.path.name
    if unseen and run.recorded in FINAL:
        told = "a process is writing the run, so it was not verified; check again when that has ended"
        yield Problem("not-checked", name, told)
    elif unseen:
        yield Problem("unfinished", name, "the run is being written now; check again when that has ended")
    elif run.status in ("started", "editing", "probing", "interrupted"):
        yield Problem("unfinished", name, f"the run is {run.status}; start it again, or remove it")


def _failed(runs: Sequence[RunSummary], requests: Sequence[Request]) -> Iterator[Problem]:
    """Runs that broke off, of requests that still stand, and after which none came to its end."""
    over = {one.id for one in requests if "refused" in one.steps or one.outcome == "nothing-held"}
    for at, run in enumerate(runs):
        later = any(one.id == run.id and one.recorded in FINAL for one in runs[at + 1 :])
        if run.status == "failed" and run.id not in over and not later:
            yield Problem("error", run.path.name, "the run ended in an error; start it again")


def _of_request(request: Request, today: date, clock: Clock) -> Iterator[Problem]:
    for block in blocks_of(request, today, clock):
        if block.code in ("overdue", "cycle-due"):
            yield Problem("overdue", request.id, block.message)
        elif request.closed is not None and block.code in _UNDONE:
            told = f"it was answered on {request.closed} ({request.outcome}), and {block.message}"
            yield Problem("request-open-again", request.id, told)


def _stands(run: RunSummary) -> bool:
    return run.recorded == "finished" and RunFolder.open(run.path).record.replaced_by is None


def _of_run(run: RunSummary, max_age: timedelta | None, clock: Clock) -> Iterator[Problem]:
    name = run.path.name
    try:
        signed = standing_of(run.path, Keyring.load(), clock)
    except SafeEditError as error:
        yield Problem("integrity", name, f"the sign-off cannot be checked ({type(error).__name__})")
        return
    if run.verdict == "ERROR":
        yield Problem("error", name, "the run ended in an error")
    elif run.verdict != "PASS" and signed.status != "approved":
        code: ProblemCode = "not-passed" if run.verdict == "FAIL" else "undecided"
        yield Problem(code, name, f"its verdict is {run.verdict}, and nobody approved it with the risk named")
    if signed.status == "rejected":
        yield Problem("rejected", name, "an approver rejected it")
    elif signed.status == "expired":
        yield Problem("sign-off-expired", name, "its approval has expired; probe it again and sign anew")
    elif signed.status == "void":
        yield Problem("sign-off-void", name, "its signatures do not fit it any more")
    elif signed.status != "approved" and signed.needed:
        told = f"{signed.approvals} of {signed.needed} approvers have signed"
        yield Problem("unsigned", name, told)
    yield from _of_probing(run, signed, max_age, clock)


def _of_probing(
    run: RunSummary, signed: SignOff, max_age: timedelta | None, clock: Clock
) -> Iterator[Problem]:
    """What the last measurement of a run says, and when that was."""
    later = failed_since(run, signed)
    if later is not None:
        yield Problem("probing-failed", run.path.name, later)
    if max_age is None:
        return
    last = last_probing(run).time
    moment = datetime.fromisoformat(last) if last else None
    now = clock()
    if moment is None or moment > now + timedelta(minutes=5):
        yield Problem("too-old", run.path.name, "nothing tells when it was probed last")
    elif now - moment > max_age:
        days = (now - moment).days
        yield Problem("too-old", run.path.name, f"probed last on {str(last)[:10]}, {days} days ago")
