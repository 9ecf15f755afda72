"""Means and spreads that go on over all edits of a model's lifetime (UltraEdit, arXiv 2505.14679).

They are sums over tokens, so that batches, and patches made one on top of another, add up in any order.
As text they are one setting of a patch: the bytes of float32 numbers in base64, eight bytes a feature. They
tell about the edited prompts what the factors of the patch tell, and no more.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

import torch
from torch import Tensor

from safeedit.errors import EditorError, UsageError

FLOOR = 1e-3
"""The least spread of a feature, in units of the mean one, so that one that never moved is not blown up."""


class Normaliser:
    """Running statistics of every feature."""

    def __init__(self, width: int, device: torch.device) -> None:
        self.count = torch.zeros(1, device=device)
        self.mean = torch.zeros(width, device=device)
        self.squares = torch.zeros(width, device=device)
        """Sum of squared distances from the mean."""

    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """All that it holds."""
        return self.count, self.mean, self.squares

    def add(self, rows: Tensor) -> None:
        """Count `rows`, (tokens, width), in.

        Raises:
            EditorError: they are not finite.
        """
        if not len(rows):
            return
        mean = rows.mean(0)
        if not torch.isfinite(mean).all():
            raise EditorError("the inputs and gradients of an edited layer are not finite")
        total = self.count + len(rows)
        gap = mean - self.mean
        self.squares += (rows - mean).square().sum(0) + gap.square() * (self.count * len(rows) / total)
        self.mean += gap * (len(rows) / total)
        self.count = total

    def counted(self, rows: Tensor, centre: bool) -> Tensor:
        """`normal` of `rows`, which are counted in first."""
        self.add(rows)
        return self.normal(rows, centre)

    def normal(self, rows: Tensor, centre: bool) -> Tensor:
        """`rows`, (tokens, width), in units of each feature's spread.

        Args:
            rows: what is normalised.
            centre: take the mean off first, and measure the spread from it; a single token has none,
                and is not centred.
        """
        centred = centre and float(self.count) > 1
        square = self.squares / (self.count - float(centred)).clamp(min=1)
        spread = (square if centred else square + self.mean.square()).sqrt()
        spread = spread.clamp(min=max(float(spread.mean()) * FLOOR, torch.finfo(spread.dtype).tiny))
        return (rows - self.mean if centred else rows) / spread


def joined_text(normalisers: Sequence[Normaliser]) -> str:
    """All of them as one text."""
    parts = [part for n in normalisers for part in n.parts()]
    return base64.b64encode(torch.cat(parts).float().cpu().numpy().astype("<f4").tobytes()).decode("ascii")


def parted_text(text: str, widths: Sequence[int], device: torch.device) -> list[Normaliser]:
    """The normalisers that `joined_text` made a text of.

    Raises:
        UsageError: it is no such text, or of layers of other widths.
    """
    try:
        raw = bytearray(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        raw = bytearray()
    if len(raw) != 4 * sum(1 + 2 * width for width in widths):
        raise UsageError(
            "normaliser: it is not of the layers that are edited; give it, and the layers, as they stand in "
            "the settings of the patch under this one"
        )
    values = torch.frombuffer(raw, dtype=torch.float32).to(device)
    found: list[Normaliser] = []
    for width, part in zip(widths, torch.split(values, [1 + 2 * width for width in widths]), strict=True):
        made = Normaliser(width, device)
        made.count, made.mean, made.squares = (t.clone() for t in torch.split(part, [1, width, width]))
        found.append(made)
    if not torch.isfinite(values).all() or any(float(n.count) < 0 or n.squares.min() < 0 for n in found):
        raise UsageError("normaliser: it holds numbers that are no means and spreads; take it from a patch")
    return found
