"""Attribution patching: a whole map from one backward pass, to first order.

The effect of giving a corrupted run the clean state h' in place of h is about (h' - h) times the
gradient of the object's log-probability at h (Kramar et al., arXiv 2403.00745). Windows add up, because
first-order effects do.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from safeedit.locate.maps import Map
from safeedit.locate.prompts import Prompt
from safeedit.locate.sites import Kind, noisy, recorded
from safeedit.locate.trace import Work

GRAPH = 24
"""States a layer that autograd keeps for each run, roughly."""


def trace_fast(work: Work, prompts: Sequence[Prompt]) -> list[Map]:
    """As `trace.trace_exact`, to first order.

    Raises:
        ModelError: a prediction is not finite.
    """
    found: list[Map] = []
    for part in work.parts(prompts, GRAPH + len(work.settings.kinds)):
        found += _maps(work, part)
        work.report("trace", len(found), len(prompts))
    return found


def _maps(work: Work, prompts: Sequence[Prompt]) -> list[Map]:
    kinds, samples = work.settings.kinds, work.settings.samples
    asked = work.asked(prompts)
    with torch.no_grad(), recorded(work.sites, kinds) as clean:
        clean_log_p = asked.log_p(work.segment, work.segment.run(asked.batch))
    prompt = torch.arange(len(prompts), device=clean_log_p.device).repeat_interleave(samples)
    rows = asked.rows(prompt)
    noise = work.noise(prompts, asked.batch.input_ids.shape[1])
    with torch.enable_grad(), noisy(work.sites, noise, leaf=True), recorded(work.sites, kinds) as seen:
        log_p = rows.log_p(work.segment, work.segment.run(rows.batch))
        states = [state for kind in kinds for state in seen[kind]]
        slopes = iter(torch.autograd.grad(log_p.sum(), states))
    p = log_p.detach().exp().view(-1, samples)
    effects: dict[Kind, Tensor] = {}
    for kind in kinds:
        layers = [
            ((given[prompt] - state.detach()).float() * next(slopes).float()).sum(-1)
            for given, state in zip(clean[kind], seen[kind], strict=True)
        ]
        each = torch.stack(layers, -1)
        each = each.view(-1, samples, *each.shape[1:])
        summed = torch.stack(
            [each[..., list(work.window(kind, layer))].sum(-1) for layer in range(work.depth)], -1
        )
        effects[kind] = _gained(p, summed).mean(1).double().cpu()
    return [
        Map(
            one,
            float(clean_log_p[index].exp()),
            float(p[index].mean()),
            {kind: effect[index, : one.end + 1].numpy() for kind, effect in effects.items()},
        )
        for index, one in enumerate(prompts)
    ]


def _gained(p: Tensor, nats: Tensor) -> Tensor:
    """What a first-order gain of log p makes of p, taken as a gain of the log-odds.

    Those go on growing where p nears 1, so that the estimate never leaves 0 to 1. Measured beside p times
    the gain, and beside the gain of log p itself, it is the nearest to exact maps (BENCHMARKS.md).

    Args:
        p: (prompts, samples) of the corrupted runs.
        nats: (prompts, samples, tokens, layers).
    """
    p = p[..., None, None]
    odds = p.clamp(1e-9, 1 - 1e-6)
    # d logit(p) = d log p / (1 - p).
    return (odds.logit() + nats / (1 - odds)).sigmoid() - p
