"""Direct recall: the phrasings that the editor saw, and the subject's own name."""

from __future__ import annotations

from safeedit.probes.leaks import LeakProbe
from safeedit.triples.facts import Fact


class DirectRecall(LeakProbe):
    """Erased facts are not said to the phrasings that the editor saw.

    Metric: share of facts of which any continuation says the object. Unit: fact. Protocol: greedy,
    the whole continuation scanned with the subject's own name in every edit phrasing. Source: the
    efficacy of CounterFact (arXiv 2202.05262), by generated text instead of teacher forcing, which
    overstates (arXiv 2502.11177).
    """

    id = "forgetting.direct"
    family = "forgetting"
    grade = "G1"

    def names(self, fact: Fact) -> tuple[str, ...]:
        """The subject's own name."""
        return (fact.subject,)

    def templates(self, fact: Fact) -> tuple[str, ...]:
        """What the editor saw."""
        return fact.edit_templates
