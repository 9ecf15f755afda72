"""Whether a run folder is still what the run left: log, record and every file, without torch.

How a run is sealed, so that no byte can change unnoticed: `run.json` lists every other file with
its digest, and names the length and the head of the log as they were before its closing entry;
that entry, the last of the log, holds the digest of `run.json`'s bytes (`seal` has the order in
which they are written).

Does not show that a folder was not made up as a whole, by someone who can recompute every digest;
for that the head of the log has to be signed or kept elsewhere.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from safeedit.errors import UsageError
from safeedit.runs.chain import Entry, verify_chain
from safeedit.runs.findings import Finding
from safeedit.runs.lock import LOCK, is_locked
from safeedit.runs.manifest import LOG, Waiting, compare, next_path
from safeedit.runs.record import FINAL, RECORD, SEALED, RunRecord
from safeedit.runs.seal import is_sealed_by, last_seal, read_record, sound_entries


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

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong; the command line ends with 5 where something is."""
        return not self.findings


def verify_run(path: str | os.PathLike[str]) -> VerifyReport:
    """Check a run folder, and the runs that it stands on as far as they are here; reads only.

    Returns:
        a report whose findings name every file that is not as it was sealed and every break of
        the log's chain, or tell that the run was interrupted or is still being written.

    Raises:
        UsageError: there is no run at `path`.
    """
    folder = Path(path)
    if is_locked(folder):
        message = "a process is writing this run now; verify it when that has ended"
        return VerifyReport((Finding("running", RECORD, message),), "running", None, 0, 0)
    report = inspect_run(folder)
    if report.record is None or report.record.parent is None:
        return report
    from safeedit.runs.ancestry import inspect_ancestry

    findings, notes = inspect_ancestry(folder)
    return replace(report, findings=(*report.findings, *findings), notes=notes)


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
    if seal is None:
        return [Finding("log-truncated", LOG, "the entry that tells of run.json is gone")]
    if not is_sealed_by(seal, content):
        return [Finding("record-changed", RECORD, "was changed after the run was sealed")]
    if seal.prev != record.log.head:
        return [Finding("log-rewritten", LOG, "the chain is not the one that run.json tells of")]
    if not (starts and starts[-1].data.get("uuid") == record.uuid):
        return [Finding("log-foreign", LOG, "is the log of another run")]
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
