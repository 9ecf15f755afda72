"""The parts of a decoder that editors and probes work on, found by running it and looking.

Nothing is chosen by the name of a model, a class or a module: one forward pass over two tokens is
watched, and the parts are told by when they ran and by the shapes that they took and gave.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from safeedit.errors import ModelError
from safeedit.models.hooks import first_tensor, frozen, replaced_forward


@dataclass(frozen=True)
class Projection:
    """The down-projection of one block's MLP: the weight that locate-and-edit methods change."""

    module: nn.Module
    name: str
    """Name of the weight in the model's state dict."""
    transposed: bool
    """True for Conv1D, whose weight is (in, out) instead of (out, in)."""
    inner: int
    """Width of the keys (its input)."""
    outer: int
    """Width of the values (its output)."""
    after: tuple[nn.Module, ...] = ()
    """What the block runs the values through before the residual stream gets them (Gemma 2, 3: a norm)."""

    @property
    def weight(self) -> Tensor:
        """The weight itself, in the module's own layout."""
        weight = self.module.weight
        assert isinstance(weight, Tensor)
        return weight

    def oriented(self, delta: Tensor) -> Tensor:
        """A change given as (outer, inner) in the layout of the weight."""
        return delta.T if self.transposed else delta


@dataclass(frozen=True)
class Decoder:
    """A causal language model seen as blocks between an embedding and a head."""

    model: nn.Module
    base: nn.Module
    blocks: tuple[nn.Module, ...]
    projections: tuple[Projection, ...]
    final_norm: nn.Module
    hidden_size: int
    vocabulary: int
    tuple_blocks: bool
    """Whether blocks return a tuple instead of the hidden states alone."""

    @property
    def device(self) -> torch.device:
        """Where the first block's weights are."""
        return self.projections[0].weight.device

    def logits(self, hidden: Tensor) -> Tensor:
        """What the model's own head makes of final (normed) hidden states.

        The causal LM's forward runs with its decoder standing in, so that whatever it does after
        the decoder (soft caps, scales, biases) is done here too.

        Args:
            hidden: (..., hidden_size), after the final norm.

        Returns:
            (..., vocabulary) logits.
        """
        rows = hidden.reshape(-1, 1, hidden.shape[-1])
        standing_in = BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=rows)
        ids = torch.zeros(rows.shape[:2], dtype=torch.long, device=hidden.device)
        with replaced_forward(self.base, lambda *_, **__: standing_in):
            found: Tensor = self.model(input_ids=ids, use_cache=False).logits
        return found.reshape(*hidden.shape[:-1], found.shape[-1])

    def lens(self, hidden: Tensor) -> Tensor:
        """The logit lens: final norm and head applied to the hidden states of any block."""
        return self.logits(self.final_norm(hidden))


@dataclass
class _Call:
    module: nn.Module
    order_in: int
    order_out: int
    taken: tuple[int, ...] | None
    given: tuple[int, ...] | None
    tuple_output: bool


def find_decoder(model: Any) -> Decoder:
    """Find the parts of a causal LM by watching it run over two tokens.

    Args:
        model: a `transformers` causal language model.

    Raises:
        ModelError: a part was not found; the message names it.
    """
    base = getattr(model, "base_model", None)
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if base is None or base is model:
        raise ModelError("found no decoder inside the model; a causal language model with a head is needed")
    if head is None or not isinstance(getattr(head, "weight", None), Tensor):
        raise ModelError("found no output head; a causal language model is needed")
    calls = _watch(model)
    blocks = _blocks(base, calls)
    block_calls = [calls[block] for block in blocks]
    taken = block_calls[0].taken
    assert taken is not None
    width = taken[-1]
    names = {id(module): name for name, module in model.named_modules()}
    projections = tuple(_projection(block, index, calls, width, names) for index, block in enumerate(blocks))
    return Decoder(
        model=model,
        base=base,
        blocks=tuple(blocks),
        projections=projections,
        final_norm=_final_norm(base, blocks, calls, width),
        hidden_size=width,
        vocabulary=int(head.weight.shape[0]),
        tuple_blocks=block_calls[0].tuple_output,
    )


def _watch(model: nn.Module) -> dict[nn.Module, _Call]:
    """Run two tokens through the model; which modules ran exactly once, when, and with which shapes."""
    calls: dict[nn.Module, _Call] = {}
    twice: set[nn.Module] = set()
    clock = iter(range(10**9))

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if module in calls:
            twice.add(module)
        hidden = args[0] if args else kwargs.get("hidden_states")
        shape = tuple(hidden.shape) if isinstance(hidden, Tensor) else None
        calls[module] = _Call(module, next(clock), -1, shape, None, False)

    def after(module: nn.Module, _args: Any, output: Any) -> None:
        call = calls[module]
        call.order_out = next(clock)
        call.tuple_output = isinstance(output, tuple)
        try:
            call.given = tuple(first_tensor(output).shape)
        except (TypeError, IndexError):
            call.given = None

    ids = torch.zeros((1, 2), dtype=torch.long, device=next(model.parameters()).device)
    with ExitStack() as stack, torch.no_grad():
        stack.enter_context(frozen(model))
        for module in model.modules():
            stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(after).remove)
        model(input_ids=ids, use_cache=False)
    return {module: call for module, call in calls.items() if module not in twice}


