"""Whether a workspace is in order now: what CI asks every day, after the runs themselves are long done.

A run stands if it finished and was neither rolled back nor replaced. Each one that stands has to verify, to
have passed (or to be approved with the risk named), to be signed off as its policy asks, and to have been
probed not too long ago; and no request may be overdue.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from safeedit.errors import SafeEditError, UsageError
from safeedit.evidence.blockers import blocks_of, last_probing
from safeedit.evidence.keyring import Keyring
from safeedit.evidence.requests import requests_of
from safeedit.evidence.standing import standing_of
from safeedit.evidence.workspace import verify_workspace
from safeedit.runs.audit import Clock, utc_now
from safeedit.runs.findings import Finding
from safeedit.runs.folder import RunFolder
from safeedit.runs.listing import RunSummary, list_runs
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
]
_EXIT: dict[ProblemCode, int] = {"integrity": 5, "sign-off-void": 5, "error": 4, "undecided": 3}
"""Everything else is 1: something required does not hold."""
_WEIGHT = {5: 3, 4: 2, 1: 1, 3: 0}
_UNFINISHED = frozenset({"running", "interrupted", "sealing-interrupted", "file-leftover"})
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
    runs = list_runs(folder)
    standing = [run for run in runs if not unsound[run.path] and _stands(run)]
    for path, findings in unsound.items():
        if findings:
            more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
            problems.append(Problem("integrity", path.name, f"does not verify; {findings[0]}{more}"))
    problems += [problem for run in standing for problem in _of_run(run, max_age, clock)]
    problems += [
        Problem("unfinished", run.path.name, f"the run is {run.status}; start it again, or remove it")
        for run in runs
        if not unsound[run.path] and run.status in ("started", "editing", "probing", "interrupted")
    ]
    today, requests = clock().date(), requests_of(folder)
    for request in requests:
        late = [block for block in blocks_of(request, today, clock) if block.code in ("overdue", "cycle-due")]
        problems += [Problem("overdue", request.id, block.message) for block in late]
    return CheckReport(len(standing), len(requests), tuple(problems))


def _serious(report: VerifyReport) -> list[Finding]:
    """What is wrong with a run beyond that it is being written, or was left in the middle."""
    return [found for found in report.findings if found.code not in _UNFINISHED]


def _stands(run: RunSummary) -> bool:
    return run.status == "finished" and RunFolder.open(run.path).record.replaced_by is None


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
    yield from _of_probing(run, max_age, clock)


def _of_probing(run: RunSummary, max_age: timedelta | None, clock: Clock) -> Iterator[Problem]:
    """What the last measurement of a run says, and when that was."""
    last, verdict = last_probing(run)
    if verdict != run.verdict:
        yield Problem("probing-failed", run.path.name, f"probed again on {str(last)[:10]}: {verdict}")
    if max_age is None:
        return
    moment = datetime.fromisoformat(last) if last else None
    now = clock()
    if moment is None or moment > now + timedelta(minutes=5):
        yield Problem("too-old", run.path.name, "nothing tells when it was probed last")
    elif now - moment > max_age:
        days = (now - moment).days
        yield Problem("too-old", run.path.name, f"probed last on {str(last)[:10]}, {days} days ago")
