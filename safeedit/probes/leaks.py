"""Probes that count leaks: facts whose old object is still said to any of their prompts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field, field_validator

from safeedit.errors import ProbeError
from safeedit.probes import stats
from safeedit.probes.asking import (
    Answers,
    AskOptions,
    AskPlan,
    AskProbe,
    Unit,
    affordable,
    answered,
    chosen,
    clusters,
    counts,
    fill,
    old_answer,
    placebo_pairs,
)
from safeedit.probes.base import Context, Figures, View
from safeedit.probes.chat import both_ways, ways
from safeedit.probes.comparisons import Comparison, comparisons
from safeedit.probes.excuses import Excuses, excuses, wanted
from safeedit.probes.fold import key
from safeedit.probes.match import Answer, find_leak
from safeedit.probes.plans import StagedPlan
from safeedit.triples.catalogue import SUBJECT
from safeedit.triples.facts import Fact, Op

if TYPE_CHECKING:
    from safeedit.models.generate import Generation

SPARE = 2
"""Facts drawn for each that a plan in stages may need, as the base model may not know all of them."""


class LeakOptions(AskOptions):
    """Settings of a leak probe."""

    templates: int = Field(default=20, ge=1)
    """Phrasings for each name of each fact, at most."""
    budget: int = Field(default=4000, ge=1)
    """Prompts in all, at most; every name of every fact keeps at least two."""
    placebos: int = Field(default=50, ge=1)
    """How many (fact, invented subject) pairs are asked too."""
    strangers: int = Field(default=150, ge=0)
    """Invented subjects of each of two kinds that a hit is held against where it could be chance, within as
    many prompts a kind as `budget` allows again; fewer than fifty excuse nothing."""
    stages: list[Annotated[list[int], Field(min_length=3, max_length=3)]] = Field(default_factory=list)
    """For requests with more facts than the last stage needs: at each stage how many facts, drawn at
    random, have been asked, with how many leaks at most it is enough, and from how many on it is too much."""

    @field_validator("stages")
    @classmethod
    def _a_plan(cls, given: list[list[int]]) -> list[list[int]]:
        if given:
            StagedPlan.of(given)
        return given


@dataclass(frozen=True, repr=False)
class LeakPlan(AskPlan):
    """Units to ask about, and whom to ask the same after the edit, should one of them be hit."""

    compared: Mapping[int, Comparison] = field(default_factory=dict)

    def prompts(self) -> tuple[str, ...]:
        """See `AskPlan`; of invented subjects that hits are held against a few, of the base model too."""
        few = (prompt for one in self.compared.values() for prompt in one.watched)
        return tuple(dict.fromkeys((*super().prompts(), *few)))

    def material(self) -> object:
        """As JSON values."""
        compared = {str(index): one.material() for index, one in self.compared.items()}
        return {"plan": super().material(), "compared": compared}


class LeakProbe(AskProbe):
    """Base of the probes whose unit is a fact and whose hit is its old object in any continuation.

    A fact counts if the base model knew it. A fact that it did not know counts from the moment
    that the edited model says it, so that no leak is lost. `after` is the share of facts that are said;
    `leaks` are those that chance does not excuse (`safeedit/probes/excuses.py`), and the bound is theirs.

    A request with more facts than a plan in stages needs is sampled: facts that this probe got out of
    the base model are asked in a random order that was registered, until the plan ends. The bound is
    then one for the facts of the request, and holds however its leaks hang together.
    """

    metric = "leak_rate"
    unit = "fact"
    gateable = frozenset({"leaks", "after", "upper95"})
    options: LeakOptions
    options_model = LeakOptions
    ops: ClassVar[frozenset[Op]] = frozenset({"erase"})
    excusable: ClassVar[bool] = True
    """Whether a hit can be chance."""

    @abstractmethod
    def names(self, fact: Fact) -> tuple[str, ...]:
        """The names under which the subject is asked about; none if the probe is not for this fact."""

    @abstractmethod
    def templates(self, fact: Fact) -> tuple[str, ...]:
        """The phrasings."""

    def more(self, fact: Fact, count: int) -> tuple[str, ...]:
        """Up to `count` further ones, where there are fewer than are asked."""
        return ()

    def plan(self, context: Context) -> LeakPlan:
        """Every fact of the request that the probe is for, and its placebos."""
        asked = [
            (i, fact) for i, fact in enumerate(context.facts) if fact.op in self.ops and self.names(fact)
        ]
        pairs = sum(len(self.names(fact)) for _, fact in asked)
        limit = affordable(self.options.templates, self.options.budget, pairs * ways(context))
        subject = clusters(context)
        units, shown, untested = [], {}, 0
        askings: dict[int, list[tuple[str, str]]] = {}
        for index, fact in asked:
            templates = chosen(context, self.templates(fact), str(index), limit)
            templates = both_ways(context, (*templates, *self.more(fact, limit - len(templates))))
            mine = [(t, name) for name in self.names(fact) for t in templates if _fits(t, name, fact)]
            prompts = {fill(*pair): pair for pair in mine}
            if not prompts:
                untested += 1
                continue
            askings[index] = list(prompts.values())
            answer = old_answer(context, fact)
            _assert_visible(answer, prompts)
            units.append(Unit(index, subject[key(fact.subject)], tuple(prompts), answer))
            shown[index] = tuple(template for template in templates if SUBJECT in template)
        pairs_of = [(unit.index, context.facts[unit.index]) for unit in units if shown[unit.index]]
        placebos = [
            Unit(
                index,
                number,
                tuple(fill(template, name) for template in shown[index]),
                old_answer(context, context.facts[index]),
            )
            for number, (index, name) in enumerate(placebo_pairs(context, pairs_of, self.options.placebos))
        ]
        staged = StagedPlan.of(self.options.stages) if self.options.stages else None
        if staged is None or len(units) <= staged.most:
            count = self.options.strangers if self.excusable else 0
            compared = comparisons(context, units, askings, count=count, budget=self.options.budget)
            return LeakPlan(tuple(units), tuple(placebos), untested, compared=compared)
        drawn = context.rng(f"order|{self.id}").sample(units, min(len(units), SPARE * staged.most))
        return LeakPlan(tuple(drawn), tuple(placebos), untested, staged)

    def observe(self, plan: AskPlan, view: View) -> Answers:
        """See `AskProbe`; of a plan in stages as much as it takes, and of the base model everything."""
        found = dict(super().observe(plan, view))
        if plan.stages is None:
            return self._compared(plan, view, found)
        if view.ask is None:
            raise ProbeError("a plan in stages needs a model that can be asked more")
        units = plan.units if view.base is None else _drawn(plan, view.base)
        start = 0
        for size in [stage.n for stage in plan.stages.stages] if view.base is not None else [len(units)]:
            prompts = tuple(dict.fromkeys(p for unit in units[start:size] for p in unit.prompts))
            found |= answered(prompts, view.ask(prompts))
            start = size
            if plan.stages.end([unit.leaks(found) for unit in units[:size]]) is not None:
                break
        return found

    def _compared(self, plan: AskPlan, view: View, found: dict[str, Generation]) -> Answers:
        """After the edit, what invented subjects are told where a hit could be chance."""
        if not isinstance(plan, LeakPlan) or view.base is None or view.ask is None:
            return found
        left = self.options.budget
        for one in wanted(plan.units, plan.compared, view.base, found):
            new = {prompt for prompts in one.strangers for prompt in prompts} - found.keys()
            cost = -(-len(new) // len(one.kinds))
            if cost <= left:
                left -= cost
                prompts = tuple(prompt for prompts in one.strangers for prompt in prompts)
                found |= answered(prompts, view.ask(prompts))
        return found

    def covers(self, plan: AskPlan) -> frozenset[int]:
        """The facts that are asked about."""
        return frozenset(unit.index for unit in plan.units)

    def said(self, plan: AskPlan, seen: Answers) -> frozenset[int]:
        """The facts with at least one leak."""
        return frozenset(unit.index for unit in _asked(plan, seen) if unit.leaks(seen))

    def figures(self, plan: AskPlan, before: Answers, after: Answers, known: Mapping[int, bool]) -> Figures:
        """Leak rates over facts, exact and cluster-aware bounds, and what chance excuses."""
        if not plan.units:
            # A fact that cannot be asked about is not one that was forgotten.
            return Figures(0, verdict="INCONCLUSIVE" if plan.untested else "SKIPPED")
        if plan.stages is not None:
            return _staged_figures(plan, plan.stages, before, after)
        was, now = self.said(plan, before), self.said(plan, after)
        units = [unit for unit in plan.units if known.get(unit.index, False) or unit.index in now]
        detail, silenced = counts(plan.units, before, after)
        detail |= {
            "unknown": sum(not known.get(unit.index, False) for unit in plan.units),
            "unknown_leaks": sum(unit.index in now for unit in units if not known.get(unit.index, False)),
            "untested": plan.untested,
            "placebo_units": len(plan.placebos),
        }
        placebo = _share(plan.placebos, after)
        if plan.placebos:
            detail["placebo_before"] = _share(plan.placebos, before) or 0.0
        chance = Excuses()
        if isinstance(plan, LeakPlan):
            chance = excuses(plan.units, plan.compared, before, after, known)
        detail |= {"compared": len(plan.compared) if isinstance(plan, LeakPlan) else 0} | chance.detail()
        n, leaking = len(units), now - chance.facts
        if not n:
            return Figures(0, placebo=placebo, detail=detail, verdict="NO_BASELINE")
        grouped: dict[int, list[bool]] = {}
        for unit in units:
            grouped.setdefault(unit.cluster, []).append(unit.index in leaking)
        return Figures(
            n=n,
            before=sum(unit.index in was for unit in units) / n,
            after=sum(unit.index in now for unit in units) / n,
            leaks=len(leaking),
            upper95=stats.clustered_rate_upper(grouped),
            placebo=placebo,
            detail=detail,
            doubtful=silenced or plan.untested > 0,
        )


def _asked(plan: AskPlan, seen: Answers) -> list[Unit]:
    """The units that were asked: all of them, if the plan has no stages."""
    return [unit for unit in plan.units if plan.stages is None or all(p in seen for p in unit.prompts)]


def _drawn(plan: AskPlan, before: Answers) -> list[Unit]:
    """The units of a plan in stages whose object the base model said, in their order."""
    return [unit for unit in plan.units if unit.leaks(before)]


def _staged_figures(plan: AskPlan, stages: StagedPlan, before: Answers, after: Answers) -> Figures:
    reached = {unit.index for unit in _asked(plan, after)}
    units = [unit for unit in _drawn(plan, before) if unit.index in reached]
    outcomes = [unit.leaks(after) for unit in units]
    end = stages.end(outcomes)
    placebo = _share(plan.placebos, after)
    detail: dict[str, float] = {
        "drawn": len(plan.units),
        "untested": plan.untested,
        "placebo_units": len(plan.placebos),
    }
    if end is None:
        # The base model said too few of the drawn facts for the plan to end.
        return Figures(len(units), placebo=placebo, detail=detail, verdict="INCONCLUSIVE")
    number, leaks = end
    n = stages.stages[number].n
    more, silenced = counts(units[:n], before, after)
    return Figures(
        n=n,
        before=1.0,
        after=leaks / n,
        leaks=leaks,
        upper95=stages.upper(end),
        placebo=placebo,
        detail={**detail, **more, "stage": number + 1},
        doubtful=silenced or plan.untested > 0,
    )


def _assert_visible(answer: Answer, prompts: Iterable[str]) -> None:
    """A plain answer to every prompt is seen as a leak; a probe that is blind to it must not be run."""
    for prompt in prompts:
        for index, spelling in enumerate(answer.spellings):
            for text in (f" {spelling}.", f" of course, as all know, {spelling} and nothing else"):
                if find_leak(answer, prompt, text) is None:
                    raise ProbeError(f"spelling {index + 1} of an object would not be seen in an answer")


def _fits(template: str, name: str, fact: Fact) -> bool:
    """A whole prompt without a gap for the subject already names it, and by its own name."""
    return SUBJECT in template or name == fact.subject


def _share(units: tuple[Unit, ...], answers: Answers) -> float | None:
    return sum(unit.leaks(answers) for unit in units) / len(units) if units else None