def _blocks(base: nn.Module, calls: dict[nn.Module, _Call]) -> list[nn.Module]:
    best: list[nn.Module] = []
    for module in base.modules():
        if not isinstance(module, (nn.ModuleList, nn.Sequential)):
            continue
        members = list(module)
        if not all(member in calls for member in members):
            continue
        found = [calls[member] for member in members]
        ordered = all(a.order_out < b.order_in for a, b in pairwise(found))
        keeps = all(c.taken is not None and len(c.taken) == 3 and c.taken == c.given for c in found)
        if members and ordered and keeps and len(members) > len(best):
            best = members
    if not best:
        raise ModelError(
            "found no stack of decoder blocks: no module list whose members run one after another "
            "and keep the shape of the hidden states"
        )
    return best


def _projection(
    block: nn.Module, index: int, calls: dict[nn.Module, _Call], width: int, names: dict[int, str]
) -> Projection:
    if _has_experts(block, width):
        raise ModelError(
            f"found no MLP down-projection in block {index}: it is a block of experts with three-dimensional "
            "weights, which are not supported"
        )
    candidates: list[tuple[int, nn.Module, int]] = []
    for module in block.modules():
        call = calls.get(module)
        weight = getattr(module, "weight", None)
        if call is None or not isinstance(weight, Tensor) or weight.ndim != 2:
            continue
        if call.taken is None or call.given is None or call.given[-1] != width:
            continue
        candidates.append((call.order_out, module, call.taken[-1]))
    if not candidates:
        raise ModelError(
            f"found no MLP down-projection in block {index}: no linear layer that gives width {width}"
        )
    # A block ends in its MLP; its last linear layer back to the residual width is the down-projection.
    end, module, inner = max(candidates, key=lambda found: found[0])
    if _goes_on(block, end, calls):
        raise ModelError(
            f"found no MLP down-projection in block {index}: weights of another kind come after its last "
            f"linear layer that gives width {width}"
        )
    weight = module.weight
    assert isinstance(weight, Tensor)
    transposed = not isinstance(module, nn.Linear) and tuple(weight.shape) == (inner, width)
    if not transposed and tuple(weight.shape) != (width, inner):
        raise ModelError(f"the MLP down-projection of block {index} has a weight of an unknown layout")
    after = _after(block, module, calls, width)
    return Projection(module, f"{names[id(module)]}.weight", transposed, inner, width, after)


def _has_experts(block: nn.Module, width: int) -> bool:
    """Whether there are matrices of one shape side by side, from or to the residual stream.

    Filters of convolutions, and scales that are stored with dimensions of one, are something else.
    """
    return any(
        parameter.ndim == 3 and width in parameter.shape[1:] and min(parameter.shape) > 1
        for parameter in block.parameters()
    )


def _goes_on(block: nn.Module, end: int, calls: dict[nn.Module, _Call]) -> bool:
    """Whether the block runs anything with a matrix later than `end`; a norm has none."""
    return any(
        call.order_in > end and any(sum(size > 1 for size in p.shape) > 1 for p in module.parameters())
        for module in block.modules()
        if (call := calls.get(module)) is not None
    )


def _after(
    block: nn.Module, last: nn.Module, calls: dict[nn.Module, _Call], width: int
) -> tuple[nn.Module, ...]:
    """Modules with parameters that the block runs on the down-projection's output, in order."""
    later = [
        call
        for module in block.modules()
        if (call := calls.get(module)) is not None
        and call.order_in > calls[last].order_out
        and call.given is not None
        and call.given[-1] == width
        and any(True for _ in module.parameters())
    ]
    return tuple(call.module for call in sorted(later, key=lambda call: call.order_in))


def _final_norm(
    base: nn.Module, blocks: list[nn.Module], calls: dict[nn.Module, _Call], width: int
) -> nn.Module:
    end = calls[blocks[-1]].order_out
    inside = {id(module) for module in base.modules()}
    later = [
        call
        for module, call in calls.items()
        if id(module) in inside and call.order_in > end and call.given is not None and call.given[-1] == width
    ]
    return min(later, key=lambda call: call.order_in).module if later else nn.Identity()
