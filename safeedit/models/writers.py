"""The linear layers whose outputs a block adds to the residual stream: its attention's, and its MLP's."""

from __future__ import annotations

from contextlib import ExitStack

import torch
from torch import nn

from safeedit.models.hooks import frozen
from safeedit.models.linear import Linear, linears
from safeedit.models.structure import Decoder
from safeedit.models.tokens import pad


@torch.no_grad()
def writers(decoder: Decoder) -> tuple[tuple[Linear, ...], ...]:
    """For each block, the last linear layer of each of its parts, where it gives the stream's width.

    Found by watching two tokens pass. A weight that two layers share is left out: a change of it would act
    at another place, too.
    """
    order: list[nn.Module] = []
    known = linears(decoder.model)
    names = {id(module): name for name, module in decoder.model.named_modules()}
    users: dict[int, int] = {}
    for module in decoder.model.modules():
        for parameter in module.parameters(recurse=False):
            users[id(parameter)] = users.get(id(parameter), 0) + 1
    with ExitStack() as stack:
        stack.enter_context(frozen(decoder.model))
        for block in decoder.blocks:
            for module in block.modules():
                if names[id(module)] in known:
                    handle = module.register_forward_hook(lambda own, _, __: order.append(own))
                    stack.callback(handle.remove)
        batch = pad([[0, 0]], 0).to(decoder.device)
        decoder.base(**batch.forward_args(), use_cache=False)
    place = {id(module): number for number, module in enumerate(order)}

    def last_of(part: nn.Module) -> Linear | None:
        ran = [module for module in part.modules() if id(module) in place]
        if not ran:
            return None
        found = known[names[id(max(ran, key=lambda module: place[id(module)]))]]
        fits = found.outputs == decoder.hidden_size and users[id(found.weight)] == 1
        return found if fits else None

    every = ((last_of(part) for part in block.children()) for block in decoder.blocks)
    return tuple(tuple(one for one in found if one is not None) for found in every)
