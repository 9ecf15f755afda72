"""The hash chain of a log, and what can be told from it; a run's log and a workspace's ledger are two uses.

Entry i is bound to all before it: hash_i = SHA-256(0x02 || hash_(i-1) || canonical(entry_i without
its hash)); the leading byte keeps these hashes apart from others over the same data, and each kind
of log begins with a hash of its own. The chain shows that an entry was edited, dropped or moved. A
log that lost its end, or was rewritten as a whole, is found only by a head that is recorded
elsewhere (run.json, the ledger, or a signature).

What a kill left of a half-written line is never removed: the next entry says how many bytes it is
and what their digest is, so that even a repair rewrites nothing and can itself be checked.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

from safeedit.canonical import canonical_json
from safeedit.runs.findings import Finding

GENESIS = "0" * 64
REPAIRED = "repaired"
"""Where an entry's data say what a kill had left before it."""
CLOCK_TOLERANCE_S = 60.0
"""Clocks that are set by a server, or belong to several machines, differ by less than this."""
_HASH = re.compile(r"[0-9a-f]{64}")
_TYPES = {"seq": int, "time": str, "event": str, "data": dict, "prev": str, "hash": str}


@dataclass(frozen=True)
class Entry:
    """One line of the log."""

    seq: int
    """Counted from 0."""
    time: str
    event: str
    data: dict[str, Any]
    prev: str
    hash: str

    @classmethod
    def after(
        cls, last: Entry | None, time: str, event: str, data: Mapping[str, object], genesis: str = GENESIS
    ) -> Entry:
        """The entry that continues the chain after `last`, or begins it."""
        seq, prev = (last.seq + 1, last.hash) if last else (0, genesis)
        draft = cls(seq, time, event, json.loads(canonical_json(data)), prev, "")
        return cls(seq, time, event, draft.data, prev, draft.expected_hash())

    def body(self) -> dict[str, Any]:
        """All that the hash is over."""
        return {"seq": self.seq, "time": self.time, "event": self.event, "data": self.data, "prev": self.prev}

    def expected_hash(self) -> str:
        """The hash that an entry with this body has."""
        return _chained(self.prev, canonical_json(self.body()))

    def line(self) -> bytes:
        """The bytes of the entry in the log, without the line's end."""
        return canonical_json({**self.body(), "hash": self.hash})


@dataclass(frozen=True)
class Line:
    """One line of a log, as it was found."""

    number: int
    """Counted from 1."""
    content: bytes
    entry: Entry | None
    """What it says, whether or not its hash is right; None where it is no entry at all."""
    sound: bool
    """Whether its hash is right and its bytes are the canonical ones."""

    @property
    def torn(self) -> bool:
        """Whether a kill can have left it: the beginning of an entry is no JSON value."""
        if self.entry is not None:
            return False
        try:
            json.loads(self.content)
        except ValueError:
            return True
        except RecursionError:
            pass
        return False


def parse_entry(line: bytes) -> Entry | None:
    """The entry that `line` holds, whether or not its hash is right; None where it is none at all."""
    return read_line(line, 1).entry


def read_line(content: bytes, number: int) -> Line:
    """A line of a log, read once: what it says, and whether its hash and every byte of it are right."""
    try:
        found = json.loads(content)
        canonical = canonical_json(found)
    except (ValueError, RecursionError):
        return Line(number, content, None, False)
    if not _has_shape(found):
        return Line(number, content, None, False)
    entry = Entry(**found)
    # Keys are sorted and quotes within values escaped: the last `"hash":"` is the entry's own.
    before, _, after = canonical.rpartition(b'"hash":"')
    body = before + after[64 + len('",') :]
    sound = canonical == content and entry.hash == _chained(entry.prev, body)
    return Line(number, content, entry, sound)


def read_lines(content: bytes) -> tuple[list[Line], bytes]:
    """The lines of a log, without what kills left and later entries tell of; and what stands in no line.

    A last entry that is whole but for the line's end counts as written, and is in both.
    """
    *whole, rest = content.split(b"\n")
    lines = [read_line(line, number) for number, line in enumerate(whole, start=1)]
    if rest:
        last = read_line(rest, len(lines) + 1)
        lines += [last] if last.sound else []
    told = _told_of(lines)
    lines = [line for line in lines if line.number not in told]
    while rest and lines and lines[-1].torn:
        rest = lines.pop().content + b"\n" + rest
    return lines, rest


def left_behind(junk: bytes) -> dict[str, object]:
    """What an entry says of the bytes of a half-written line before it."""
    return {"bytes": len(junk), "sha256": hashlib.sha256(junk).hexdigest()}


def verify_chain(
    content: bytes, file: str, length: int | None = None, head: str | None = None, genesis: str = GENESIS
) -> list[Finding]:
    """Everything that is wrong with a log.

    Args:
        content: the log's bytes.
        file: what the log is called in findings.
        length: how many entries there must be at least, as recorded elsewhere.
        head: the hash that entry number `length` must have, as recorded elsewhere.
        genesis: what the first entry continues.
    """
    return verify_lines(*read_lines(content), file, length, head, genesis)


