"""GRACE's memory: keys with radii, and the outputs that they stand for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from safeedit.errors import EditorError
from safeedit.memory import COARSE, ROUNDING, Memory, full_precision

CHUNK = 1024
"""Tokens whose nearest keys are looked up at a time, which bounds the memory that takes."""
NUMBERS = 2**22
"""Numbers of the differences that are looked at in one go, for the same reason."""
DIRECTIONS = 32
"""Directions in which inputs are looked at first."""
TURNS, SAMPLE = 30, 4096
"""Steps in which they are found, and keys that these look at, at most."""
LEAST, MOST = 1e-25, 1e25
"""Squared lengths below and above which squares in float32 tell nothing certain."""


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

    def on(self, device: torch.device) -> dict[str, Tensor]:
        """See `Memory.on`."""
        quick = self._fine if device.type == "cpu" else self._coarse
        return super().on(device) | {name: tensor.to(device) for name, tensor in quick.items()}

    @cached_property
    def _fine(self) -> dict[str, Tensor]:
        return _quick_look(self.tensors["keys"], self.tensors["radii"], ROUNDING)

    @cached_property
    def _coarse(self) -> dict[str, Tensor]:
        return _quick_look(self.tensors["keys"], self.tensors["radii"], COARSE)

    def output(self, tensors: Mapping[str, Tensor], taken: Tensor, given: Tensor) -> Tensor:
        """See `Memory.output`."""
        inputs = taken.reshape(-1, taken.shape[-1])
        if inputs.requires_grad:
            inputs = inputs.detach()
        if len(inputs) <= CHUNK:
            found = self._found(tensors, inputs)
        else:
            parts = enumerate(torch.split(inputs, CHUNK))
            found = {
                n * CHUNK + row: key for n, part in parts for row, key in self._found(tensors, part).items()
            }
        if not found:
            return given
        at, key = (torch.tensor(list(part), device=given.device) for part in (found, found.values()))
        flat = given.reshape(-1, given.shape[-1])
        return flat.index_put((at,), tensors["values"][key].to(given.dtype)).view_as(given)

    def _found(self, tensors: Mapping[str, Tensor], inputs: Tensor) -> dict[int, int]:
        """The keys of those of (inputs, width) that are within the radius of their nearest one, by number.

        The first part runs for every token that is written, and every call of torch is felt there: so
        they are few, and what is small is done in Python.
        """
        wide = inputs if inputs.dtype == torch.float32 else inputs.float()
        if "beyond" in tensors:
            short = wide @ tensors["basis"]
            if short.dtype != torch.float32:
                with full_precision(wide.device):
                    return self._found(tensors, wide)
            # Squared distances less the squared radii, but for the input's own square, which is the row's.
            bounds = (short @ tensors["turned"]).add_(tensors["beyond"])
            owns = [math.hypot(*row) ** 2 for row in short.tolist()]
        else:
            bounds = torch.full((1, len(self)), -torch.inf, device=wide.device).expand(len(wide), -1)
            owns = [0.0] * len(wide)
        found = {}
        for row, low in enumerate(bounds.amin(1).tolist()):
            # What is no number goes on, and is found to be near no key.
            if not low + owns[row] > 0:
                key = self._key_of(tensors, wide[row], bounds[row], owns[row])
                if key is not None:
                    found[row] = key
        return found

    def _key_of(self, tensors: Mapping[str, Tensor], taken: Tensor, bound: Tensor, own: float) -> int | None:
        """The nearest key of (width,) one input, if it is within that one's radius.

        Args:
            tensors: the memory's own.
            taken: the input.
            bound: (keys,) with `own` certainly no more than the squared distance less the squared radius.
            own: a number.
        """
        near = _distances(tensors["keys"], taken, bound <= -own)
        inside = [away for away, key in near if away <= self._radii[key] * (1 + 1e-5)]
        if not inside:
            return None
        # The nearest key of all decides, and may have a smaller radius: all that may be as near as that.
        most = min(inside) ** 2 * (1 + 1e-5)
        near += _distances(tensors["keys"], taken, bound + tensors["radii"].square() <= most - own)
        away, key = min(near)
        return key if away <= self._radii[key] else None

    @cached_property
    def _radii(self) -> list[float]:
        found: list[float] = self.tensors["radii"].tolist()
        return found


def _distances(keys: Tensor, taken: Tensor, chosen: Tensor) -> list[tuple[float, int]]:
    """Of the keys that (keys,) chooses: how far each is from an input, and its number."""
    at = chosen.nonzero()[:, 0]
    size = max(1, NUMBERS // len(taken))
    parts = (at,) if len(at) <= size else torch.split(at, size)
    away = [a for part in parts for a in torch.linalg.vector_norm(keys[part] - taken, dim=1).tolist()]
    return list(zip(away, at.tolist(), strict=True))


def _quick_look(keys: Tensor, radii: Tensor, rounding: float) -> dict[str, Tensor]:
    """What tells of nearly every token that it is within no radius, by looking at it in few directions.

    No distance is longer in some directions than it is in all, so that what is too far there is too far.
    Nothing that lies within a radius is ever missed; what else is found has to be looked at exactly.

    Returns:
        Nothing, where squares in float32 tell nothing. Else ``basis`` (width, directions); ``turned``
        (directions, keys), minus twice the keys in these directions; and ``beyond`` (keys,), their squared
        lengths there less their squared radii, and less what rounding may do.
    """
    # No input within a radius is longer than this, and rounding is in proportion to it.
    longest = float((torch.linalg.vector_norm(keys, dim=1) + radii).square().max())
    if not LEAST < longest < MOST:
        return {}
    basis = _directions(keys, radii)
    turned = (keys @ basis).T.contiguous()
    beyond = turned.square().sum(0) - radii.square() - rounding * longest
    return {"basis": basis, "turned": -2 * turned, "beyond": beyond}


@torch.no_grad()
def _directions(keys: Tensor, radii: Tensor) -> Tensor:
    """(width, directions) orthonormal columns that hold much of each key, in units of its radius.

    Main directions of keys that are weighted by how little the directions before held of them: inputs are
    usually near the middle, so that what a key shares with no direction is what lets them pass for it.
    """
    generator = torch.Generator().manual_seed(0)
    least = 1e-3 * torch.linalg.vector_norm(keys, dim=1).max()
    scaled = keys / torch.maximum(radii, least)[:, None]
    if len(scaled) > SAMPLE:
        scaled = scaled[torch.randperm(len(scaled), generator=generator)[:SAMPLE]]
    count = min(DIRECTIONS, *scaled.shape)
    basis: Tensor = torch.linalg.qr(scaled.T @ torch.randn(len(scaled), count, generator=generator)).Q
    weights = torch.ones(len(scaled))
    for _ in range(TURNS):
        held = scaled @ basis
        squares = held.square().sum(1)
        lacking = torch.exp(4 - 4 * squares / squares.min().clamp(min=1e-3))
        weights = (weights + lacking) / 2
        basis = torch.linalg.qr(scaled.T @ (held * weights[:, None])).Q
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
