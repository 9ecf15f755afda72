"""Paraphrase recall: phrasings that no editor ever saw."""

from __future__ import annotations

from safeedit.probes.leaks import LeakProbe
from safeedit.triples.facts import Fact


class ParaphraseRecall(LeakProbe):
    """Erased facts are not said to phrasings that the editor never saw.

    Metric: share of facts of which any continuation says the object. Unit: fact. Protocol: greedy,
    the whole continuation scanned; a phrasing that is also an edit phrasing is not used, and a fact
    left without any keeps the probe from passing. Source: the paraphrases of CounterFact (arXiv
    2202.05262) and the finding that edits bind to their prompt (arXiv 2309.17410).
    """

    id = "forgetting.paraphrase"
    family = "forgetting"
    grade = "G1"

    def names(self, fact: Fact) -> tuple[str, ...]:
        """The subject's own name."""
        return (fact.subject,)

    def templates(self, fact: Fact) -> tuple[str, ...]:
        """What the editor did not see."""
        return tuple(t for t in fact.probe_templates if t not in fact.edit_templates)
