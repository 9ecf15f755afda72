"""Whether a whole workspace is as it was left: its ledger, its checkpoints, and every run in it."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from safeedit.errors import UsageError
from safeedit.evidence.checkpointcheck import check_checkpoints
from safeedit.evidence.keyring import Keyring
from safeedit.evidence.ledger import LEDGER, RUN, Ledger
from safeedit.evidence.pointers import LedgerView, view_ledger
from safeedit.runs.checks import Check
from safeedit.runs.findings import Finding
from safeedit.runs.listing import is_run
from safeedit.runs.manifest import LOG
from safeedit.runs.seal import sound_entries
from safeedit.runs.verify import VerifyReport, verify_within

_STARTS = ("run.started", "run.restarted")


@dataclass(frozen=True)
class WorkspaceReport:
    """What the check of a workspace found."""

    checks: tuple[Check, ...]
    """The checks of the ledger, the checkpoints, and of which runs there are."""
    runs: tuple[tuple[Path, VerifyReport], ...]
    """Each run with its own report, by the folders' names."""

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Everything that is wrong, with the run's folder before the name of a file in it."""
        own = [found for check in self.checks for found in check.findings]
        for path, report in self.runs:
            own += [
                Finding(found.code, posixpath.normpath(f"{path.name}/{found.file}"), found.message)
                for found in report.findings
            ]
        return tuple(own)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings


def is_workspace(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is a folder of runs and no run itself."""
    folder = Path(path)
    if not folder.is_dir() or is_run(folder):
        return False
    return Ledger.of(folder).exists or any(is_run(one) for one in folder.iterdir())


def verify_workspace(path: str | os.PathLike[str], trusted: Keyring | None = None) -> WorkspaceReport:
    """Check a workspace: reads only, and offline.

    Args:
        path: the folder that holds the run folders.
        trusted: whose signatures count; the user's keyring by default.

    Raises:
        UsageError: there is no workspace at `path`.
    """
    folder = Path(path)
    if not is_workspace(folder):
        raise UsageError(f"{folder} holds no runs; give a run, or the folder that runs were written to")
    ring = Keyring.load() if trusted is None else trusted
    ledger = view_ledger(folder)
    places = sorted(one for one in folder.iterdir() if is_run(one))
    seen = replace(ledger, file=f"../{ledger.file}") if ledger else None
    runs = tuple((one, verify_within(one, seen, ring)) for one in places)
    if ledger is None:
        message = "is gone: which runs there were cannot be told"
        checks: list[Check] = [Check(LEDGER, "", (Finding("ledger-missing", LEDGER, message),))]
    else:
        checks = [ledger.check, *check_checkpoints(folder, ledger, ring), _complete(ledger, places)]
    return WorkspaceReport(tuple(checks), runs)


def _complete(ledger: LedgerView, places: Sequence[Path]) -> Check:
    """Whether every run that the ledger tells of is here, once."""
    here: dict[object, list[str]] = {}
    for place in places:
        log = place / LOG
        entries = sound_entries(log.read_bytes()) if log.is_file() else []
        for uuid in {entry.data.get("uuid") for entry in entries if entry.event in _STARTS}:
            here.setdefault(uuid, []).append(place.name)
    told = dict.fromkeys(entry.data[RUN] for entry in ledger.entries if RUN in entry.data)
    findings = [
        Finding("run-missing", ledger.file, f"tells of the run {uuid}, which is not in this folder")
        for uuid in told
        if uuid not in here
    ]
    for uuid, names in here.items():
        if len(names) > 1:
            message = f"the run {uuid} is here more than once: {', '.join(names)}"
            findings.append(Finding("run-doubled", names[-1], message))
    strangers = [names[0] for uuid, names in here.items() if uuid not in told]
    notes = tuple(f"{name}: a run that the ledger does not tell of" for name in strangers)
    return Check("runs", f"{len(told)} runs in the ledger, each of them here", tuple(findings), notes)
