"""An edit that was cut short goes on: what it had found is in the run's vault until the edit is done.

Whether something may be taken is told by a digest of all that it depends on (`safeedit.editors.journal`)
and, here, of the model, the machine's arithmetic and the versions. So what comes out is bit for bit what an
edit in one go gives; what has changed in between is simply done again.

Of what loops had reached, the newest alone is kept: for a training that is what it changes in full precision
and two moments of each number; for a search of masks a score, a momentum and a bit of each weight. What
parts of an edit came to (values, side memories) stays until the edit ends.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from safeedit.canonical import canonical_json
from safeedit.errors import SafeEditError
from safeedit.runs import bundles
from safeedit.runs.vault import Vault

if TYPE_CHECKING:
    from safeedit.editors.journal import State

PREFIX = "edit-"
"""What the names of the entries begin with."""
EVERY = 10.0
"""Seconds of work that may be lost, at least ..."""
REST = 9.0
"""... and times as long as the last writing took: of an edit's time, no more than a tenth goes into it."""

Left = Mapping[str, bytes]
"""Entries of a vault by name, those that others need first."""


def left_by(folder: Path, uuid: str) -> Left:
    """What an unfinished run has found, in its vault; nothing where that cannot be read."""
    vault = Vault.open(folder, uuid)
    found = {}
    try:
        # A bundle's first entry comes last: without it the others are nothing.
        for name in reversed(vault.names()):
            if name.startswith(PREFIX):
                found[name] = vault.get_bytes(name)
    except (SafeEditError, ValueError):
        return {}
    return found


@contextmanager
def resumable(vault: Vault, about: Mapping[str, object]) -> Iterator[None]:
    """Let an edit in the block take what `vault` has, and keep what it finds there until it ends well.

    Args:
        vault: that of the run.
        about: what the work depends on beside what it is given, as JSON values.
    """
    from safeedit.editors.journal import JOURNAL

    journal = _Journal(vault, about)
    token = JOURNAL.set(journal)
    try:
        yield
    except BaseException:
        journal.write()
        raise
    else:
        journal.discard()
    finally:
        JOURNAL.reset(token)


def arithmetic(device: str) -> dict[str, object]:
    """What the last bits of a result depend on, on this machine."""
    import platform

    import torch

    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor()
    return {"device": device, "name": name, "machine": platform.machine(), "threads": torch.get_num_threads()}


class _Journal:
    """See `safeedit.editors.journal.Journal`."""

    def __init__(self, vault: Vault, about: Mapping[str, object]) -> None:
        self.vault, self.about = vault, hashlib.sha256(canonical_json(about)).hexdigest()
        entries = [name for name in vault.names() if name.startswith(PREFIX)]
        begun = {_bundle(entry) for entry in entries}
        self.count = 1 + max((int(name.rpartition("-")[2]) for name in begun), default=-1)
        names = sorted(begun.intersection(entries))
        for name in begun.difference(names):
            bundles.remove(vault, name)
        self.where = {key: name for name in names for key in bundles.keys(vault, name)}
        """The bundle that each key is in."""
        self.last = next((name for name in reversed(names) if name.startswith(_REACHED)), None)
        """The bundle with what a loop has reached."""
        self.opened: tuple[str, dict[str, State]] = ("", {})
        """The bundle that was read last: what was found together is asked for together."""
        self.fresh: dict[str, State] = {}
        self.full = False
        """Whether there was no room for more."""
        self.next = time.monotonic() + EVERY

    def found(self, key: str) -> State | None:
        """See `Journal`; what was noted is given once."""
        name = self.where.pop(self._key(key), None)
        if name is None:
            return None
        if self.opened[0] != name:
            self.opened = name, bundles.read(self.vault, name)
        return self.opened[1].pop(self._key(key))

    def note(self, key: str, state: State) -> None:
        """See `Journal`."""
        if not self.full:
            self.fresh[self._key(key)] = dict(state)
            if self.due():
                self.write()

    def due(self) -> bool:
        """See `Journal`."""
        return not self.full and time.monotonic() >= self.next

    def reached(self, key: str, state: State) -> None:
        """See `Journal`."""
        self.write()
        name = self._put(_REACHED, {self._key(key): state})
        if name is not None:
            before, self.last = self.last, name
            if before is not None:
                bundles.remove(self.vault, before)

    def write(self) -> None:
        """Put into the vault what was noted and is not there yet."""
        if self.fresh:
            self._put(_NOTED, self.fresh)
            self.fresh = {}

    def discard(self) -> None:
        """Take everything out of the vault: the patch says what was found."""
        # A bundle's first entry goes first, so that none is ever there by half.
        for entry in self.vault.names():
            if entry.startswith(PREFIX):
                self.vault.remove(entry)

    def _put(self, kind: str, states: Mapping[str, State]) -> str | None:
        """Write a bundle; its name, or None where the disk is full: that stops the notes and not the edit."""
        if self.full:
            return None
        begun, name = time.monotonic(), f"{kind}{self.count:06d}"
        self.count += 1
        try:
            bundles.write(self.vault, name, states)
        except OSError:
            self.full = True
            bundles.remove(self.vault, name)
            return None
        done = time.monotonic()
        self.next = done + max(EVERY, REST * (done - begun))
        return name

    def _key(self, key: str) -> str:
        return hashlib.sha256(f"{self.about}|{key}".encode()).hexdigest()


_NOTED, _REACHED = f"{PREFIX}noted-", f"{PREFIX}reached-"


def _bundle(entry: str) -> str:
    """The bundle that an entry belongs to."""
    return "-".join(entry.split("-")[:3])
