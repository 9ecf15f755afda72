"""The run folder: layout, status, and changes that are whole or not at all.

Every change of `run.json` goes the same way (`RunFolder.update`): the new record and any new file
wait beside the old ones, the log gets an entry with the new record's digest, and only then they
take their places. `verify` explains why no byte can change unnoticed after that.
"""

from __future__ import annotations

import os
import shutil
import uuid as uuids
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import BaseModel, ValidationError

from safeedit.errors import IntegrityError, SafeEditError, UsageError
from safeedit.evidence.ledger import Ledger, workspace_of
from safeedit.evidence.ledger import record as point_at
from safeedit.runs.audit import AuditLog, Clock, Event, iso_time, utc_now
from safeedit.runs.chain import GENESIS, Entry
from safeedit.runs.keys import RunKey
from safeedit.runs.lock import LOCK, RunLock
from safeedit.runs.manifest import LOG, NEXT_PREFIX, list_files, next_path, record_of
from safeedit.runs.plain import check_plain
from safeedit.runs.record import FINAL, RECORD, SEALED, LogRecord, RunRecord, Verdict
from safeedit.runs.redact import Redactor
from safeedit.runs.resume import left_by
from safeedit.runs.seal import SEAL_KEY, current_record, read_record, recover
from safeedit.runs.vault import Vault
from safeedit.runs.verify import inspect_run
from safeedit.tensors.atomic import TEMP_PREFIX, atomic_write, flush_folder
from safeedit.tensors.places import make_folders, remove_folders, writable

ARTEFACTS = frozenset(
    {"probes.json", "patch", "report.html", "attestation.json", "vault", "model", "matcher.json"}
)
"""What a run may hold besides its record and its log; a restart removes just these."""

_UNFINISHED = frozenset({"interrupted", "log-half-line"})
_MERGED = frozenset({"digests", "seconds", "versions"})


