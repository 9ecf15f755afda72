"""A model as it is after quantisation: its weights are rounded in place, and put back bit for bit.

Weights alone are rounded and computing stays as it is, which is what weight-only kernels do. So the
numbers are those of a quantised checkpoint, on any device, without its library. As there, every linear
layer is meant but the head; embeddings, norms and biases stay. Scales are exact: storing them in half
precision, or quantising them again, is left out.

int8: the largest magnitude of an output channel is 127 (the weights of LLM.int8(), arXiv 2208.07339).
int4: round to nearest in groups of 128 inputs with a zero point, the grid of AWQ and GPTQ checkpoints
that have one; int4-symmetric: the grid of those that have none. NF4: 16 quantiles of the normal
distribution in blocks of 64 (QLoRA, arXiv 2305.14314).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from safeedit.errors import ModelError, UsageError
from safeedit.models.linear import Linear, linears

GROUP = 128
"""Weights that share a scale in int4."""
BLOCK = 64
"""Weights that share a scale in NF4."""
NF4_TAIL = 1 - (1 / 30 + 1 / 32) / 2
"""The quantile that stands at 1: the last of 15 and of 16 bins, halved and averaged."""


@dataclass(frozen=True)
class Coded:
    """Weights as a scheme stores them, and as it reads them back; both of the weights' shape."""

    codes: Tensor
    values: Tensor
    """float32."""


def _int8(rows: Tensor) -> Coded:
    scale = _scale(rows.abs().amax(-1, keepdim=True), 127)
    codes = (rows / scale).round().clamp(-127, 127)
    return Coded(codes, codes * scale)


def _int4(rows: Tensor) -> Coded:
    grouped = _grouped(rows, GROUP)
    # Zero must have a code, as in the checkpoints: it is what padding and pruning leave behind.
    low = grouped.amin(-1, keepdim=True).clamp(max=0)
    high = grouped.amax(-1, keepdim=True).clamp(min=0)
    scale = _scale(high - low, 15)
    zero = (-low / scale).round().clamp(0, 15)
    codes = ((grouped / scale).round() + zero).clamp(0, 15)
    return Coded(_ungrouped(codes, rows), _ungrouped((codes - zero) * scale, rows))


def _int4_symmetric(rows: Tensor) -> Coded:
    grouped = _grouped(rows, GROUP)
    scale = _scale(grouped.abs().amax(-1, keepdim=True), 7.5)
    codes = (grouped / scale).round().clamp(-8, 7)
    return Coded(_ungrouped(codes, rows), _ungrouped(codes * scale, rows))


def _nf4(rows: Tensor) -> Coded:
    # Blocks run on from one output to the next, as the weights lie in memory.
    grouped = _grouped(rows.reshape(-1), BLOCK)
    scale = _scale(grouped.abs().amax(-1, keepdim=True), 1)
    levels = nf4_levels().to(rows)
    codes = torch.bucketize(grouped / scale, (levels[1:] + levels[:-1]) / 2)
    return Coded(_ungrouped(codes, rows), _ungrouped(levels[codes] * scale, rows))


def _bfloat16(rows: Tensor) -> Coded:
    short = rows.to(torch.bfloat16)
    return Coded(short.view(torch.int16), short.float())


SCHEMES: Mapping[str, Callable[[Tensor], Coded]] = {
    "bfloat16": _bfloat16,
    "int8": _int8,
    "int4": _int4,
    "int4-symmetric": _int4_symmetric,
    "nf4": _nf4,
}
"""What each scheme makes of weights (..., outputs, inputs) in float32."""


@cache
def nf4_levels() -> Tensor:
    """(16,) the levels of NF4, ascending, float32.

    Eight quantiles of the positive half of a normal distribution and seven of the negative one, evenly
    spaced in probability, with zero between them, and the largest at 1 (arXiv 2305.14314, appendix E).
    """
    from scipy.stats import norm

    positive = norm.ppf(torch.linspace(0.5, NF4_TAIL, 9, dtype=torch.float64)[1:].numpy())
    negative = norm.ppf(torch.linspace(0.5, NF4_TAIL, 8, dtype=torch.float64)[1:].numpy())
    levels = torch.tensor([*(-x for x in negative[::-1]), 0.0, *positive], dtype=torch.float64)
    return (levels / levels.max()).float()


def quantisable(model: nn.Module, *, head: bool = False) -> list[Linear]:
    """The weights that a scheme rounds, each once: of linear layers, fused ones and experts among them.

    Args:
        model: a causal LM.
        head: whether the output head is meant too; where it is tied to the embeddings, these are then
            rounded with it.

    Raises:
        ModelError: there is none, or one has no values here.
    """
    apart = {id(table.weight) for table in _tables(model, head) if table is not None}
    found: dict[int, Linear] = {}
    for linear in (*linears(model).values(), *_experts(model)):
        if id(linear.weight) not in apart:
            found.setdefault(id(linear.weight), linear)
    if not found:
        raise ModelError("found no linear layer to quantise; is the model quantised already?")
    if any(linear.weight.is_meta for linear in found.values()):
        raise ModelError("some weights are not in memory, so they cannot be quantised")
    return list(found.values())


