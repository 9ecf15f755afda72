"""Which keys a codebook has, and their radii: GRACE's rules of expanding and splitting (arXiv 2211.11031)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from safeedit.editors.rows import Demand
from safeedit.errors import EditorError, UsageError
from safeedit.memories import nearest

LEAST = 1e-3
"""Keys nearer than twice this, relative to their norm, cannot be told apart reliably."""
MOST = 2**25
"""Pairs of keys whose distances are held at once, to find a median."""
TOGETHER = 256
"""Prompts that are compared with all entries at once: one by one, every comparison would copy all keys."""


def labels_of(demands: Sequence[Demand]) -> list[int]:
    """Equal numbers where the same is asked for."""
    known: dict[Any, int] = {}
    return [known.setdefault(_asked(demand), len(known)) for demand in demands]


def _asked(demand: Demand) -> Any:
    if demand.row.wanted and max(demand.goals.hard) >= 0:
        # How an answer ends differs a little between prompts, and is no reason to keep them apart.
        return demand.row.wanted
    return demand.goals, demand.row.wanted, demand.telling


def least_radius(model: torch.nn.Module) -> float:
    """Smallest radius relative to a key's norm: what batches of another shape may move a key."""
    return max(LEAST, 2 * torch.finfo(next(model.parameters()).dtype).eps)


def unit_of(keys: Tensor, others: Tensor) -> float:
    """The median distance between prompts' keys, (prompts, width), and (others, width) those of the others.

    Where there are too many pairs, it is taken over keys at equal intervals.

    Raises:
        EditorError: it is zero or not finite.
    """
    if not len(others):
        raise UsageError("anchors: without prompts to compare with there is no unit of distance; give some")
    part = max(1, math.ceil(math.sqrt(len(keys) * len(others) / MOST)))
    unit = float(torch.cdist(keys[::part], others[::part]).median())
    if not math.isfinite(unit) or unit == 0:
        raise EditorError("the inputs of the edited block are not finite, or all the same")
    return unit


class Book:
    """The keys and radii of a codebook in the making; distances as the inputs have them."""

    def __init__(
        self, keys: Tensor, labels: Sequence[int], others: Tensor, radius: float, room: float, least: float
    ) -> None:
        """An empty one.

        Args:
            keys: (prompts, width) float32, those of all prompts.
            labels: (prompts,) equal where the same is asked for.
            others: (others, width) keys that no entry may answer for.
            radius: the initial radius.
            room: the largest radius, relative to the distance to the nearest of `others`.
            least: the smallest radius, relative to a key's norm.
        """
        self.keys, self.labels, self.initial = keys, labels, radius
        self.least = (least * keys.norm(dim=1)).tolist()
        apart = nearest(keys, others)[1] if len(others) else torch.full((len(keys),), torch.inf)
        self.room = (room * apart).tolist()
        self.members: list[int] = []
        """For each entry the prompt whose key it has."""
        self.radii: list[float] = []

    def fill(self) -> None:
        """Add all prompts; after that each is within the radius of a key that asks for the same.

        Raises:
            EditorError: prompts that ask for different things have keys that cannot be told apart.
        """
        self._add(range(len(self.keys)))
        while lost := self._lost():
            self._add(lost, alone=True)

    def _add(self, prompts: Sequence[int], alone: bool = False) -> None:
        """Add prompts one after another; what is nearest to them is looked for together."""
        for start in range(0, len(prompts), TOGETHER):
            block, held = list(prompts[start : start + TOGETHER]), len(self.members)
            near: list[list[tuple[float, int]]] = [[] for _ in block]
            if held:
                index, distance = nearest(self.keys[block], self.keys[self.members])
                near = [[one] for one in zip(distance.tolist(), index.tolist(), strict=True)]
            for prompt, found in zip(block, near, strict=True):
                if len(self.members) > held:
                    index, distance = nearest(self.keys[prompt, None], self.keys[self.members[held:]])
                    found.append((float(distance), held + int(index)))
                self._add_one(prompt, min(found, default=None), alone)

    def _add_one(self, prompt: int, near: tuple[float, int] | None, alone: bool) -> None:
        """Add one prompt: joined to the nearest key, or as an entry (always, where `alone`).

        Args:
            prompt: which.
            near: how far the nearest key is, and whose entry it is.
            alone: whether it must be an entry.

        Raises:
            EditorError: its key cannot be told from one that asks for something else.
        """
        own = min(self.initial, self.room[prompt])
        if near is not None:
            distance, at = near
            other = self.members[at]
            if distance <= self.initial + self.radii[at]:
                if self.labels[other] != self.labels[prompt]:
                    own = min(own, distance / 2)
                    if own < self.least[prompt] and distance / 2 == own:
                        raise EditorError("edits that ask for different answers look the same to the model")
                    self.radii[at] = min(self.radii[at], distance / 2)
                elif not alone and distance <= max(self.radii[at], self.room[other]):
                    self.radii[at] = max(self.radii[at], distance)
                    return
        self.members.append(prompt)
        # An invented name may look the same to the model; the name that was asked for goes first.
        self.radii.append(max(own, self.least[prompt]))

    def joined(self) -> list[list[int]]:
        """For each entry the prompts that it answers."""
        found: list[list[int]] = [[] for _ in self.members]
        for prompt, at in enumerate(nearest(self.keys, self.keys[self.members])[0].tolist()):
            found[at].append(prompt)
        return found

    def _lost(self) -> list[int]:
        """Prompts that no key answers, or one that asks for something else."""
        index, distance = nearest(self.keys, self.keys[self.members])
        entries, lost = set(self.members), []
        for prompt, (at, away) in enumerate(zip(index.tolist(), distance.tolist(), strict=True)):
            right = self.labels[self.members[at]] == self.labels[prompt]
            if right and away <= self.radii[at]:
                continue
            if prompt in entries:
                raise EditorError("edits that ask for different answers look the same to the model")
            lost.append(prompt)
        return lost
