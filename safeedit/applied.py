"""Weights that were changed in place, with what it takes to change them back bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain

import torch

from safeedit.deltas import WeightDelta
from safeedit.errors import EditorError, ModelError, UsageError
from safeedit.tensors.digest import model_digest

_MARK = "_safeedit_applied"


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
        self._on = True

    @classmethod
    def make(cls, model: torch.nn.Module, deltas: Mapping[str, WeightDelta], mark: str) -> Applied:
        """Change the tensors of `model` that `deltas` names, all of them or, on any error, none.

        Args:
            model: what is changed, in place.
            deltas: by tensor name.
            mark: what the patch is known by on the model while it is on.

        Raises:
            EditorError: a weight would become infinite in its type.
        """
        applied = cls(model, mark)
        try:
            for name, delta in deltas.items():
                applied._change(name, named_tensors(model)[name], delta)
            setattr(model, _MARK, (*marks(model), mark))
        except BaseException:
            applied._restore()
            raise
        return applied

    def __repr__(self) -> str:
        return f"<Applied {'on' if self._on else 'off'}: {len(self.realised)} tensors>"

    def digest(self) -> str:
        """`model_digest` of the model as it is now."""
        return model_digest(self.model)

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
        self._originals, self._on = {}, False


def marks(model: torch.nn.Module) -> tuple[str, ...]:
    """The marks of the patches that are on `model`, the last one applied last."""
    found: tuple[str, ...] = getattr(model, _MARK, ())
    return found


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
