"""Whether a run folder is still what the run left: log, record and every file, without torch.

How a run is sealed, so that no byte can change unnoticed: `run.json` lists every other file with
its digest, and names the length and the head of the log as they were before its closing entry;
that entry, the last of the log, holds the digest of `run.json`'s bytes (`seal` has the order in
which they are written).

That a folder was not made up as a whole, by someone who can recompute every digest, is shown by what
lies outside of it: the ledger of its workspace, signed checkpoints of that, and signatures on the run.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from safeedit.errors import UsageError
from safeedit.runs.chain import Entry, verify_chain
from safeedit.runs.checks import Check, divided
from safeedit.runs.findings import Finding
from safeedit.runs.lock import LOCK, is_locked
from safeedit.runs.manifest import LOG, Waiting, compare, next_path
from safeedit.runs.record import FINAL, RECORD, SEALED, RunRecord
from safeedit.runs.seal import is_sealed_by, last_seal, read_record, sound_entries
from safeedit.runs.vault import FOLDER as VAULT
from safeedit.runs.vaultcheck import check_vault

if TYPE_CHECKING:
    from safeedit.evidence.keyring import Keyring
    from safeedit.evidence.pointers import LedgerView


@dataclass(frozen=True)
class VerifyReport:
    """What the check of a run folder found."""

    findings: tuple[Finding, ...]
    status: str
    """The run's own status; `running` while a process writes it, `unreadable` without a sound record."""
    record: RunRecord | None
    """The record, where it is the one that the log tells of."""
    entries: int
    """How many lines the log has."""
    files: int
    """How many files the record lists."""
    notes: tuple[str, ...] = ()
    """What could not be checked, because it is not here; one line each."""
    checks: tuple[Check, ...] = ()
    """Each thing that was checked, with the findings about it; every finding is in one of them."""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong; the command line ends with 5 where something is."""
        return not self.findings


def verify_run(path: str | os.PathLike[str], trusted: Keyring | None = None) -> VerifyReport:
    """Check a run folder and all that lies around it, as far as it is here; reads only, and offline.

    That is: the run itself, its vault, the runs that it stands on, its place in the workspace's
    ledger with the checkpoints of that, and the decisions that were signed.

    Args:
        path: the run folder.
        trusted: whose signatures count; the user's keyring by default.

    Returns:
        a report whose findings name every file that is not as it was sealed and every break of
        a log's chain, or tell that the run was interrupted or is still being written.

    Raises:
        UsageError: there is no run at `path`.
    """
    from safeedit.evidence.checkpointcheck import check_checkpoints
    from safeedit.evidence.keyring import Keyring
    from safeedit.evidence.ledger import workspace_of
    from safeedit.evidence.pointers import view_ledger

    folder, ring = Path(path), Keyring.load() if trusted is None else trusted
    ledger = view_ledger(workspace_of(folder), "../ledger.jsonl")
    report = verify_within(folder, ledger, ring)
    if ledger is None or report.record is None:
        return report
    around = [ledger.check, *check_checkpoints(workspace_of(folder), ledger, ring, "../")]
    return _reported(report, [*report.checks, *around])


def verify_alone(path: str | os.PathLike[str]) -> VerifyReport:
    """The run and the runs that it stands on, without what is said of it elsewhere: enough to use its model.

    Raises:
        UsageError: there is no run at `path`.
    """
    report = _running(Path(path)) or inspect_run(Path(path))
    if report.record is None or report.record.parent is None:
        return report
    return _reported(report, [*_own_checks(report), _ancestry(Path(path))])


def verify_within(folder: Path, ledger: LedgerView | None, trusted: Keyring) -> VerifyReport:
    """As `verify_run`, in a workspace whose ledger was read and is checked elsewhere.

    Args:
        folder: the run folder.
        ledger: the ledger; None where there is none.
        trusted: whose signatures count.
    """
    report = _running(folder) or inspect_run(folder)
    if report.status == "running":
        return report
    checks = list(_own_checks(report))
    if report.record is not None:
        checks += _checks_around(folder, report, ledger, trusted)
    return _reported(report, checks)


def _reported(report: VerifyReport, checks: Sequence[Check]) -> VerifyReport:
    findings = tuple(found for check in checks for found in check.findings)
    notes = tuple(note for check in checks for note in check.notes)
    return replace(report, findings=findings, notes=notes, checks=tuple(checks))


def _running(folder: Path) -> VerifyReport | None:
    if not is_locked(folder):
        return None
    message = "a process is writing this run now; verify it when that has ended"
    found = Finding("running", RECORD, message)
    return VerifyReport((found,), "running", None, 0, 0, checks=(Check(RECORD, "", (found,)),))


def _own_checks(report: VerifyReport) -> list[Check]:
    """The checks of the run by itself; the last has all that is about neither log nor record."""
    parts = (
        (LOG, f"{report.entries} entries, each bound to the one before", LOG.__eq__),
        (RECORD, f"as the log's entry tells of it ({report.status})", RECORD.__eq__),
        ("files", f"{report.files} files, each as it was sealed", lambda file: True),
    )
    return divided(report.findings, parts)


def _checks_around(
    folder: Path, report: VerifyReport, ledger: LedgerView | None, trusted: Keyring
) -> list[Check]:
    from safeedit.evidence.pointers import check_pointers
    from safeedit.evidence.signoff import sign_off_checks

    assert report.record is not None
    entries = sound_entries(_read(folder / LOG) or b"")
    checks: list[Check] = []
    if not any(found.file.startswith(VAULT) for found in report.findings):
        checks.append(check_vault(folder, report.record, entries))
    if report.record.parent is not None:
        checks.append(_ancestry(folder))
    # Of a log that is itself broken, what does not fit its pieces says nothing more.
    if not any(found.file == LOG for found in report.findings):
        # The ledger is told before the record takes its place, so a kill in between can leave it behind.
        settled = not any(found.code == "sealing-interrupted" for found in report.findings)
        sealed = report.status in SEALED
        checks.append(check_pointers(ledger, entries, sealed=sealed, settled=settled))
        checks += sign_off_checks(folder, trusted, inspected=report)
    return checks


def _ancestry(folder: Path) -> Check:
    from safeedit.runs.ancestry import inspect_ancestry

    findings, notes = inspect_ancestry(folder)
    return Check("below", "the runs that it stands on are what it started from", findings, notes, not notes)


def inspect_run(folder: Path) -> VerifyReport:
    """`verify_run`, for the process that itself holds the run's lock."""
    content, coming, log = (_read(folder / name) for name in (RECORD, next_path(Path(RECORD)).name, LOG))
    if content is None and coming is None and log is None:
        raise UsageError(f"{folder} is no run: it has no {RECORD}; give a folder that a run was written to")
    entries = sound_entries(log or b"")
    pending = coming is not None and is_sealed_by(last_seal(entries), coming)
    findings: list[Finding] = []
    if coming is not None:
        findings.append(Finding("sealing-interrupted", RECORD, _sealing_message(pending)))
        if content is None and not entries:
            return VerifyReport((*findings, _interrupted("started")), "started", None, 0, 0)
    current = coming if pending else content
    record = read_record(current) if current is not None else None
    if current is None:
        findings.append(Finding("record-missing", RECORD, "is gone"))
    elif record is None:
        findings.append(Finding("record-invalid", RECORD, "is not the record of a run"))
    if log is None:
        findings.append(Finding("log-missing", LOG, "is gone"))
    else:
        findings += verify_chain(log, LOG, record.log.length + 1 if record else None)
    if _read(folder / LOCK):
        findings.append(Finding("file-changed", LOCK, "is not empty, as it is in every run"))
    trusted = None
    if record is not None and current is not None:
        broken = _check_seal(record, current, entries)
        # Where the chain itself is broken, what does not fit its pieces says nothing more.
        if not any(found.file == LOG for found in findings):
            findings += broken
        trusted = record if not broken else None
    if trusted is not None:
        if trusted.status in SEALED:
            waiting: Waiting = "none" if coming is None else "due" if pending else "undone"
            findings += compare(folder, trusted.files, waiting)
        if trusted.status not in FINAL | {"failed"}:
            findings.append(_interrupted(trusted.status))
    return VerifyReport(
        tuple(findings),
        trusted.status if trusted else "unreadable",
        trusted,
        len(entries),
        len(trusted.files) if trusted else 0,
    )


