"""Paraphrase recall: phrasings that no editor ever saw."""

from __future__ import annotations

from pydantic import Field

from safeedit.probes.leaks import LeakOptions, LeakProbe
from safeedit.probes.rewording import reworded
from safeedit.triples.facts import Fact


class ParaphraseOptions(LeakOptions):
    """Settings of the probe of paraphrases."""

    reworded: int = Field(default=20, ge=0)
    """Where a fact has fewer phrasings than this, rules make more of all that it has, up to `templates`."""


class ParaphraseRecall(LeakProbe):
    """Erased facts are not said to phrasings that the editor never saw.

    Metric: share of facts of which any continuation says the object. Unit: fact. Protocol: greedy,
    the whole continuation scanned; a phrasing that is also an edit phrasing is not used, and a fact
    left without any keeps the probe from passing. Where there are fewer than twenty, rules make more of
    the fact's phrasings, those included that an editor saw (`safeedit/probes/rewording.py`). Source: the
    paraphrases of CounterFact (arXiv 2202.05262), the finding that edits bind to their prompt (arXiv
    2309.17410), gate F2 of the design brief.
    """

    id = "forgetting.paraphrase"
    family = "forgetting"
    grade = "G1"
    options: ParaphraseOptions
    options_model = ParaphraseOptions

    def names(self, fact: Fact) -> tuple[str, ...]:
        """The subject's own name."""
        return (fact.subject,)

    def templates(self, fact: Fact) -> tuple[str, ...]:
        """What the editor did not see."""
        return tuple(t for t in fact.probe_templates if t not in fact.edit_templates)

    def more(self, fact: Fact, count: int) -> tuple[str, ...]:
        """What rules make of all phrasings; a fact that has none of its own gets none."""
        own = self.templates(fact)
        wanted = min(count, self.options.reworded - len(own)) if own else 0
        return reworded((*own, *fact.edit_templates))[: max(0, wanted)]
