"""Logit lens: what the hidden states after every block would say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from safeedit.probes.projected import ProjectedProbe, odds

if TYPE_CHECKING:
    from torch import Tensor


class LogitLens(ProjectedProbe):
    """Erased and modified facts cannot be read from the hidden states after any block.

    Metric: facts whose old object has, after some block, higher log-odds than chance allows, final norm
    and head applied; and the rate of facts whose object is among the k likeliest tokens. Unit: fact.
    Protocol: teacher-forced, every block, through the model's own head and through the base model's
    frozen one; log-odds are standardised block by block by those of invented subjects before the
    largest is taken; rates rest on the layers where the base model shows most, and the rate over all
    layers stands beside them. Source: the head-projection attack (arXiv 2309.17410).
    """

    id = "forgetting.lens"
    metric = "lens_hit_rate"

    @property
    def protocol(self) -> str:
        """Every block, top k."""
        return f"lens-top{self.options.k}"

    def look(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Rank and log-odds after each block."""
        return odds(logits, target)