def verify_lines(
    lines: Sequence[Line],
    rest: bytes,
    file: str,
    length: int | None = None,
    head: str | None = None,
    genesis: str = GENESIS,
) -> list[Finding]:
    """As `verify_chain`, of lines that were read before (`read_lines`)."""
    findings: list[Finding] = []
    for line in lines:
        if line.entry is None:
            findings.append(Finding("log-bad-json", file, f"line {line.number} is no entry of a log"))
        elif not line.sound:
            message = f"line {line.number} was edited: its hash does not fit"
            findings.append(Finding("log-edited", file, message))
    sound = [line for line in lines if line.sound]
    findings += [*_order(sound, file), *_gaps(lines, file), *_links(sound, file, genesis)]
    findings += _clock(sound, file)
    if rest:
        findings.append(
            Finding("log-half-line", file, "the last line is cut off in the middle, as a kill leaves it")
        )
    findings += _end(lines, file, length, head)
    return findings


def _has_shape(found: object) -> bool:
    return (
        isinstance(found, dict)
        and found.keys() == _TYPES.keys()
        and all(type(found[key]) is kind for key, kind in _TYPES.items())
        and bool(_HASH.fullmatch(found["prev"]) and _HASH.fullmatch(found["hash"]))
    )


def _chained(prev: str, body: bytes) -> str:
    return hashlib.sha256(b"\x02" + bytes.fromhex(prev) + body).hexdigest()


def _told_of(lines: Sequence[Line]) -> set[int]:
    """The numbers of the lines that a kill left half written and that the next entry tells of."""
    told: set[int] = set()
    pending: list[Line] = []
    for line in lines:
        if line.entry is None:
            pending.append(line)
            continue
        if pending and line.sound:
            junk = b"\n".join(one.content for one in pending)
            if line.entry.data.get(REPAIRED) == left_behind(junk):
                told |= {one.number for one in pending}
        pending = []
    return told


def _order(sound: Sequence[Line], file: str) -> list[Finding]:
    findings: list[Finding] = []
    seen: set[int] = set()
    highest = -1
    for line in sound:
        assert line.entry is not None
        seq = line.entry.seq
        if seq in seen:
            findings.append(Finding("log-duplicated", file, f"line {line.number} repeats entry {seq}"))
        elif seq < highest:
            message = f"line {line.number} holds entry {seq}, which belongs before entry {highest}"
            findings.append(Finding("log-reordered", file, message))
        seen.add(seq)
        highest = max(highest, seq)
    return findings


def _gaps(lines: Sequence[Line], file: str) -> list[Finding]:
    present = {line.entry.seq for line in lines if line.entry and line.sound}
    # An unreadable or edited line is reported as such, not also as one that is gone.
    accounted: set[int] = set()
    for index, line in enumerate(lines):
        if not line.sound:
            own = line.entry.seq if line.entry else None
            accounted.add(index if own is None or own in present else own)
    findings: list[Finding] = []
    for before, after in pairwise([-1, *sorted(present)]):
        gone = after - before - 1
        if gone:
            gone -= sum(before < seq < after for seq in accounted)
        if gone > 0:
            which = f"entry {before + 1} is" if after - before == 2 else f"{gone} before entry {after} are"
            findings.append(Finding("log-dropped", file, f"{which} gone"))
    return findings


def _links(sound: Sequence[Line], file: str, genesis: str) -> list[Finding]:
    findings: list[Finding] = []
    by_seq = {line.entry.seq: line.entry for line in sound if line.entry}
    for seq, entry in sorted(by_seq.items()):
        before = by_seq.get(seq - 1)
        prev = genesis if seq == 0 else before.hash if before else entry.prev
        if entry.prev != prev:
            message = f"entry {seq} does not continue the one before it: one of the two was replaced"
            findings.append(Finding("log-broken", file, message))
    return findings


def _clock(sound: Sequence[Line], file: str) -> list[Finding]:
    findings: list[Finding] = []
    before: tuple[int, datetime] | None = None
    for seq, entry in sorted({line.entry.seq: line.entry for line in sound if line.entry}.items()):
        try:
            time = datetime.fromisoformat(entry.time)
            back = (before[1] - time).total_seconds() if before else 0
        except (ValueError, TypeError):
            findings.append(Finding("clock-unreadable", file, f"the time of entry {seq} cannot be read"))
            continue
        if before and back > CLOCK_TOLERANCE_S:
            message = f"the clock was set back by {back:.0f} s between entry {before[0]} and entry {seq}"
            findings.append(Finding("clock-back", file, message))
        before = (seq, time)
    return findings


def _end(lines: Sequence[Line], file: str, length: int | None, head: str | None) -> list[Finding]:
    sound = [line.entry for line in lines if line.entry and line.sound]
    count = max([len(lines), *(entry.seq + 1 for entry in sound)])
    if length is not None and count < length:
        gone = length - count
        message = f"the last {gone} {'entry is' if gone == 1 else 'entries are'} gone: the log was truncated"
        return [Finding("log-truncated", file, message)]
    for entry in sound:
        if head is not None and entry.seq + 1 == length and entry.hash != head:
            return [
                Finding("log-rewritten", file, "the chain is whole, but is not the one that was recorded")
            ]
    return []
