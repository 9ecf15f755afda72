"""States of an edit in a vault: tensors of any size, in entries that are small.

A bundle is one entry that says what there is, as JSON, and as many as it takes with the tensors' bytes.
The first is written last and removed first, so that a bundle is there whole or not at all, and no more of
it than one entry's bytes is in memory beside the tensors themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from safeedit.errors import IntegrityError
from safeedit.runs.vault import Vault

if TYPE_CHECKING:
    from torch import Tensor

    from safeedit.editors.journal import State

PART = 16 * 2**20
"""Bytes of one entry, at most; encrypting one takes four times as much."""


def write(vault: Vault, name: str, states: Mapping[str, State]) -> None:
    """Put states into a vault as the bundle `name`."""
    from torch import Tensor

    index: dict[str, Any] = {}
    tensors: list[Tensor] = []
    for key, state in states.items():
        index[key] = {}
        for field, value in state.items():
            if isinstance(value, Tensor):
                tensors.append(value)
                index[key][field] = [str(value.dtype).removeprefix("torch."), list(value.shape)]
            else:
                index[key][field] = value
    count = 0
    for part in _cut(tensors):
        vault.put_bytes(f"{name}-{count:06d}", part)
        count += 1
    vault.put(name, {"parts": count, "states": index})


def keys(vault: Vault, name: str) -> tuple[str, ...]:
    """By what the states of a bundle are found."""
    return tuple(vault.get(name)["states"])


def read(vault: Vault, name: str) -> dict[str, State]:
    """The states of a bundle; tensors are on the CPU.

    Raises:
        IntegrityError: it was changed.
    """
    import torch

    head = vault.get(name)
    stream = _Stream(vault, name, head["parts"])
    found: dict[str, State] = {}
    for key, fields in head["states"].items():
        state: dict[str, Tensor | int | float] = {}
        for field, value in fields.items():
            if isinstance(value, list):
                dtype, shape = value
                state[field] = stream.into(torch.empty(shape, dtype=getattr(torch, dtype)))
            else:
                state[field] = value
        found[key] = state
    return found


def remove(vault: Vault, name: str) -> None:
    """Take a bundle out, what is left of a half-written one included."""
    vault.remove(name)
    for entry in vault.names():
        if entry.startswith(f"{name}-"):
            vault.remove(entry)


def _plain(tensor: Tensor) -> memoryview:
    """The bytes of a tensor on the CPU."""
    import torch

    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _cut(tensors: Iterable[Tensor]) -> Iterator[bytes]:
    """The bytes of all tensors, one after another, in equal parts."""
    held = bytearray()
    for tensor in tensors:
        left = _plain(tensor.detach().cpu().contiguous())
        while left:
            taken = left[: PART - len(held)]
            held += taken
            left = left[len(taken) :]
            if len(held) == PART:
                yield bytes(held)
                held.clear()
    if held:
        yield bytes(held)


class _Stream:
    """What `_cut` made, read in the same order."""

    def __init__(self, vault: Vault, name: str, parts: int) -> None:
        self._parts = (vault.get_bytes(f"{name}-{number:06d}") for number in range(parts))
        self._held = memoryview(b"")

    def into(self, tensor: Tensor) -> Tensor:
        """Fill a new tensor: one of torch's own memory, so that nothing hangs on where bytes were read to."""
        left = _plain(tensor)
        while left:
            if not self._held:
                self._held = memoryview(next(self._parts, b""))
                if not self._held:
                    raise IntegrityError("what an unfinished edit had found is not whole in the vault")
            count = min(len(left), len(self._held))
            left[:count] = self._held[:count]
            left, self._held = left[count:], self._held[count:]
        return tensor
