"""The hash chain of a run's log, and what can be told from it.

Entry i is bound to all before it: hash_i = SHA-256(0x02 || hash_(i-1) || canonical(entry_i without
its hash)); the leading byte keeps these hashes apart from others over the same data. The chain
shows that an entry was edited, dropped or moved. A log that lost its end, or was rewritten as a
whole, is found only by a head that is recorded elsewhere (run.json, or a signature).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from safeedit.canonical import canonical_json
from safeedit.runs.findings import Finding

GENESIS = "0" * 64
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
    def after(cls, last: Entry | None, time: str, event: str, data: Mapping[str, object]) -> Entry:
        """The entry that continues the chain after `last`, or begins it."""
        seq, prev = (last.seq + 1, last.hash) if last else (0, GENESIS)
        draft = cls(seq, time, event, json.loads(canonical_json(data)), prev, "")
        return cls(seq, time, event, draft.data, prev, draft.expected_hash())

    def body(self) -> dict[str, Any]:
        """All that the hash is over."""
        return {"seq": self.seq, "time": self.time, "event": self.event, "data": self.data, "prev": self.prev}

    def expected_hash(self) -> str:
        """The hash that an entry with this body has."""
        return hashlib.sha256(b"\x02" + bytes.fromhex(self.prev) + canonical_json(self.body())).hexdigest()

    def line(self) -> bytes:
        """The bytes of the entry in the log, without the line's end."""
        return canonical_json({**self.body(), "hash": self.hash})


def parse_entry(line: bytes) -> Entry | None:
    """The entry that `line` holds, whether or not its hash is right; None where it is none at all."""
    try:
        found = json.loads(line)
        canonical_json(found)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or found.keys() != _TYPES.keys():
        return None
    if not all(type(found[key]) is kind for key, kind in _TYPES.items()):
        return None
    if not (_HASH.fullmatch(found["prev"]) and _HASH.fullmatch(found["hash"])):
        return None
    return Entry(**found)


def verify_chain(
    content: bytes, file: str, length: int | None = None, head: str | None = None
) -> list[Finding]:
    """Everything that is wrong with a log.

    Args:
        content: the log's bytes.
        file: what the log is called in findings.
        length: how many entries there must be at least, as recorded elsewhere.
        head: the hash that entry number `length` must have, as recorded elsewhere.
    """
    findings: list[Finding] = []
    *lines, rest = content.split(b"\n")
    sound: list[Entry | None] = []
    stated: list[int | None] = []
    for number, line in enumerate(lines, start=1):
        entry = parse_entry(line)
        stated.append(entry.seq if entry else None)
        if entry is None:
            findings.append(Finding("log-bad-json", file, f"line {number} is no entry of a log"))
        elif entry.hash != entry.expected_hash() or entry.line() != line:
            findings.append(Finding("log-edited", file, f"line {number} was edited: its hash does not fit"))
            entry = None
        sound.append(entry)
    findings += _order(sound, file) + _gaps(sound, stated, file) + _links(sound, file)
    if rest:
        findings.append(
            Finding("log-half-line", file, "the last line is cut off in the middle, as a kill leaves it")
        )
    findings += _end(sound, file, length, head)
    return findings


def _order(sound: Sequence[Entry | None], file: str) -> list[Finding]:
    findings: list[Finding] = []
    seen: set[int] = set()
    highest = -1
    for number, entry in enumerate(sound, start=1):
        if entry is None:
            continue
        if entry.seq in seen:
            message = f"line {number} repeats entry {entry.seq}"
            findings.append(Finding("log-duplicated", file, message))
        elif entry.seq < highest:
            message = f"line {number} holds entry {entry.seq}, which belongs before entry {highest}"
            findings.append(Finding("log-reordered", file, message))
        seen.add(entry.seq)
        highest = max(highest, entry.seq)
    return findings


def _gaps(sound: Sequence[Entry | None], stated: Sequence[int | None], file: str) -> list[Finding]:
    present = sorted({entry.seq for entry in sound if entry})
    # An unreadable or edited line is reported as such, not also as one that is gone.
    accounted: set[int] = set()
    for index, entry in enumerate(sound):
        if entry is None:
            own = stated[index]
            accounted.add(index if own is None or own in present else own)
    findings: list[Finding] = []
    for before, after in pairwise([-1, *present]):
        gone = after - before - 1 - sum(before < seq < after for seq in accounted)
        if gone > 0:
            which = f"entry {before + 1} is" if after - before == 2 else f"{gone} before entry {after} are"
            findings.append(Finding("log-dropped", file, f"{which} gone"))
    return findings


def _links(sound: Sequence[Entry | None], file: str) -> list[Finding]:
    findings: list[Finding] = []
    by_seq = {entry.seq: entry for entry in sound if entry}
    for seq, entry in sorted(by_seq.items()):
        before = by_seq.get(seq - 1)
        prev = GENESIS if seq == 0 else before.hash if before else entry.prev
        if entry.prev != prev:
            message = f"entry {seq} does not continue the one before it: one of the two was replaced"
            findings.append(Finding("log-broken", file, message))
    return findings


def _end(sound: Sequence[Entry | None], file: str, length: int | None, head: str | None) -> list[Finding]:
    count = max([len(sound), *(entry.seq + 1 for entry in sound if entry)])
    if length is not None and count < length:
        gone = length - count
        message = f"the last {gone} {'entry is' if gone == 1 else 'entries are'} gone: the log was truncated"
        return [Finding("log-truncated", file, message)]
    for entry in sound:
        if entry and head is not None and entry.seq + 1 == length and entry.hash != head:
            return [
                Finding("log-rewritten", file, "the chain is whole, but is not the one that was recorded")
            ]
    return []
