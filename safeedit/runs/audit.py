"""Writing the log of a run: `audit.jsonl`, append only, one entry of the chain (`chain`) a line."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from safeedit.errors import IntegrityError
from safeedit.runs.chain import Entry, parse_entry, verify_chain
from safeedit.runs.findings import Finding
from safeedit.runs.plain import check_plain

Event = Literal[
    "run.started",
    "run.restarted",
    "policy.registered",
    "model.loaded",
    "conflicts.checked",
    "subjects.resolved",
    "probes.registered",
    "statistics.ready",
    "baseline.measured",
    "edit.started",
    "edit.made",
    "edit.refused",
    "probes.measured",
    "probes.repeated",
    "verdict.reached",
    "run.finished",
    "run.failed",
    "run.interrupted",
    "run.continued",
    "rollback.done",
    "vault.shredded",
    "report.written",
    "model.exported",
    "sensitive.shown",
    "sign_off.given",
    "sign_off.refused",
]
EVENTS = frozenset(get_args(Event))

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """The time now, in UTC."""
    return datetime.now(UTC)


def iso_time(moment: datetime) -> str:
    """`moment` in UTC as it is written in logs and records, to the millisecond."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class AuditLog:
    """The log in one file; every append is on the disk when it returns."""

    def __init__(self, path: Path, clock: Clock = utc_now) -> None:
        self.path, self._clock = path, clock

    @classmethod
    def create(cls, path: str | os.PathLike[str], clock: Clock = utc_now) -> AuditLog:
        """An empty log at `path`, where nothing may be yet."""
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
        return cls(Path(path), clock)

    @classmethod
    def open(cls, path: str | os.PathLike[str], clock: Clock = utc_now) -> AuditLog:
        """The log at `path`; `half_line` tells whether its last line was cut off by a kill."""
        log = cls(Path(path), clock)
        if not log.path.is_file():
            raise IntegrityError(f"{log.path.name} is missing")
        return log

    @property
    def half_line(self) -> int:
        """How many bytes of an unfinished last line there are; 0 after every append that returned."""
        content = self.path.read_bytes()
        return len(content) - (content.rfind(b"\n") + 1)

    def entries(self) -> tuple[Entry, ...]:
        """Every entry, in the order of the file.

        Raises:
            IntegrityError: a line is no entry of a log; `verify` says which.
        """
        found: list[Entry] = []
        *lines, rest = self.path.read_bytes().split(b"\n")
        if rest:
            raise IntegrityError(f"{self.path.name} ends in a half-written line")
        for number, line in enumerate(lines, start=1):
            entry = parse_entry(line)
            if entry is None:
                raise IntegrityError(f"{self.path.name}: line {number} is no entry of a log")
            found.append(entry)
        return tuple(found)

    def append(self, event: Event, /, **data: object) -> Entry:
        """Write one more entry and return it; on any error the log is as it was.

        Raises:
            FreeTextError: `data` holds something that could be personal.
            IntegrityError: the log ends in a half-written line.
        """
        if event not in EVENTS:
            raise ValueError("unknown event; the vocabulary is safeedit.runs.audit.Event")
        check_plain(data, "data")
        with self._locked() as handle:
            size = os.fstat(handle).st_size
            entries = self.entries()
            entry = Entry.after(entries[-1] if entries else None, iso_time(self._clock()), event, data)
            try:
                _write_whole(handle, entry.line() + b"\n")
                os.fsync(handle)
            except BaseException:
                os.ftruncate(handle, size)
                raise
        return entry

    def repair(self) -> int:
        """Cut off the last line where a kill left it half written; how many bytes went."""
        with self._locked() as handle:
            half = self.half_line
            if half:
                os.ftruncate(handle, os.fstat(handle).st_size - half)
                os.fsync(handle)
        return half

    def verify(self, length: int | None = None, head: str | None = None) -> list[Finding]:
        """Everything that is wrong with the chain, in the order of the file.

        Args:
            length: how many entries there must be at least, as recorded elsewhere.
            head: the hash that entry number `length` must have.
        """
        return verify_chain(self.path.read_bytes(), self.path.name, length, head)

    @contextmanager
    def _locked(self) -> Iterator[int]:
        handle = os.open(self.path, os.O_RDWR | os.O_APPEND)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield handle
        finally:
            os.close(handle)


def _write_whole(handle: int, data: bytes) -> None:
    while data:
        data = data[os.write(handle, data) :]
