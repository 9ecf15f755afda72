"""Probes of what a model should say now: precision first, because a half-right answer is not the new fact."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping

from pydantic import Field

from safeedit.probes import stats
from safeedit.probes.asking import (
    Answers,
    AskOptions,
    AskPlan,
    AskProbe,
    Unit,
    affordable,
    answer_of,
    chosen,
    clusters,
    counts,
    fill,
    old_answer,
)
from safeedit.probes.base import Context, Figures
from safeedit.probes.chat import both_ways, ways
from safeedit.probes.fold import key
from safeedit.triples.facts import Fact


class SuccessOptions(AskOptions):
    """Settings of a success probe."""

    templates: int = Field(default=20, ge=1)
    """Phrasings for each fact, at most."""
    budget: int = Field(default=4000, ge=1)
    """Prompts in all, at most; every fact keeps at least two."""


class SuccessProbe(AskProbe):
    """Base of the probes whose unit is a modified or inserted fact.

    The figure of a fact is the share of its prompts whose continuation begins with the new object and
    says the old one nowhere; in a chat, which is answered in sentences, it says the new one anywhere. The
    rate is the mean over facts; its bound is the exact binomial one for the whole facts that the mean
    makes, which is wider than a mean of shares needs. Modified facts whose old object the base model never
    said are not counted.
    """

    family = "success"
    metric = "success_rate"
    unit = "fact"
    gateable = frozenset({"after", "lower95"})
    grade = "G1"
    options: SuccessOptions
    options_model = SuccessOptions

    @abstractmethod
    def templates(self, fact: Fact) -> tuple[str, ...]:
        """The phrasings."""

    def plan(self, context: Context) -> AskPlan:
        """Every modified or inserted fact of the request."""
        asked = [(i, fact) for i, fact in enumerate(context.facts) if fact.target is not None]
        limit = affordable(self.options.templates, self.options.budget, len(asked) * ways(context))
        subject = clusters(context)
        units, untested = [], 0
        for index, fact in asked:
            templates = both_ways(context, chosen(context, self.templates(fact), str(index), limit))
            if not templates:
                untested += 1
                continue
            prompts = tuple(fill(template, fact.subject) for template in templates)
            units.append(stating(context, fact, index, subject[key(fact.subject)], prompts))
        return AskPlan(tuple(units), untested=untested)

    def figures(self, plan: AskPlan, before: Answers, after: Answers, known: Mapping[int, bool]) -> Figures:
        """Mean success over facts, before and after."""
        if not plan.units:
            return Figures(0, verdict="INCONCLUSIVE" if plan.untested else "SKIPPED")
        units = [unit for unit in plan.units if known.get(unit.index, False)]
        if not units:
            return Figures(0, verdict="NO_BASELINE")
        n = len(units)
        shares = [unit.stated(after) / len(unit.prompts) for unit in units]
        total = math.fsum(shares)
        detail, _ = counts(units, before, after)
        detail |= {
            "whole_facts": sum(share == 1 for share in shares),
            "unknown": len(plan.units) - n,
            "untested": plan.untested,
        }
        return Figures(
            n=n,
            before=math.fsum(unit.stated(before) / len(unit.prompts) for unit in units) / n,
            after=total / n,
            lower95=stats.binomial_lower(math.floor(total + 1e-9), n),
            detail=detail,
            doubtful=plan.untested > 0,
        )


def stating(context: Context, fact: Fact, index: int, cluster: int, prompts: tuple[str, ...]) -> Unit:
    """A modified or inserted fact, to be stated: its new object, and not the one that it replaced."""
    target = (fact.target or "", *(fact.object_aliases if fact.op == "insert" else ()))
    refuted = old_answer(context, fact) if fact.op == "modify" else None
    return Unit(index, cluster, prompts, answer_of(context, fact, target), refuted)
