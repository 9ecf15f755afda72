"""Direct success: the new fact is stated to the phrasings that the editor saw."""

from __future__ import annotations

from safeedit.probes.success import SuccessProbe
from safeedit.triples.facts import Fact


class DirectSuccess(SuccessProbe):
    """Modified and inserted facts are stated to the phrasings that the editor saw.

    Metric: share of prompts, averaged over facts, whose continuation begins with the new object and
    does not say the old one. Unit: fact. Protocol: greedy. Source: the efficacy of CounterFact
    (arXiv 2202.05262), by generated text (arXiv 2502.11177).
    """

    id = "success.direct"

    def templates(self, fact: Fact) -> tuple[str, ...]:
        """What the editor saw."""
        return fact.edit_templates
