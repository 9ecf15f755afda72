"""How `run.json` and the log are bound to each other, and what a kill in between leaves.

The new record waits beside the old one (`next_path`), with the new content of any other file. Then
the log gets an entry with the digest of the waiting record, and what waits takes its place, the
record last. A kill before the entry leaves the old state and some rubbish; a kill after it leaves a
change that only has to be completed. `recover` tells them apart by the log.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from safeedit.errors import IntegrityError
from safeedit.evidence.ledger import record as point_at
from safeedit.runs.chain import Entry, read_lines
from safeedit.runs.chainfile import Clock, utc_now
from safeedit.runs.manifest import LOG, NEXT_PREFIX, next_path
from safeedit.runs.record import RECORD, RunRecord
from safeedit.tensors.atomic import flush_folder, sweep

SEAL_KEY = "run_json"
"""Where a closing entry's data hold the digest of the record's bytes."""


def read_record(content: bytes) -> RunRecord | None:
    """The record that `content` holds; None where it holds none."""
    try:
        return RunRecord.model_validate_json(content)
    except ValidationError:
        return None


def sound_entries(log: bytes) -> list[Entry]:
    """The entries of a log whose own hash is right, in the order of the file."""
    return [line.entry for line in read_lines(log)[0] if line.entry and line.sound]


def last_seal(entries: Sequence[Entry]) -> Entry | None:
    """The last entry that tells of a record."""
    return next((entry for entry in reversed(entries) if SEAL_KEY in entry.data), None)


def is_sealed_by(entry: Entry | None, content: bytes) -> bool:
    """Whether `entry` is the one that tells of a record with these bytes."""
    return entry is not None and entry.data.get(SEAL_KEY) == hashlib.sha256(content).hexdigest()


def current_record(folder: Path) -> RunRecord | None:
    """The record that the log tells of, the waiting one where its turn has come; None if it is unreadable."""
    waiting, placed = next_path(folder / RECORD), folder / RECORD
    if waiting.is_file():
        content = waiting.read_bytes()
        if is_sealed_by(_last_seal(folder), content):
            return read_record(content)
    return read_record(placed.read_bytes()) if placed.is_file() else None


def recover(folder: Path, clock: Clock = utc_now) -> bool:
    """Complete a change that the log tells of, take back one that it does not; whether there was any.

    Temporary files are removed too. Nobody else may be writing the run.

    Raises:
        IntegrityError: the log tells of a waiting record that cannot be read.
    """
    waiting = next_path(folder / RECORD)
    swept = sweep(folder)
    if not waiting.is_file():
        return swept > 0
    content = waiting.read_bytes()
    complete = is_sealed_by(_last_seal(folder), content)
    record = read_record(content) if complete else None
    if complete and record is None:
        raise IntegrityError(f"{folder}: the record that waits to become {RECORD} cannot be read")
    if complete:
        # While the record waits, a kill is told from a ledger whose end was taken away.
        point_at(folder, clock=clock)
    for path in sorted(folder.rglob(f"{NEXT_PREFIX}*")):
        target = path.with_name(path.name.removeprefix(NEXT_PREFIX))
        if path == waiting:
            continue
        if record is not None and target.relative_to(folder).as_posix() in record.files:
            os.replace(path, target)
        else:
            path.unlink()
        flush_folder(path.parent)
    # The record comes last: while it waits, a kill leaves something to recover from.
    if complete:
        os.replace(waiting, folder / RECORD)
    else:
        waiting.unlink()
    flush_folder(folder)
    return True


def _last_seal(folder: Path) -> Entry | None:
    log = folder / LOG
    return last_seal(sound_entries(log.read_bytes())) if log.is_file() else None