class RunFolder:
    """One run on the disk. Made by `create` or `open`; a context manager that records how it ended."""

    def __init__(self, path: Path, record: RunRecord, clock: Clock, lock: RunLock | None) -> None:
        self.path, self._record, self._clock, self._lock = path, record, clock, lock

    def __repr__(self) -> str:
        return f"<RunFolder {self._record.id} {self._record.status}>"

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        run_id: str,
        *,
        restart: bool = True,
        clock: Clock = utc_now,
        uuid: str | None = None,
        **fields: object,
    ) -> RunFolder:
        """A new run, begun in the log and locked against every other process until `close`.

        Args:
            path: a folder that does not exist, is empty, or holds a run of the same policy that did
                not come to its end; of that one only the log stays, and what its edit had found (`resume`).
            run_id: the policy's id.
            restart: whether such an unfinished run may be replaced.
            clock: gives the time for log and record.
            uuid: the run's own id; random by default.
            fields: further fields of `RunRecord` (model, seed, device, dtype, versions, editor, ...).

        Raises:
            UsageError: the folder holds something else or a finished run, is in use, or cannot be written.
            IntegrityError: it holds an unfinished run whose log was tampered with.
        """
        folder = Path(path)
        started = iso_time(clock())
        own = uuid or str(uuids.uuid4())
        record = _record(id=run_id, uuid=own, started=started, log=_log_record(()), **fields)
        with writable(folder, "give a folder that you can write in with --out"):
            made = _make(folder)
            lock = RunLock(folder)
        run = cls(folder, record, clock, lock)
        try:
            earlier = _earlier(folder, run_id, restart)
            found = left_by(folder, earlier.uuid) if earlier is not None else {}
            _clear(folder, earlier, clock)
            run._begin(earlier)
            for name, value in found.items():
                run.vault.put_bytes(name, value)
        except BaseException:
            # Once its log has an entry the ledger may tell of the run, which must then not be missing.
            if made and not ((folder / LOG).is_file() and (folder / LOG).stat().st_size):
                shutil.rmtree(folder)
                remove_folders(made)
            lock.release()
            raise
        return run

    @classmethod
    def open(cls, path: str | os.PathLike[str], clock: Clock = utc_now) -> RunFolder:
        """An existing run, as its record tells; nothing is checked (`verify_run` does) or locked.

        Raises:
            UsageError: there is no run at `path`.
            IntegrityError: its record cannot be read.
        """
        folder = Path(path)
        if not any((folder / name).is_file() for name in (RECORD, LOG)):
            raise UsageError(
                f"{folder} is no run: it has no {RECORD}; give a folder that a run was written to"
            )
        record = current_record(folder)
        if record is None:
            raise IntegrityError(f"{folder}: {RECORD} is missing or is not the record of a run")
        return cls(folder, record, clock, None)

    @property
    def record(self) -> RunRecord:
        """The content of `run.json`."""
        return self._record

    @property
    def log(self) -> AuditLog:
        """The run's log, for reading; `note` and `update` write it."""
        return AuditLog.open(self.path / LOG, self._clock)

    @property
    def vault(self) -> Vault:
        """The run's encrypted entries; write to a finished run's by `update`."""
        return Vault.open(self.path, self._record.uuid)

    @property
    def redactor(self) -> Redactor:
        """The run's keyed digests.

        Raises:
            KeyMissingError: the run's key was destroyed, or is not on this machine.
        """
        return Redactor(RunKey.load(self._record.uuid).derive("digest"))

    def note(self, event: Event, /, **data: object) -> Entry:
        """One more entry in the log of an unfinished run; the record stays as it is.

        Raises:
            FreeTextError: `data` holds something that could be personal.
        """
        if self._record.status in SEALED:
            raise UsageError("the run is sealed; its log grows only together with its record (update)")
        with self._held():
            entry = self.log.append(event, **data)
            point_at(self.path, clock=self._clock)
        return entry

    def update(
        self,
        event: Event,
        data: Mapping[str, object] | None = None,
        *,
        files: Mapping[str, bytes] | None = None,
        **changes: Any,
    ) -> RunRecord:
        """Change the record, write the event into the log, and bind the two together.

        Killed at any moment, the run is as before, or `recover` (which every later change calls)
        completes the change.

        Args:
            event: what happened.
            data: the event's data, plain values only.
            files: new content of files of a sealed run, by path inside the run.
            changes: fields of `RunRecord` and their new values; what is given for `digests`,
                `seconds` and `versions` is added to what is there. With a status out of `SEALED`,
                every file of the folder is listed in the record.

        Raises:
            FreeTextError: data or changes hold something that could be personal.
            IntegrityError: the run was sealed and does not verify; it is left alone.
        """
        with self._held():
            recover(self.path, self._clock)
            self._record = current_record(self.path) or self._record
            sealed = self._record.status in SEALED
            if sealed:
                self._refuse_unsound()
            entries = self.log.entries()
            fresh = _checked_names(files or {})
            before = self._record.model_dump()
            for name in _MERGED & changes.keys():
                changes[name] = {**before[name], **changes[name]}
            record = _record(**{**before, **changes, "log": _log_record(entries)})
            if record.status in SEALED:
                listed = dict(self._record.files) if sealed else list_files(self.path)
                listed |= {name: record_of(content) for name, content in fresh.items()}
                record = record.model_copy(update={"files": dict(sorted(listed.items()))})
            elif sealed or fresh:
                raise ValueError(
                    "a sealed run stays sealed; the files of one that is not are written directly"
                )
            self._seal(event, data or {}, record, fresh)
        return record

    def finish(self, verdict: Verdict, grade: str | None, exit_code: int, **changes: Any) -> RunRecord:
        """The run came to its end: list every file, record the verdict, close the log."""
        return self.update(
            "run.finished",
            {"verdict": verdict, "grade": grade, "exit_code": exit_code},
            status="finished",
            verdict=verdict,
            grade=grade,
            exit_code=exit_code,
            finished=iso_time(self._clock()),
            **changes,
        )

    def abort(self, error: BaseException) -> RunRecord:
        """The run did not come to its end: record as what, by the error's type and never its text."""
        interrupted = not isinstance(error, Exception)
        return self.update(
            "run.interrupted" if interrupted else "run.failed",
            {"error": type(error).__name__},
            status="interrupted" if interrupted else "failed",
            verdict=None if interrupted else "ERROR",
            exit_code=None if interrupted else error.exit_code if isinstance(error, SafeEditError) else 4,
            finished=iso_time(self._clock()),
        )

    def recover(self) -> bool:
        """Complete, or take back, a change that was killed in the middle; whether there was one."""
        with self._held():
            found = recover(self.path, self._clock)
            self._record = current_record(self.path) or self._record
            torn = self._record.status in SEALED and self.log.half_line
        if torn:
            self.update("run.recovered")
        return found or torn

    def close(self) -> None:
        """Let other processes have the run."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is not None and self._record.status not in SEALED:
                try:
                    self.abort(error)
                except (OSError, SafeEditError) as second:
                    # What ended the run matters more than that it could not be recorded.
                    error.add_note(f"the run could not be marked as failed: {type(second).__name__}")
        finally:
            self.close()

    def _begin(self, earlier: RunRecord | None) -> None:
        has_log = (self.path / LOG).exists()
        entries = self.log.entries() if has_log else ()
        self._record = self._record.model_copy(update={"log": _log_record(entries)})
        # The waiting record comes first and names the uuid, so that a kill cannot orphan log or key.
        atomic_write(next_path(self.path / RECORD), self._record.to_bytes())
        if not has_log:
            AuditLog.create(self.path / LOG)
        Vault.create(self.path, self._record.uuid)
        data: dict[str, object] = {"id": self._record.id, "uuid": self._record.uuid}
        ledger = Ledger.of(workspace_of(self.path), self._clock)
        data["ledger"] = ledger.begin() if ledger.possible else None
        data["key"] = RunKey.load(self._record.uuid).commitment
        if earlier is not None:
            data |= {"previous": earlier.uuid, "previous_status": earlier.status}
            data["previous_key_is_here"] = RunKey.exists(earlier.uuid)
        try:
            self._seal("run.restarted" if entries else "run.started", data, self._record, {})
        except BaseException:
            self.vault.shred()
            raise

    def _seal(
        self, event: Event, data: Mapping[str, object], record: RunRecord, files: Mapping[str, bytes]
    ) -> None:
        content = record.to_bytes()
        check_plain(data, "data")
        try:
            atomic_write(next_path(self.path / RECORD), content)
            for name, new in files.items():
                (self.path / name).parent.mkdir(parents=True, exist_ok=True)
                atomic_write(next_path(self.path / name), new)
            self.log.append(event, **{**data, SEAL_KEY: record_of(content).sha256})
        finally:
            recover(self.path, self._clock)
        self._record = record

    def _refuse_unsound(self) -> None:
        found = [one for one in inspect_run(self.path).findings if one.code not in _UNFINISHED]
        if found:
            raise IntegrityError(
                f"{self.path}: the run does not verify, so nothing is added to it; {found[0]}"
                + (f" (and {len(found) - 1} more: safeedit verify)" if len(found) > 1 else "")
            )

    @contextmanager
    def _held(self) -> Iterator[None]:
        if self._lock is not None:
            yield
            return
        lock = RunLock(self.path)
        try:
            yield
        finally:
            lock.release()


def _log_record(entries: Sequence[Entry]) -> LogRecord:
    return LogRecord(length=len(entries), head=entries[-1].hash if entries else GENESIS)


def _record(**fields: Any) -> RunRecord:
    plain = {k: v.model_dump() if isinstance(v, BaseModel) else v for k, v in fields.items()}
    check_plain({name: value for name, value in plain.items() if name != "files"}, "run")
    try:
        return RunRecord.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "run"
        raise UsageError(f"{where} cannot stand in {RECORD}: {first['msg']}") from None


def _make(folder: Path) -> tuple[Path, ...]:
    """Make the folder, unless it is there and may be a run; what was made, the innermost first."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UsageError(f"{folder} is no folder; give a new folder for the run")
    if not folder.exists():
        return make_folders(folder)
    # A kill can leave a lock, temporary files and an empty log before there is any record.
    names = {path.name for path in folder.iterdir() if not path.name.startswith(TEMP_PREFIX)} - {LOCK}
    if LOG in names and not (folder / LOG).stat().st_size:
        names.remove(LOG)
    is_run = not names.isdisjoint((RECORD, next_path(Path(RECORD)).name))
    foreign = [name for name in names - {RECORD, LOG} - ARTEFACTS if not name.startswith(NEXT_PREFIX)]
    if foreign or (names and not is_run):
        raise UsageError(f"{folder} is not empty and holds more than a run; give a new folder for the run")
    return ()


