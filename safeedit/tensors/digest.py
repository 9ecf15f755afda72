"""What identifies weights and files: SHA-256 over their names, types, shapes and bytes.

Two models have the same digest exactly when their state dictionaries hold the same names with
bit-identical tensors, on whatever device they are. Names are part of the digest: the same bytes
under other names are another model.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from safeedit.errors import ModelError

if TYPE_CHECKING:
    import torch

_CHUNK_BYTES = 64 * 2**20
_MODEL_DOMAIN = b"safeedit:model:1\0"


def tensor_digest(tensor: torch.Tensor) -> str:
    """SHA-256, in hex, over the type, the shape and the little-endian bytes of `tensor`.

    Raises:
        ModelError: the tensor has no plain bytes here (on the meta device, sparse, quantised).
    """
    hasher = hashlib.sha256(f"{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
    for chunk in _chunks(tensor):
        hasher.update(chunk)
    return hasher.hexdigest()


def named_digests(
    model: torch.nn.Module | Mapping[str, torch.Tensor], threads: int | None = None
) -> dict[str, str]:
    """The digest of every tensor of the state dictionary, by name; tied tensors are hashed once.

    Buffers that a model does not save are not part of it.
    """
    tensors = _state(model)
    owner = {name: _identity(tensor) for name, tensor in tensors.items()}
    distinct = {owner[name]: tensor for name, tensor in tensors.items()}
    with ThreadPoolExecutor(threads or min(8, os.cpu_count() or 1)) as pool:
        found = dict(zip(distinct, pool.map(tensor_digest, distinct.values()), strict=True))
    return {name: found[owner[name]] for name in tensors}


def root_digest(digests: Mapping[str, str]) -> str:
    """One digest for tensors whose digests are known by name; the order does not matter."""
    hasher = hashlib.sha256(_MODEL_DOMAIN)
    for name in sorted(digests):
        if "\0" in name or "\n" in name:
            raise ModelError(f"tensor name {name!r} holds a control character")
        hasher.update(f"{name}\0{digests[name]}\n".encode())
    return hasher.hexdigest()


def model_digest(model: torch.nn.Module | Mapping[str, torch.Tensor], threads: int | None = None) -> str:
    """What identifies a model: one digest over the names, types, shapes and bytes of its state.

    Args:
        model: a module, or its tensors by name.
        threads: how many tensors are hashed at once; by default one a core, at most eight.

    Raises:
        ModelError: some state has no plain bytes here.
    """
    return root_digest(named_digests(model, threads))


def file_digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _state(model: torch.nn.Module | Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    import torch

    state = model.state_dict() if isinstance(model, torch.nn.Module) else dict(model)
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise ModelError(f"{name} of the model's state is no tensor, so the model has no digest")
    return state


def _identity(tensor: torch.Tensor) -> tuple[object, ...]:
    if not tensor.numel():
        return (id(tensor),)
    return (tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())


def _chunks(tensor: torch.Tensor) -> Iterator[memoryview]:
    import torch

    if tensor.is_meta or tensor.layout is not torch.strided or tensor.is_quantized:
        raise ModelError(f"a tensor of shape {tuple(tensor.shape)} has no plain bytes to digest")
    if sys.byteorder != "little":
        raise ModelError("digests of tensors need a little-endian machine")
    tensor = tensor.detach()
    if tensor.is_cpu and tensor.is_contiguous():
        yield _bytes(tensor)
        return
    # A strided or remote tensor is brought over a few rows at a time, never whole.
    rows = tensor if tensor.dim() else tensor.reshape(1)
    row_bytes = max(1, rows[:1].numel() * rows.element_size())
    step = max(1, _CHUNK_BYTES // row_bytes)
    for start in range(0, rows.shape[0], step):
        yield _bytes(rows[start : start + step].cpu().contiguous())


def _bytes(tensor: torch.Tensor) -> memoryview:
    import torch

    if tensor.is_conj() or tensor.is_neg():
        tensor = tensor.resolve_conj().resolve_neg()
    return tensor.reshape(-1).view(torch.uint8).numpy().data
