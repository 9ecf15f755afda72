"""A hash-chained log in one file: append only, by several processes at once, whole after every kill."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from safeedit.errors import IntegrityError
from safeedit.runs.chain import GENESIS, REPAIRED, Entry, left_behind, read_line, read_lines, verify_chain
from safeedit.runs.findings import Finding
from safeedit.runs.plain import check_plain

_BLOCK = 1 << 16

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """The time now, in UTC."""
    return datetime.now(UTC)


def iso_time(moment: datetime) -> str:
    """`moment` in UTC as it is written in logs and records, to the millisecond."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class ChainFile:
    """One chain in one file; every append is on the disk when it returns."""

    genesis: ClassVar[str] = GENESIS
    """What the first entry continues; another one for every kind of log."""

    def __init__(self, path: Path, clock: Clock = utc_now) -> None:
        self.path, self._clock = path, clock

    def entries(self) -> tuple[Entry, ...]:
        """Every entry, in the order of the file; not what a kill left of one at the end.

        Raises:
            IntegrityError: a line is no entry of a log; `verify` says which.
        """
        lines, _ = read_lines(self.path.read_bytes())
        while lines and lines[-1].torn:
            lines.pop()
        found: list[Entry] = []
        for line in lines:
            if line.entry is None:
                raise IntegrityError(f"{self.path.name}: line {line.number} is no entry of a log")
            found.append(line.entry)
        return tuple(found)

    @property
    def half_line(self) -> bool:
        """Whether a kill left something at the end of which no entry tells yet."""
        lines, rest = read_lines(self.path.read_bytes())
        return bool(rest) or bool(lines and lines[-1].torn)

    def verify(self, length: int | None = None, head: str | None = None) -> list[Finding]:
        """Everything that is wrong with the chain, in the order of the file.

        Args:
            length: how many entries there must be at least, as recorded elsewhere.
            head: the hash that entry number `length` must have.
        """
        return verify_chain(self.path.read_bytes(), self.path.name, length, head, self.genesis)

    def _append(self, handle: int, event: str, data: Mapping[str, object]) -> Entry:
        """One more entry, for the process that holds the lock; on any error the file is as it was."""
        if REPAIRED in data:
            raise ValueError(f"{REPAIRED!r} is what the log itself says of a line that a kill left")
        check_plain(data, "data")
        size = os.fstat(handle).st_size
        last, junk, ended = self._tail(handle, size)
        full = {**data, REPAIRED: left_behind(junk)} if junk else data
        entry = Entry.after(last, iso_time(self._clock()), event, full, self.genesis)
        try:
            write_whole(handle, (b"" if ended else b"\n") + entry.line() + b"\n")
            os.fsync(handle)
        except BaseException:
            os.ftruncate(handle, size)
            raise
        return entry

    def _tail(self, handle: int, size: int) -> tuple[Entry | None, bytes, bool]:
        """The last sound entry, what a kill left after it, and whether the file ends with a line's end.

        Only the end of the file is read, however long the log is.

        Raises:
            IntegrityError: what follows the last sound entry is no rest of a half-written line.
        """
        block = _BLOCK
        while True:
            start = max(size - block, 0)
            content = os.pread(handle, size - start, start)
            *lines, rest = content.split(b"\n")
            left = [rest] if rest else []
            if rest and read_line(rest, 0).sound:
                return read_line(rest, 0).entry, b"", False
            # The first piece may be the end of a line that begins before the block.
            for line in reversed(lines if start == 0 else lines[1:]):
                found = read_line(line, 0)
                if found.sound:
                    return found.entry, b"\n".join(reversed(left)), not rest
                if not found.torn:
                    raise IntegrityError(
                        f"{self.path.name}: the last entry was edited, so nothing is added to it; "
                        "safeedit verify says which line it is"
                    )
                left.append(line)
            if start == 0:
                return None, b"\n".join(reversed(left)), not rest
            block *= 8

    @contextmanager
    def _locked(self) -> Iterator[int]:
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC
        handle = os.open(self.path, flags)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield handle
        finally:
            os.close(handle)


def write_whole(handle: int, data: bytes) -> None:
    """All of `data`, in as many writes as it takes."""
    while data:
        data = data[os.write(handle, data) :]
