"""An edit that was cut short goes on: values that were found are in the run's vault until the edit is done.

Whether a value that was found may be taken is told by a digest of all that its search depends on: the
prompts' states in the model as it then was, the goals, the settings, and, here, the model, the machine's
arithmetic and the versions. So what comes out is bit for bit what an edit in one go gives; what has
changed in between is simply searched again.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safeedit.canonical import canonical_json
from safeedit.errors import SafeEditError
from safeedit.runs.vault import Vault

if TYPE_CHECKING:
    from safeedit.editors.values import Values

PREFIX = "values-"
"""What the names of the entries begin with."""
EVERY = 10.0
"""Seconds of work that may be lost."""
_FIELDS = ("delta", "loss", "steps", "norm")

Left = Mapping[str, Any]
"""Entries of a vault by name."""


def left_by(folder: Path, uuid: str) -> Left:
    """The values that an unfinished run has in its vault; none where they cannot be read."""
    vault = Vault.open(folder, uuid)
    found = {}
    try:
        for name in vault.names():
            if name.startswith(PREFIX):
                found[name] = vault.get(name)
    except (SafeEditError, ValueError):
        return {}
    return found


@contextmanager
def resumable(vault: Vault, about: Mapping[str, object]) -> Iterator[None]:
    """Let searches in the block take what `vault` has, and keep what they find there until it ends well.

    Args:
        vault: that of the run.
        about: what searches depend on beside what they are given, as JSON values.
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
        self.names = [name for name in vault.names() if name.startswith(PREFIX)]
        self.known: dict[str, Any] = {}
        for name in self.names:
            self.known.update(vault.get(name))
        self.fresh: dict[str, Any] = {}
        self.last = time.monotonic()

    def found(self, state: str) -> Values | None:
        """The values that a search in this state has found before."""
        kept = self.known.pop(self._key(state), None)
        return None if kept is None else _values(kept)

    def note(self, state: str, values: Values) -> None:
        """A search in this state has found these."""
        self.fresh[self._key(state)] = _packed(values)
        if time.monotonic() - self.last >= EVERY:
            self.write()

    def write(self) -> None:
        """Put into the vault what is not there yet."""
        if self.fresh:
            name = f"{PREFIX}{len(self.names):06d}"
            self.vault.put(name, self.fresh)
            self.names.append(name)
        self.fresh, self.last = {}, time.monotonic()

    def discard(self) -> None:
        """Take everything out of the vault: the patch says what was found."""
        for name in self.names:
            self.vault.remove(name)

    def _key(self, state: str) -> str:
        return hashlib.sha256(f"{self.about}|{state}".encode()).hexdigest()


def _packed(values: Values) -> list[Any]:
    found: list[Any] = [list(values.delta.shape)]
    for name in _FIELDS:
        tensor = getattr(values, name).detach().cpu().contiguous()
        found.append(base64.b64encode(tensor.numpy().tobytes()).decode())
    return found


def _values(kept: list[Any]) -> Values:
    import torch

    from safeedit.editors.values import Values

    shape, *texts = kept
    found = []
    for name, text in zip(_FIELDS, texts, strict=True):
        dtype = torch.long if name == "steps" else torch.float32
        found.append(torch.frombuffer(bytearray(base64.b64decode(text)), dtype=dtype))
    return Values(found[0].view(*shape), *found[1:])
