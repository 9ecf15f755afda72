"""Where states are read and put back: blocks, MLP outputs, attention outputs, subject embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from safeedit.errors import ModelError
from safeedit.models.hooks import first_tensor
from safeedit.models.structure import Decoder

Kind = Literal["hidden", "mlp", "attention"]
KINDS: tuple[Kind, ...] = ("hidden", "mlp", "attention")


@dataclass(frozen=True)
class Sites:
    """The modules of a decoder whose outputs are states that can be restored."""

    embedding: nn.Module
    modules: Mapping[Kind, tuple[nn.Module, ...]]
    """One a block: the block, its MLP's last linear layer, its attention's last linear layer.

    A norm that some blocks (Gemma 2) run on what those layers give works on each token alone, so that
    restoring what enters it restores what leaves it.
    """

    @staticmethod
    def of(decoder: Decoder) -> Sites:
        """The sites of a decoder, found by watching two tokens run.

        Raises:
            ModelError: a block has no attention that ends in a linear layer.
        """
        model: Any = decoder.model
        embedding = model.get_input_embeddings()
        mlps = tuple(projection.module for projection in decoder.projections)
        return Sites(
            embedding, {"hidden": decoder.blocks, "mlp": mlps, "attention": _attention_outputs(decoder)}
        )


def _attention_outputs(decoder: Decoder) -> tuple[nn.Module, ...]:
    """Of each block the last linear layer back to the residual width outside the part with the MLP."""
    ran: list[nn.Module] = []
    width = decoder.hidden_size

    def note(module: nn.Module, _args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.shape[-1] == width:
            ran.append(module)

    with ExitStack() as stack, torch.no_grad():
        for block in decoder.blocks:
            for module in block.modules():
                weight = getattr(module, "weight", None)
                if isinstance(weight, Tensor) and weight.ndim == 2:
                    stack.callback(module.register_forward_hook(note).remove)
        decoder.base(input_ids=torch.zeros((1, 2), dtype=torch.long, device=decoder.device), use_cache=False)
    found = []
    for index, (block, projection) in enumerate(zip(decoder.blocks, decoder.projections, strict=True)):
        apart = [part for part in block.children() if projection.module not in set(part.modules())]
        inside = {module for part in apart for module in part.modules()}
        own = [module for module in ran if module in inside]
        if not own:
            raise ModelError(f"found no attention in block {index} that ends in a linear layer")
        found.append(own[-1])
    return tuple(found)


@contextmanager
def recorded(sites: Sites, kinds: Sequence[Kind]) -> Iterator[dict[Kind, list[Tensor]]]:
    """The outputs of one pass at the sites of those kinds, block by block, each (rows, columns, hidden)."""
    seen: dict[Kind, list[Tensor]] = {kind: [] for kind in kinds}

    def noting(kind: Kind) -> Any:
        return lambda _module, _args, output: seen[kind].append(first_tensor(output))

    with ExitStack() as stack:
        for kind in kinds:
            for module in sites.modules[kind]:
                stack.callback(module.register_forward_hook(noting(kind)).remove)
        yield seen


@contextmanager
def noisy(sites: Sites, noise: Tensor, *, leaf: bool = False) -> Iterator[None]:
    """Embeddings get `noise`, (rows, columns, hidden), added; as a leaf they ask for a gradient."""

    def add(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        moved = output + noise.to(output.dtype)
        return moved.detach().requires_grad_() if leaf else moved

    handle = sites.embedding.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def put_back(modules: Sequence[nn.Module], states: Sequence[Tensor], where: Tensor) -> Iterator[None]:
    """Outputs of `modules` are `states`, each (rows, columns, width), at `where`, (rows, columns)."""

    def putting(state: Tensor) -> Any:
        return lambda _module, _args, output: torch.where(where[..., None], state, output)

    with ExitStack() as stack:
        for module, state in zip(modules, states, strict=True):
            stack.callback(module.register_forward_hook(putting(state)).remove)
        yield
