"""Weights that were changed in place, with what it takes to change them back bit for bit.

Memories are put at their modules beside that, and taken off again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain

import torch

from safeedit.deltas import WeightDelta
from safeedit.errors import EditorError, ModelError, UsageError
from safeedit.memories import Memory
from safeedit.tensors.digest import named_digests, root_digest

_MARK = "_safeedit_applied"
_MEMORIES = "_safeedit_memories"


@dataclass(frozen=True)
class Realised:
    """What became of a delta once the weight was back in its own type."""

    cosine: float
    """Between the change intended and the change made; below 1 where the type rounds it away."""
    norm: float
    """Frobenius norm of the change made."""
    weight_norm: float
    """Frobenius norm of the weight before it."""


class Applied:
    """A patch that is on a model, with what it takes to take it off again."""

    def __init__(self, model: torch.nn.Module, mark: str) -> None:
        self.model, self._mark = model, mark
        self.realised: dict[str, Realised] = {}
        """By tensor name."""
        self._originals: dict[str, torch.Tensor] = {}
        self._detach: list[Callable[[], None]] = []
        self._memories: tuple[tuple[str, str], ...] = getattr(model, _MEMORIES, ())
        self._on = True

    @classmethod
    def make(
        cls,
        model: torch.nn.Module,
        deltas: Mapping[str, WeightDelta],
        mark: str,
        memories: Mapping[str, Memory] | None = None,
    ) -> Applied:
        """Change the tensors of `model` that `deltas` names, all of them or, on any error, none.

        Args:
            model: what is changed, in place.
            deltas: by tensor name.
            mark: what the patch is known by on the model while it is on.
            memories: by the name of the weight of the module at which each is put.

        Raises:
            EditorError: a weight would become infinite in its type.
        """
        applied = cls(model, mark)
        try:
            for name, delta in deltas.items():
                applied._change(name, named_tensors(model)[name], delta)
            for name, memory in (memories or {}).items():
                applied._detach.append(memory.put(module_of(model, name), model))
            if memories:
                listed = tuple((name, memory.digest()) for name, memory in memories.items())
                setattr(model, _MEMORIES, applied._memories + listed)
            setattr(model, _MARK, (*marks(model), mark))
        except BaseException:
            applied._restore()
            raise
        return applied

    def __repr__(self) -> str:
        return f"<Applied {'on' if self._on else 'off'}: {len(self.realised)} tensors>"

    def digest(self) -> str:
        """What identifies the model as it is now: its `model_digest`, if no memory is at it."""
        return identity(self.model)

    def revert(self) -> None:
        """Every tensor is again what it was before, bit for bit; harmless if it is already.

        Raises:
            UsageError: a patch that was applied later is still on.
            ModelError: the model's type was changed in between, so no bits can be restored.
        """
        if not self._on:
            return
        on = marks(self.model)
        if on[-1:] != (self._mark,):
            raise UsageError("another patch was applied after this one; revert that one first")
        tensors = named_tensors(self.model)
        for name, original in self._originals.items():
            if name not in tensors or tensors[name].dtype != original.dtype:
                raise ModelError(f"{name} is gone or has another dtype than when the patch was applied")
        self._restore()
        setattr(self.model, _MARK, on[:-1])

    @torch.no_grad()
    def _change(self, name: str, weight: torch.Tensor, delta: WeightDelta) -> None:
        wide = torch.promote_types(weight.dtype, torch.float32)
        before = weight.detach().to(wide)
        intended = delta.dense(weight.device).to(wide)
        after = (before + intended).to(weight.dtype)
        if not bool(torch.isfinite(after).all()):
            raise EditorError(f"{name} would not be finite in {weight.dtype} with the patch on")
        self.realised[name] = _realised(before, after.to(wide) - before, intended)
        # Kept before the first byte changes, so that an interrupt in between is undone too.
        self._originals[name] = weight.detach().to("cpu", copy=True)
        weight.detach().copy_(after)

    @torch.no_grad()
    def _restore(self) -> None:
        tensors = named_tensors(self.model)
        for name, original in self._originals.items():
            tensors[name].detach().copy_(original)
        for detach in self._detach:
            detach()
        if getattr(self.model, _MEMORIES, ()) != self._memories:
            setattr(self.model, _MEMORIES, self._memories)
        self._originals, self._detach, self._on = {}, [], False


def marks(model: torch.nn.Module) -> tuple[str, ...]:
    """The marks of the patches that are on `model`, the last one applied last."""
    found: tuple[str, ...] = getattr(model, _MARK, ())
    return found


def memory_digests(model: torch.nn.Module) -> dict[str, str]:
    """The digests of the memories that are at `model`, under names that no tensor has.

    Joined to the digests of its tensors they tell a model with a memory from the one without.
    """
    listed: tuple[tuple[str, str], ...] = getattr(model, _MEMORIES, ())
    return {f"memory|{number}|{name}": digest for number, (name, digest) in enumerate(listed)}


def identity(model: torch.nn.Module) -> str:
    """What identifies a model with all that is at it; its `model_digest`, if no memory is."""
    return root_digest(named_digests(model) | memory_digests(model))


def module_of(model: torch.nn.Module, weight: str) -> torch.nn.Module:
    """The module whose weight goes by that name."""
    return model.get_submodule(weight.rpartition(".")[0])


def named_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter and buffer under every name that it has."""
    named = chain(model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
    return dict(named)


def _realised(before: torch.Tensor, made: torch.Tensor, intended: torch.Tensor) -> Realised:
    wanted, got = _norm(intended), _norm(made)
    dot = float((made * intended).sum(dtype=torch.float64))
    cosine = dot / (wanted * got) if wanted and got else float(wanted == got)
    return Realised(cosine, got, _norm(before))


def _norm(tensor: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64))
