"""Perplexity of retained prose."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from safeedit.errors import ProbeError
from safeedit.probes import stats
from safeedit.probes.base import Figures, View
from safeedit.probes.retained import TextPlan, TextProbe, log_probabilities


@dataclass(frozen=True)
class Loss:
    """How surprised the model was by one document."""

    nats: float
    tokens: int


class Perplexity(TextProbe[tuple[Loss, ...]]):
    """Retained prose stays as predictable as it was.

    Metric: ratio of perplexities, exp of the mean difference of the negative log-likelihood per
    token; the bound is over documents, paired. Unit: document. Protocol: one forward pass over
    each. Source: the perplexity ratio of any language model; pairing and clustering because the
    same documents are read twice and the tokens of one are not independent.
    """

    id = "utility.perplexity"
    metric = "perplexity_ratio"

    @property
    def protocol(self) -> str:
        """Negative log-likelihood over whole documents."""
        return f"nll-{self.options.tokens}"

    def observe(self, plan: TextPlan, view: View) -> tuple[Loss, ...]:
        """The loss on every document."""
        import torch

        rows = self.rows(plan, view)
        found = []
        for row, log_p in zip(rows, log_probabilities(view.model, view.tokenizer, rows), strict=True):
            following = torch.tensor(row[1:], device=log_p.device)
            nats = -log_p.gather(1, following[:, None]).double().sum().item()
            found.append(Loss(nats, len(row) - 1))
        return tuple(found)

    def figures(
        self, plan: TextPlan, before: tuple[Loss, ...], after: tuple[Loss, ...], known: Mapping[int, bool]
    ) -> Figures:
        """The ratio, and its bound over documents."""
        if [loss.tokens for loss in before] != [loss.tokens for loss in after]:
            raise ProbeError("the two models did not read the same tokens")
        if len(before) < 2:
            return Figures(len(before), verdict="INCONCLUSIVE")
        tokens = sum(loss.tokens for loss in before)
        rises = [b.nats - a.nats for a, b in zip(before, after, strict=True)]
        # Capped, so that a wreck gives a huge number and not an overflow.
        ratio = math.exp(min(50.0, math.fsum(rises) / tokens))
        return Figures(
            n=len(before),
            before=1.0,
            after=ratio,
            upper95=math.exp(min(50.0, stats.ratio_upper(rises, [loss.tokens for loss in before]))),
            detail={
                "tokens": tokens,
                "perplexity_before": math.exp(min(50.0, math.fsum(x.nats for x in before) / tokens)),
                "perplexity_after": math.exp(min(50.0, math.fsum(x.nats for x in after) / tokens)),
            },
        )
