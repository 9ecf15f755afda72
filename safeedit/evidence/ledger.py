"""One log over all runs of a workspace, the folder that holds the run folders: `ledger.jsonl`.

A run's own log shows what was done in the run; the ledger shows which runs there were and in what
order, so that a run cannot be dropped, nor be put back to an earlier state, unnoticed. Each entry of
a run's log has a pointer here: the run's uuid, the length of its log, its head. `RunFolder` writes
them (`record`), whatever the event; nobody else has to.

The ledger is a chain like a run's log, over which a Merkle tree is laid: its head is what a
checkpoint signs, and an entry is shown to be in it by a few hashes, without the others.
"""

from __future__ import annotations

import os
import re
import uuid as uuids
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from safeedit.errors import IntegrityError, UsageError
from safeedit.evidence.merkle import MerkleTree, TreeHead
from safeedit.evidence.witness import forget, remember, remembered
from safeedit.runs.audit import EVENTS, AuditLog, Event
from safeedit.runs.chain import Entry, parse_entry
from safeedit.runs.chainfile import ChainFile, Clock, iso_time, utc_now
from safeedit.runs.manifest import LOG
from safeedit.tensors.atomic import TEMP_PREFIX, atomic_write, flush_folder

LEDGER = "ledger.jsonl"
BEGUN: Event = "ledger.begun"
PREVIOUS = "previous"
"""Where the first entry tells of the ledger that was here before, if this machine remembers one."""
RUN, LENGTH, HEAD = "run", "log_length", "log_head"
"""What a pointer's data hold: the run's uuid, the length and the head of its log."""

_ENTRY = re.compile(
    rb'\{"data":\{.*\},"event":"[a-z_.]+","hash":"[0-9a-f]{64}","prev":"[0-9a-f]{64}",'
    rb'"seq":(\d+),"time":"[^"\\]*"\}'
)


