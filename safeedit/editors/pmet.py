"""PMET: values for attention and MLP, of which only the MLP's is written (Li et al., arXiv 2308.08742).

What a block adds at a name's last token comes from its attention and its MLP, and a value found for the sum
asks the MLP for what attention had better brought. So two vectors are searched together at the last of the
layers, one added to the output of attention and one to that of the MLP; the first is forgotten, as
attention is a way of extracting knowledge rather than a place where it is. The rest is MEMIT, but that with
`spread: root`, as published, a layer brings 1/sqrt(n) of what is missing, n the layers left, and not 1/n.

Deviations: what is missing is measured in the residual stream, as in MEMIT, so that layers below count for
what they bring there; passes go on until the goals hold without the forgotten vector; the authors' factor
on the loss at steps with the best probability so far is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from safeedit.editors import memit
from safeedit.editors.base import Params as BaseParams
from safeedit.editors.insertion import even_share
from safeedit.editors.passes import Changes, Work
from safeedit.errors import ModelError
from safeedit.models.hooks import first_tensor
from safeedit.models.segment import Segment
from safeedit.models.tokens import pad

Preset = Literal["paper", "gpt-j-6b", "llama-2-7b"]
_PAPER: dict[str, Any] = {**memit.PUBLISHED["paper"], "spread": "root"}
PUBLISHED: dict[str, dict[str, Any]] = {
    "paper": {**_PAPER, "steps": 30},
    "gpt-j-6b": {**_PAPER, "layers": [3, 4, 5, 6, 7, 8], "steps": 30, "clamp": 0.75},
    "llama-2-7b": {**_PAPER, "layers": [4, 5, 6, 7, 8], "steps": 20, "clamp": 1.0},
}
"""Published layers and searches; see `memit.PUBLISHED`."""


class Params(memit.Params):
    """Settings of PMET: MEMIT's, and how layers share."""

    published: ClassVar[Mapping[str, Mapping[str, Any]]] = PUBLISHED
    preset: Preset | None = None
    """Published settings of a model; they replace the defaults, and explicit settings replace them."""
    spread: Literal["root", "even"] = "even"
    """The part of what is missing that a layer brings: one over the layers left, as in MEMIT, or over their
    root, as published, which overshoots and costs neighbours (BENCHMARKS.md)."""
    attention: bool = True
    """Whether a vector for attention is searched, too; without one, values are MEMIT's."""


class Pmet(memit.Memit):
    """Mass editing with values that leave to attention what is attention's."""

    name: ClassVar[str] = "pmet"
    summary: ClassVar[str] = (
        "as memit, with values searched for attention and MLP, of which the MLP's are written"
    )
    paper: ClassVar[str] = "2308.08742"
    Params: ClassVar[type[BaseParams]] = Params

    def _change(self, work: Work) -> Changes:
        assert isinstance(self.params, Params)
        params = self.params
        if params.attention:
            work = replace(work, beside=attention_output(work.segment, work.layers[-1]))
        share = root_share if params.spread == "root" else even_share
        return work.run(work.insertion(self._preserved(work), share=share))


def root_share(left: int) -> float:
    """More than every layer after it: one over the square root of the layers left."""
    return 1 / math.sqrt(left)


@torch.no_grad()
def attention_output(segment: Segment, layer: int) -> nn.Module:
    """The projection by which a block's attention writes to the residual stream.

    Of the linear layers that give the stream's width it is the last to run before the MLP's first layer;
    what tells the MLP is the module that its down-projection stands in.

    Raises:
        ModelError: there is none.
    """
    decoder = segment.decoder
    block, down = decoder.blocks[layer], decoder.projections[layer].module
    inside = next(
        (
            set(part.modules())
            for part in block.children()
            if down in set(part.modules()) and part is not down
        ),
        {down},
    )
    seen: list[nn.Module] = []

    def note(module: nn.Module) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if first_tensor(output).shape[-1] == decoder.hidden_size:
                seen.append(module)

        return hook

    with ExitStack() as stack:
        for module in block.modules():
            weight = getattr(module, "weight", None)
            if isinstance(weight, Tensor) and weight.ndim == 2 and module not in inside:
                stack.callback(module.register_forward_hook(note(module)).remove)
        segment.run(pad([[0, 0]], 0).to(decoder.device), stop=layer + 1)
    if not seen:
        raise ModelError(f"found no output projection of attention in block {layer}")
    return seen[-1]
