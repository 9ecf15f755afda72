"""Probability delta: what each block does to the answer, rather than what stands there after it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from safeedit.errors import ProbeError
from safeedit.probes.projected import ProjectedProbe, odds

if TYPE_CHECKING:
    from torch import Tensor


class ProbabilityDelta(ProjectedProbe):
    """No block raises or pushes down the old object of an erased or modified fact.

    Metric: facts of which some block changes the object's log-odds or probability more than chance
    allows, in either direction; and the rate of facts whose object is among the k tokens that gain or
    the k that lose most probability. Unit: fact. Protocol:
    teacher-forced, adjacent blocks, through the model's own head and through the base model's frozen
    one, held against invented subjects as the lens is. What holds an answer down in every layer
    leaves a dip where it starts to. Source: the probability-delta attack (arXiv 2309.17410).
    """

    id = "attack.delta"
    family = "attack"
    metric = "delta_hit_rate"
    two_sided = True
    scales = 2

    @property
    def protocol(self) -> str:
        """Adjacent blocks, top and bottom k."""
        return f"delta-top{self.options.k}-bottom{self.options.k}"

    def look(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Rank from the nearer end; the change of log-odds, and beside it that of the probability.

        The first shows what is done to an answer that is unlikely before and after, the second what few
        strangers' answers ever get.
        """
        import torch

        if len(logits) < 2:
            raise ProbeError("a model of one block has no adjacent blocks to compare")
        change = logits.softmax(-1).diff(dim=0)
        wanted = change.gather(-1, target.expand(change.shape[:2])[..., None])
        ranks = (change > wanted).sum(-1).minimum((change < wanted).sum(-1))
        logarithmic = odds(logits, target)[1].diff(dim=0)
        scores = torch.stack([logarithmic, wanted[..., 0]], dim=1).flatten(0, 1)
        return ranks.repeat_interleave(2, 0), scores