class Ledger(ChainFile):
    """The log of a workspace; appends by several processes wait for each other."""

    # Its hashes must not be those of a run's log over the same data.
    genesis: ClassVar[str] = "5afeed17" * 8

    def __init__(self, path: Path, clock: Clock = utc_now) -> None:
        super().__init__(path, clock)
        self._tree, self._read = MerkleTree(), 0

    def __repr__(self) -> str:
        return f"<Ledger of {len(self._tree)} entries>"

    @classmethod
    def of(cls, workspace: str | os.PathLike[str], clock: Clock = utc_now) -> Ledger:
        """The ledger of a workspace; its file is made when the first entry is appended."""
        return cls(Path(workspace) / LEDGER, clock)

    @property
    def exists(self) -> bool:
        """Whether there is one yet."""
        return self.path.is_file()

    @property
    def possible(self) -> bool:
        """Whether there is one, or its folder lets one be made: a run may lie in one that is not ours."""
        return self.exists or os.access(self.path.parent, os.W_OK)

    @property
    def uuid(self) -> str | None:
        """The ledger's own id, which its first entry tells; None where it has none that can be read."""
        if not self.exists:
            return None
        with self.path.open("rb") as stream:
            first = parse_entry(stream.readline().rstrip(b"\n"))
        return first.data.get("uuid") if first and first.event == BEGUN else None

    def begin(self) -> str:
        """The ledger's id; it is begun where there is none yet.

        Raises:
            IntegrityError: there is a file of its name that is no ledger.
        """
        self._begin()
        found = self.uuid
        if found is None:
            raise IntegrityError(f"{self.path} is not the ledger of a workspace; safeedit verify says why")
        return found

    def append(self, event: Event, /, run: str | None = None, **data: object) -> Entry:
        """Write one more entry and return it; on any error the ledger is as it was.

        Args:
            event: what happened.
            run: the uuid of the run that it happened to, if it was one.
            data: plain values only.

        Raises:
            FreeTextError: `data` holds something that could be personal.
            IntegrityError: the ledger's last entry was edited.
        """
        if event not in EVENTS:
            raise ValueError("unknown event; the vocabulary is safeedit.runs.audit.Event")
        self._begin()
        with self._locked() as handle:
            entry = self._append(handle, event, data if run is None else {**data, RUN: run})
            remember(self.path, str(self.uuid), entry)
        return entry

    def entries(self) -> tuple[Entry, ...]:
        """Every entry, in the order of the file; none where there is no ledger yet.

        Raises:
            IntegrityError: a line is no entry of a log; `verify` says which.
        """
        return super().entries() if self.exists else ()

    def head(self, size: int | None = None) -> TreeHead:
        """The tree's head over all entries, or over the first `size`.

        Raises:
            UsageError: there are not so many entries.
            IntegrityError: see `tree`.
        """
        tree = self.tree()
        return tree.head(_within(tree, size))

    def inclusion(self, index: int, size: int | None = None) -> list[str]:
        """The proof that entry `index` is in the tree of `size` entries; raises as `head` does."""
        tree = self.tree()
        size = _within(tree, size)
        if not 0 <= index < size:
            raise UsageError(f"entry {index} is not among the first {size} of the ledger")
        return tree.inclusion(index, size)

    def consistency(self, old: int, new: int | None = None) -> list[str]:
        """The proof that the first `old` entries are among the first `new`; raises as `head` does."""
        tree = self.tree()
        new = _within(tree, new)
        if not 0 < old <= new:
            raise UsageError(f"a proof leads from a size above 0 to {new}; {old} is none")
        return tree.consistency(old, new)

    def tree(self) -> MerkleTree:
        """The tree over all entries; only what was appended since the last call is read.

        Does not check the chain, which `verify` does.

        Raises:
            IntegrityError: a line is neither an entry nor the rest of one that a kill cut off.
        """
        if not self.exists:
            return self._tree
        if self.path.stat().st_size < self._read:
            raise IntegrityError(f"{self.path.name} has become shorter: entries were taken away")
        with self.path.open("rb") as stream:
            stream.seek(self._read)
            fresh = stream.read()
        whole = fresh[: fresh.rfind(b"\n") + 1]
        for line in whole.split(b"\n")[:-1]:
            found = _ENTRY.fullmatch(line)
            if found is None:
                if parse_entry(line) is not None:
                    raise IntegrityError(f"{self.path.name} has a line that no ledger has; safeedit verify")
                continue  # What a kill left; the next entry tells of it.
            if int(found[1]) != len(self._tree):
                raise IntegrityError(
                    f"{self.path.name}: entries are missing or out of order; safeedit verify"
                )
            self._tree.extend([line])
        self._read += len(whole)
        return self._tree

    def _begin(self) -> None:
        """Make the file with its first entry, whole, unless it is there: no ledger is ever empty."""
        if self.exists:
            if not self.path.stat().st_size:
                raise IntegrityError(f"{self.path} is empty, which no ledger is: its entries were taken away")
            return
        about: dict[str, object] = {"uuid": str(uuids.uuid4()), "format": "safeedit.ledger/1"}
        before = remembered(self.path)
        if before is not None:
            about[PREVIOUS] = asdict(before)
        first = Entry.after(None, iso_time(self._clock()), BEGUN, about, self.genesis)
        made = self.path.with_name(f"{TEMP_PREFIX}{about['uuid']}.jsonl")
        try:
            atomic_write(made, first.line() + b"\n")
            forget(self.path)
            # A link does not replace what another process may have made in the meantime.
            os.link(made, self.path)
            remember(self.path, first.data["uuid"], first)
        except FileExistsError:
            pass
        finally:
            made.unlink(missing_ok=True)
        flush_folder(self.path.parent)


def _within(tree: MerkleTree, size: int | None) -> int:
    if size is None:
        return len(tree)
    if not 0 <= size <= len(tree):
        raise UsageError(f"the ledger has {len(tree)} entries; there was no time when it had {size}")
    return size


def record(folder: Path, event: Event | None = None, clock: Clock = utc_now, **data: object) -> Entry | None:
    """The ledger of the run's workspace points at the run's log as it is now; None where it did already.

    Called by `RunFolder` after every entry of a run's log.

    Args:
        folder: the run folder.
        event: what happened; what the last entry of the run's log says, by default.
        clock: gives the time.
        data: more that the pointer shall hold, plain values only.

    Raises:
        IntegrityError: the run's log or the ledger ends in an entry that was edited.
    """
    entries = AuditLog.open(folder / LOG).entries()
    starts = [entry for entry in entries if entry.event in ("run.started", "run.restarted")]
    if not starts:
        raise IntegrityError(f"{folder}: {LOG} does not say whose log it is")
    ledger, last = Ledger.of(workspace_of(folder), clock), entries[-1]
    if not ledger.possible or (
        ledger.exists and f'"{HEAD}":"{last.hash}"'.encode() in ledger.path.read_bytes()
    ):
        return None
    chosen: Any = event or last.event
    about = {**data, LENGTH: len(entries), HEAD: last.hash}
    return ledger.append(chosen, starts[-1].data.get("uuid"), **about)


def workspace_of(folder: Path) -> Path:
    """The folder that holds the run folder, whose ledger tells of the run."""
    return folder.resolve().parent