def _earlier(folder: Path, run_id: str, restart: bool) -> RunRecord | None:
    """The unfinished run in the folder, if there is one that may be replaced."""
    record = current_record(folder)
    if record is None:
        if (folder / RECORD).exists():
            raise IntegrityError(f"{folder}: {RECORD} is not the record of a run; give a new folder")
        return None
    if record.status in FINAL:
        raise UsageError(f"{folder} already holds a finished run of {record.id}; give a new folder")
    if record.id != run_id:
        raise UsageError(f"{folder} holds an unfinished run of {record.id}; give a new folder")
    if not restart:
        raise UsageError(f"{folder} holds an unfinished run; restart it, or give a new folder")
    return record


def _clear(folder: Path, earlier: RunRecord | None, clock: Clock) -> None:
    """Remove all that an unfinished run left, its key included, but not its log."""
    waiting = next_path(folder / RECORD)
    if earlier is not None:
        found = {finding.code for finding in inspect_run(folder).findings} - {"log-half-line"}
        if any(code.startswith(("record-", "log-")) for code in found):
            raise IntegrityError(f"{folder}: the unfinished run does not verify; give a new folder")
    left = read_record(waiting.read_bytes()) if waiting.is_file() else None
    for record in (earlier, left):
        if record is not None:
            RunKey.shred(record.uuid)
    for name in sorted(ARTEFACTS):
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    # Last, because a waiting record is what tells the next attempt whose folder this is.
    recover(folder, clock)
    flush_folder(folder)


def _checked_names(files: Mapping[str, bytes]) -> dict[str, bytes]:
    for name in files:
        parts = Path(name).parts
        if not parts or parts[0] not in ARTEFACTS or ".." in parts or Path(name).as_posix() != name:
            raise ValueError("a file of a run is named by its path inside the run, below one of ARTEFACTS")
    return dict(files)
