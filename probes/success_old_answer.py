"""The old answer of a modified fact, looked for everywhere."""

from __future__ import annotations

from safeedit.probes.leaks import LeakProbe
from safeedit.triples.facts import Fact


class OldAnswer(LeakProbe):
    """The old object of a modified fact is said no more, under any phrasing or name.

    Metric: share of modified facts of which any continuation says the old object; where the new
    object contains the old one, saying the new one does not count. Unit: fact. Protocol: greedy,
    the whole continuation scanned, all phrasings, all names. Source: a correction that leaves the
    old value reachable is none (the leak matcher of the forgetting probes, arXiv 2309.17410).
    """

    id = "success.old_answer"
    family = "success"
    grade = "G1"
    ops = frozenset({"modify"})
    excusable = False  # Who has a new answer is no stranger: the old one is wrong even where it is a guess.

    def names(self, fact: Fact) -> tuple[str, ...]:
        """All names."""
        return (fact.subject, *fact.aliases)

    def templates(self, fact: Fact) -> tuple[str, ...]:
        """All phrasings."""
        return (*fact.edit_templates, *fact.probe_templates)
