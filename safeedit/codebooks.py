"""GRACE's memory: keys with radii, and the outputs that they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from safeedit.errors import EditorError
from safeedit.memory import Memory

CHUNK = 1024
"""Tokens whose nearest keys are looked up at a time, which bounds the memory that takes."""
DIRECTIONS = 64
"""Directions in which inputs are looked at first."""
ROUNDING = 1e-4
"""More than a float32 sum of products of some ten thousand terms is off by, relative to their squares."""


class Codebook(Memory):
    """Keys with radii: an input within the radius of its nearest key gets that key's value as output.

    Tensors: ``keys`` (entries, taken), ``values`` (entries, given), ``radii`` (entries,), in units of
    the Euclidean distance between inputs. No settings. GRACE's memory (arXiv 2211.11031).
    """

    kind: ClassVar[str] = "codebook"

    def __len__(self) -> int:
        return len(self.tensors["radii"])

    @property
    def taken(self) -> int:
        """See `Memory.taken`."""
        return self.tensors["keys"].shape[1]

    @property
    def given(self) -> int:
        """See `Memory.given`."""
        return self.tensors["values"].shape[1]

    def check(self) -> None:
        """See `Memory.check`."""
        if self.settings or list(self.tensors) != ["keys", "radii", "values"]:
            raise EditorError("a codebook is made of keys, values and radii, and has no settings")
        keys, radii, values = (self.tensors[name] for name in ("keys", "radii", "values"))
        if (keys.dim(), values.dim(), radii.dim()) != (2, 2, 1) or not len(keys) == len(values) == len(radii):
            shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in self.tensors.items())
            raise EditorError(f"the parts of a codebook do not fit each other: {shapes}")
        if not len(radii) or bool((radii < 0).any()):
            raise EditorError("a codebook has at least one key, and no radius below zero")

    @cached_property
    def _quick(self) -> dict[str, Tensor]:
        """What tells quickly that an input is near no key."""
        keys, radii = self.tensors["keys"], self.tensors["radii"]
        basis = _main_directions(keys)
        turned = (keys @ basis).T.contiguous()
        squares = turned.square().sum(0)
        beyond = squares - radii.square()
        return {"basis": basis, "turned": turned, "beyond": beyond, "longest": squares.max()}

    def on(self, device: torch.device) -> dict[str, Tensor]:
        """See `Memory.on`."""
        return super().on(device) | {name: tensor.to(device) for name, tensor in self._quick.items()}

    def output(self, tensors: Mapping[str, Tensor], taken: Tensor, given: Tensor) -> Tensor:
        """See `Memory.output`."""
        inputs = taken.reshape(-1, taken.shape[-1])
        near = self._near(tensors, inputs)
        if not bool(near.any()):
            return given
        index, distance = nearest(inputs[near], tensors["keys"])
        flat = given.reshape(-1, given.shape[-1])
        routed = (distance <= tensors["radii"][index])[:, None]
        values = torch.where(routed, tensors["values"][index].to(given.dtype), flat[near])
        return flat.index_put((near.nonzero()[:, 0],), values).view_as(given)

    @staticmethod
    @torch.no_grad()
    def _near(tensors: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """(inputs,) False for those that are certainly within no radius, as nearly every token is.

        A few directions tell: no distance is longer in them than it is in all.
        """
        found = []
        for part in torch.split(inputs, CHUNK):
            short = part.float() @ tensors["basis"]
            own = short.square().sum(1)
            # |x - k|^2 - r^2, least over all keys; what rounding adds to it grows with the lengths of both.
            least = torch.addmm(tensors["beyond"], short, tensors["turned"], alpha=-2).amin(1) + own
            found.append(~(least > ROUNDING * (own + tensors["longest"])))
        return torch.cat(found) if found else inputs.new_zeros(0, dtype=torch.bool)


@torch.no_grad()
def _main_directions(keys: Tensor) -> Tensor:
    """(width, directions) orthonormal columns that hold most of (keys, width), by subspace iteration."""
    count = min(DIRECTIONS, *keys.shape)
    drawn = torch.randn(len(keys), count, generator=torch.Generator().manual_seed(0)).to(keys.device)
    basis: Tensor = torch.linalg.qr(keys.T @ drawn).Q
    for _ in range(3):
        basis = torch.linalg.qr(keys.T @ (keys @ basis)).Q
    return basis


@torch.no_grad()
def nearest(inputs: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """The key nearest to each input, and how far it is.

    All distances come from one matrix product, which is inexact where they are small; of the two
    nearest the distance is then taken by itself, so that an input that is a key is at distance 0.

    Args:
        inputs: (inputs, width), of any type.
        keys: (keys, width) float32, at least one.

    Returns:
        ``(index, distance)``, both (inputs,); the distance is NaN where the input is not finite.
    """
    found = []
    for part in torch.split(inputs, CHUNK):
        wide = part.float()
        close = torch.cdist(wide, keys).topk(min(2, len(keys)), largest=False).indices  # (part, 2)
        exact = torch.linalg.vector_norm(wide[:, None] - keys[close], dim=-1)
        best = exact.argmin(1, keepdim=True)
        found.append((close.gather(1, best)[:, 0], exact.gather(1, best)[:, 0]))
    if not found:
        return inputs.new_zeros(0, dtype=torch.long), inputs.new_zeros(0, dtype=torch.float32)
    index, distance = (torch.cat(parts) for parts in zip(*found, strict=True))
    return index, distance