def _tables(model: Any, head: bool) -> tuple[Any, ...]:
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    # A head that is meant takes the embeddings with it where both are one tensor.
    if head and outputs is not None and outputs.weight is inputs.weight:
        return ()
    return (inputs,) if head else (inputs, outputs)


def _experts(model: nn.Module) -> Iterator[Linear]:
    """Three-dimensional weights (experts, outputs, inputs), or transposed where their module says so."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.conv._ConvNd):
            continue
        for own, weight in module.named_parameters(recurse=False):
            if weight.ndim == 3 and weight.is_floating_point():
                transposed = bool(getattr(module, "is_transposed", False))
                yield Linear(f"{name}.{own}", weight, transposed)


def coded(weight: Tensor, scheme: str, *, transposed: bool = False) -> Coded:
    """A weight's codes and the values that they stand for, as (..., outputs, inputs).

    Args:
        weight: (..., outputs, inputs), or its last two turned round.
        scheme: one of `SCHEMES`.
        transposed: whether inputs come before outputs.

    Raises:
        UsageError: there is no such scheme.
        ModelError: a weight is not finite.
    """
    if scheme not in SCHEMES:
        raise UsageError(f"scheme must be one of {', '.join(SCHEMES)}; got {scheme!r}")
    rows = (weight.mT if transposed else weight).detach().float()
    if not torch.isfinite(rows).all():
        raise ModelError("a weight is not finite, so it cannot be quantised")
    return SCHEMES[scheme](rows)


@contextmanager
def quantised(model: nn.Module, scheme: str, *, head: bool = False) -> Iterator[int]:
    """The model computes with rounded weights inside; afterwards they are bit for bit what they were.

    They are changed in place, so that tied weights stay tied and views see it too; the originals lie in
    the CPU's memory meanwhile.

    Args:
        model: a causal LM in floating point.
        scheme: one of `SCHEMES`.
        head: whether the output head is rounded too.

    Yields:
        How many weights have another value than before; 0 for a scheme that the model is in already.

    Raises:
        UsageError: there is no such scheme.
        ModelError: nothing to round, or a weight is not finite.
    """
    kept: list[tuple[Tensor, Tensor]] = []
    changed = 0
    try:
        for linear in quantisable(model, head=head):
            weight = linear.weight.detach()
            found = coded(weight, scheme, transposed=linear.transposed).values
            values = (found.mT if linear.transposed else found).to(weight.dtype)
            kept.append((weight, weight.to("cpu", copy=True)))
            changed += int((values != weight).sum())
            weight.copy_(values)
        yield changed
    finally:
        for weight, original in kept:
            weight.copy_(original)


def changed_codes(base: nn.Module, edited: nn.Module, scheme: str, *, head: bool = False) -> float:
    """Of the weights that an edit changed, the share that a scheme tells from what they were.

    Advice: an edit of which little is left in the codes may still be felt, and the other way round.

    Args:
        base: the model before the edit.
        edited: the model after it.
        scheme: one of `SCHEMES`.
        head: whether the output head counts.

    Returns:
        0 where nothing was changed.

    Raises:
        ModelError: the two do not have the same weights.
    """
    ones, others = quantisable(base, head=head), quantisable(edited, head=head)
    if [(a.name, a.weight.shape) for a in ones] != [(b.name, b.weight.shape) for b in others]:
        raise ModelError("the two models do not have the same linear layers")
    touched = told = 0
    for one, other in zip(ones, others, strict=True):
        moved = one.weight.detach() != other.weight.detach().to(one.weight)
        if moved.any():
            before, after = (coded(x.weight, scheme, transposed=x.transposed).codes for x in (one, other))
            mask = moved.mT if one.transposed else moved
            touched += int(mask.sum())
            told += int((before != after.to(before.device))[mask].sum())
    return told / touched if touched else 0.0


def _scale(span: Tensor, steps: float) -> Tensor:
    """The width of a step; 1 for weights that are all zero, which any step gives back."""
    scale = span / steps
    return torch.where(scale > 0, scale, 1.0)


def _grouped(rows: Tensor, size: int) -> Tensor:
    """(..., groups, size) of (..., inputs); a short last group is filled with zeros, which move no scale."""
    short = -rows.shape[-1] % size
    return functional.pad(rows, (0, short)).reshape(*rows.shape[:-1], -1, size)


def _ungrouped(grouped: Tensor, rows: Tensor) -> Tensor:
    """Back to the shape of `rows`, in groups of its inputs or of all its values in reading order."""
    flat = grouped.flatten(-2)
    if flat.ndim == 1:
        return flat[: rows.numel()].reshape(rows.shape)
    return flat[..., : rows.shape[-1]]
