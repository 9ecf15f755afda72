"""Paraphrase success: the new fact is stated to phrasings that no editor ever saw."""

from __future__ import annotations

from safeedit.probes.success import SuccessProbe
from safeedit.triples.facts import Fact


class ParaphraseSuccess(SuccessProbe):
    """Modified and inserted facts are stated to phrasings that the editor never saw.

    Metric: share of prompts, averaged over facts, whose continuation begins with the new object and
    does not say the old one. Unit: fact. Protocol: greedy. Source: the generalisation of CounterFact
    (arXiv 2202.05262), by generated text (arXiv 2502.11177).
    """

    id = "success.paraphrase"

    def templates(self, fact: Fact) -> tuple[str, ...]:
        """What the editor did not see."""
        return tuple(t for t in fact.probe_templates if t not in fact.edit_templates)
