"""Editors that fail in one way each, for runs that must notice it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from safeedit.editors.base import Editor, Job, Made, Params
from safeedit.models.structure import find_decoder
from safeedit.patch import DenseDelta, Patch
from safeedit.triples.facts import Edit, Op


class Planted(Editor):
    summary = "planted"
    paper = "0000.00000"
    operations: ClassVar[frozenset[Op]] = frozenset({"erase", "modify", "insert", "detox"})
    Params = Params
    seen: ClassVar[list[tuple[Edit, ...]]] = []
    """What the editors were given, call by call."""
    options: ClassVar[dict[str, Any]] = {}
    """And with what, the last time."""

    def edit(self, model: Any, tokenizer: Any, edits: Sequence[Edit], **options: Any) -> Any:
        self.check(edits)
        Planted.seen.append(tuple(edits))
        Planted.options.clear()
        Planted.options.update(options)
        return self.act(model, edits)

    def act(self, model: Any, edits: Sequence[Edit]) -> Any:
        raise NotImplementedError

    def _edit(self, job: Job) -> Made:
        raise AssertionError("these editors have a way of their own from edits to a patch")

    @staticmethod
    def weight(model: Any) -> Any:
        return find_decoder(model).projections[1]

    def patch(self, model: Any, fill: float) -> Patch:
        found = self.weight(model)
        return Patch.of(
            model, {found.name: DenseDelta(torch.full_like(found.weight, fill))}, editor=self.name
        )


class Idle(Planted):
    name = "idle"

    def act(self, model: Any, edits: Sequence[Edit]) -> Patch:
        return self.patch(model, 0.0)


class Empty(Planted):
    name = "empty"

    def act(self, model: Any, edits: Sequence[Edit]) -> Patch:
        return Patch.of(model, {}, editor=self.name)


class Raising(Planted):
    """Changes the model, then fails with a message that quotes the request."""

    name = "raising"

    @torch.no_grad()
    def act(self, model: Any, edits: Sequence[Edit]) -> Patch:
        self.weight(model).weight.add_(1.0)
        raise RuntimeError(f"no token for {edits[0].subject} in {edits[0].prompts()[0]!r}")


class Interrupted(Planted):
    name = "interrupted"

    @torch.no_grad()
    def act(self, model: Any, edits: Sequence[Edit]) -> Patch:
        self.weight(model).weight.add_(1.0)
        raise KeyboardInterrupt


class NotFinite(Planted):
    name = "not-finite"

    def act(self, model: Any, edits: Sequence[Edit]) -> Patch:
        return self.patch(model, float("nan"))


class Careless(Planted):
    """Gives a patch and leaves the model changed."""

    name = "careless"

    @torch.no_grad()
    def act(self, model: Any, edits: Sequence[Edit]) -> Patch:
        made = self.patch(model, 0.0)
        self.weight(model).weight.add_(1.0)
        return made


class Wrecking(Planted):
    """Destroys the language of the model."""

    name = "wrecking"

    def act(self, model: Any, edits: Sequence[Edit]) -> Patch:
        return self.patch(model, 3.0)


class Foreign(Planted):
    """Gives a patch for another model."""

    name = "foreign"

    @torch.no_grad()
    def act(self, model: Any, edits: Sequence[Edit]) -> Patch:
        weight = self.weight(model).weight
        kept = weight.clone()
        weight.add_(1.0)
        made = self.patch(model, 0.0)
        weight.copy_(kept)
        return made


class NoPatch(Planted):
    name = "no-patch"

    def act(self, model: Any, edits: Sequence[Edit]) -> None:
        return None


ALL = (Idle, Empty, Raising, Interrupted, NotFinite, Careless, Wrecking, Foreign, NoPatch)
