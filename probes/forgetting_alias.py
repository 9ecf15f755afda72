"""Alias recall: the subject's other names."""

from __future__ import annotations

from safeedit.probes.leaks import LeakProbe
from safeedit.triples.facts import Fact


class AliasRecall(LeakProbe):
    """Erased facts are not said when the subject is called by another name.

    Metric: share of facts of which any continuation says the object. Unit: fact that has aliases.
    Protocol: greedy, the whole continuation scanned, every alias in edit phrasings and others;
    SKIPPED where no fact has an alias. Source: the alias attack of RWKU (arXiv 2406.10890).
    """

    id = "forgetting.alias"
    family = "forgetting"
    grade = "G1"

    def names(self, fact: Fact) -> tuple[str, ...]:
        """The aliases."""
        return fact.aliases

    def templates(self, fact: Fact) -> tuple[str, ...]:
        """All phrasings."""
        return (*fact.edit_templates, *fact.probe_templates)