def _check_seal(record: RunRecord, content: bytes, entries: list[Entry]) -> list[Finding]:
    """Whether the log's closing entry and the record tell of each other."""
    seal = next((entry for entry in entries if entry.seq == record.log.length), None)
    starts = [entry for entry in entries if entry.event in ("run.started", "run.restarted")]
    if not (starts and starts[-1].data.get("uuid") == record.uuid):
        message = "and {} are of different runs: one of the two was exchanged"
        return [
            Finding("log-foreign", LOG, message.format(RECORD)),
            Finding("record-changed", RECORD, message.format(LOG)),
        ]
    if seal is None:
        return [Finding("log-truncated", LOG, "the entry that tells of run.json is gone")]
    if not is_sealed_by(seal, content):
        return [Finding("record-changed", RECORD, "was changed after the run was sealed")]
    if seal.prev != record.log.head:
        return [Finding("log-rewritten", LOG, "the chain is not the one that run.json tells of")]
    if record.status in SEALED and any(entry.seq > seal.seq for entry in entries):
        return [Finding("log-extended", LOG, "has entries after the one that sealed the run")]
    return []


def _interrupted(status: str) -> Finding:
    message = f"the run was interrupted ({status}): start it again with the same command"
    return Finding("interrupted", RECORD, message)


def _sealing_message(pending: bool) -> str:
    if pending:
        return "a command was killed while it sealed the run; nothing is lost, the next one completes it"
    return "a command was killed before it changed the run; the next one removes what it left"


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
