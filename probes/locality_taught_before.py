"""What earlier runs taught, asked again after a new edit of the same model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import Field

from safeedit.probes.asking import Answers, AskOptions, AskPlan, AskProbe, clusters, counts, fill
from safeedit.probes.base import Context, Figures
from safeedit.probes.cases import some_phrasings
from safeedit.probes.chat import both_ways
from safeedit.probes.earlier import about, some_of, to_be_said
from safeedit.probes.fold import key
from safeedit.probes.neighbours import loss_figures
from safeedit.probes.success import stating

LOST = 0.5
"""A fact is lost with this share of the phrasings that were answered with it."""


class TaughtBeforeOptions(AskOptions):
    """Settings of the probe of earlier insertions and modifications."""

    tokens: int = Field(default=32, ge=1, le=4096)
    """New tokens for each prompt, at most."""
    templates: int = Field(default=4, ge=1)
    """Phrasings for each fact, at most: half that the editor saw then, half that it did not."""
    facts: int = Field(default=386, ge=1)
    """Facts that are asked about, at most; of more a random sample."""


@dataclass(frozen=True, repr=False)
class TaughtBeforePlan(AskPlan):
    """Facts to ask for, and how many earlier requests nobody can read."""

    unreadable: int = 0
    waiting: int = 0
    """Facts that must still be said, those that are not asked for included."""

    def material(self) -> object:
        """As JSON values."""
        return {"asked": super().material(), "unreadable": self.unreadable, "waiting": self.waiting}


class TaughtBefore(AskProbe):
    """What earlier runs taught the same model is still stated.

    Metric: share of facts that runs below this one inserted or gave a new object, which the model that they
    left stated and which are lost after this edit: half or more of the phrasings that were answered with the
    new object (and not the old one) no longer are. Unit: fact of an earlier request. What later requests
    are about is left out. An earlier request that cannot be read any more keeps the probe from passing.
    Protocol: greedy, half of the phrasings ones that no editor saw. SKIPPED where the model is no other
    run's, or was taught nothing. Source: edits that interfere with earlier ones (arXiv 2401.07453), I5 and N5
    of the design brief.
    """

    id = "locality.taught_before"
    family = "locality"
    metric = "loss_rate"
    unit = "earlier fact"
    gateable = frozenset({"losses", "after", "upper95"})
    options: TaughtBeforeOptions
    options_model = TaughtBeforeOptions

    def plan(self, context: Context) -> TaughtBeforePlan:
        """Every fact that must still be said."""
        every = to_be_said(context)
        facts = some_of(context, every, self.id, self.options.facts)
        own = about(context, facts)
        subject = clusters(own)
        units = []
        for index, fact in enumerate(facts):
            templates = both_ways(own, some_phrasings(own, fact, self.options.templates))
            if templates:
                prompts = tuple(fill(template, fact.subject) for template in templates)
                units.append(stating(own, fact, index, subject[key(fact.subject)], prompts))
        return TaughtBeforePlan(
            tuple(units),
            untested=len(facts) - len(units),
            unreadable=context.earlier.unreadable,
            waiting=len(every),
        )

    def figures(self, plan: AskPlan, before: Answers, after: Answers, known: Mapping[int, bool]) -> Figures:
        """Facts that were lost; what `known` says is about the request itself, and plays no part."""
        assert isinstance(plan, TaughtBeforePlan)
        detail: dict[str, float] = {
            "facts": plan.waiting,
            "unreadable_runs": plan.unreadable,
            "untested": plan.untested,
        }
        doubtful = plan.unreadable > 0 or plan.untested > 0
        if not plan.units:
            return Figures(0, detail=detail, verdict="INCONCLUSIVE" if doubtful else "SKIPPED")
        was, now = _stated(plan, before), _stated(plan, after)
        more, _ = counts(plan.units, before, after)
        detail |= more | {
            "stated_before": _mean(plan, was),
            "stated_after": _mean(plan, now),
            "not_stated_before": sum(not found for found in was.values()),
        }
        lost = [
            (len(was[unit.index] - now[unit.index]) >= LOST * len(was[unit.index]), unit.cluster)
            for unit in plan.units
            if was[unit.index]
        ]
        return loss_figures(lost, detail, doubtful=doubtful)


def _stated(plan: AskPlan, answers: Answers) -> dict[int, frozenset[str]]:
    """By fact the prompts that are answered with it."""
    return {unit.index: frozenset(unit.stating(answers)) for unit in plan.units}


def _mean(plan: AskPlan, stated: Mapping[int, frozenset[str]]) -> float:
    return math.fsum(len(stated[unit.index]) / len(unit.prompts) for unit in plan.units) / len(plan.units)
