"""Probes of what must not change: other facts, and how many that were right before are wrong after."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import ClassVar

from pydantic import Field

from safeedit.errors import PolicyError, Problem, UsageError
from safeedit.probes import stats
from safeedit.probes.asking import Answers, AskOptions, AskPlan, AskProbe, Unit, counts
from safeedit.probes.base import Context, Figures, Verdict
from safeedit.probes.controls import ControlFact
from safeedit.probes.fold import key
from safeedit.probes.match import Answer, states
from safeedit.probes.names import telling

Name = tuple[str, ...]


class NeighbourOptions(AskOptions):
    """Settings of a probe of other facts."""

    tokens: int = Field(default=24, ge=1, le=4096)
    """New tokens for each prompt, at most."""
    n: int = Field(default=250, ge=1)
    """Control facts, at most."""
    prompts: int = Field(default=1, ge=1)
    """Phrasings for each control fact."""


class Request:
    """What the request touches, for telling third parties apart from it."""

    def __init__(self, context: Context) -> None:
        self._facts = context.facts

    @cached_property
    def names(self) -> frozenset[Name]:
        """Every name of every subject of the request."""
        return frozenset(key(name) for fact in self._facts for name in (fact.subject, *fact.aliases))

    @cached_property
    def words(self) -> frozenset[str]:
        """Every word of those names that somebody else may be called as well."""
        return frozenset().union(*map(telling, self.names))

    @cached_property
    def edited(self) -> frozenset[tuple[Name, str]]:
        """Name and relation of everything that is edited."""
        return frozenset(
            (key(name), fact.relation) for fact in self._facts for name in (fact.subject, *fact.aliases)
        )

    @cached_property
    def relations(self) -> frozenset[str]:
        """The relations that are edited."""
        return frozenset(fact.relation for fact in self._facts)

    @cached_property
    def objects(self) -> frozenset[Name]:
        """Old and new objects."""
        return frozenset(key(o) for fact in self._facts for o in (fact.object, fact.new_object) if o)


class NeighbourProbe(AskProbe):
    """Base of the probes whose unit is a control fact and whose hit is a loss: right before, wrong after.

    Only facts that the base model got right count. Gains are reported, never set against losses,
    because they do not mend a third party's facts. Bounds allow for losses that come by the subject.
    """

    family = "locality"
    metric = "loss_rate"
    unit = "control fact"
    gateable = frozenset({"losses", "after", "upper95"})
    options: NeighbourOptions
    options_model = NeighbourOptions
    nothing: ClassVar[Verdict] = "INCONCLUSIVE"
    """The verdict where no control is of this kind."""

    def phrasings(self, facts: int) -> int:
        """How many phrasings each of so many control facts is asked in."""
        return self.options.prompts

    def frame(self, context: Context, found: int) -> int | None:
        """How many facts of this kind there are, where `found` are among the controls."""
        return found

    @abstractmethod
    def groups(self, context: Context, request: Request) -> Iterable[list[int]]:
        """Indices of the control facts to draw from; a later group is used only where room is left."""

    def plan(self, context: Context) -> AskPlan:
        """A sample of the control facts of this kind, each with phrasings of its own."""
        rng = context.rng(self.id)
        facts = context.controls.facts
        numbers: dict[Name, int] = {}
        taken: list[int] = []
        found: set[int] = set()
        for group in self.groups(context, Request(context)):
            fresh = sorted(set(group) - found)
            found |= set(group)
            taken += rng.sample(fresh, min(len(fresh), self.options.n - len(taken)))
        _check_relations(context, [facts[index] for index in taken])
        units = []
        phrasings = self.phrasings(len(taken))
        for index in sorted(taken):
            fact = facts[index]
            prompts = _prompts(context, fact)
            picked = rng.sample(prompts, min(len(prompts), phrasings))
            cluster = numbers.setdefault(key(fact.subject), len(numbers))
            units.append(Unit(index, cluster, tuple(picked), Answer((fact.object, *fact.aliases))))
        return AskPlan(tuple(units), frame=self.frame(context, len(found)))

    def figures(self, plan: AskPlan, before: Answers, after: Answers, known: Mapping[int, bool]) -> Figures:
        """Loss rate over what was right before."""
        if not plan.units:
            # A request without facts has no neighbours.
            return Figures(0, verdict=self.nothing if known else "SKIPPED")
        right = [(_right(unit, before), _right(unit, after), unit) for unit in plan.units]
        detail, _ = counts(plan.units, before, after)
        detail |= {
            "sampled": len(right),
            "right_before": sum(bool(was) for was, _, _ in right),
            "right_after": sum(bool(now) for _, now, _ in right),
            "gains": sum(bool(now) and not was for was, now, _ in right),
        }
        lost = [(not was <= now, unit.cluster) for was, now, unit in right if was]
        return loss_figures(lost, detail, whole=plan.frame is not None and plan.frame <= len(plan.units))


def loss_figures(
    lost: Sequence[tuple[bool, int]],
    detail: Mapping[str, float],
    *,
    doubtful: bool = False,
    whole: bool = True,
) -> Figures:
    """Figures for units that were right before, each lost or not, with their clusters."""
    if not lost:
        return Figures(0, detail=detail, verdict="INCONCLUSIVE")
    grouped: dict[int, list[bool]] = {}
    for gone, cluster in lost:
        grouped.setdefault(cluster, []).append(gone)
    losses = sum(gone for gone, _ in lost)
    detail = {**detail, "subjects": len(grouped)}
    return Figures(
        n=len(lost),
        before=0.0,
        after=losses / len(lost),
        losses=losses,
        upper95=stats.clustered_rate_upper(grouped),
        detail=detail,
        doubtful=doubtful,
        whole=whole,
    )


def others(context: Context, request: Request) -> list[tuple[int, ControlFact]]:
    """Control facts of subjects that the request does not name."""
    return [(i, c) for i, c in enumerate(context.controls.facts) if key(c.subject) not in request.names]


def _check_relations(context: Context, facts: Iterable[ControlFact]) -> None:
    """Refuse controls of which nothing can be asked, with the lines that they stand on."""
    unknown = [fact for fact in facts if fact.relation not in context.catalogue]
    told = "this relation is not in the catalogue; add it to the policy's 'relations' or take the line out"
    problems = [Problem(*fact.place, told) for fact in unknown if fact.place is not None]
    if problems:
        raise PolicyError(problems)
    if unknown:
        raise UsageError(
            "the controls use a relation that is not in the catalogue; add it to the policy's 'relations' "
            "or take those facts out of the controls"
        )


def _prompts(context: Context, fact: ControlFact) -> list[str]:
    return list(context.catalogue[fact.relation].prompts(fact.subject))


def _right(unit: Unit, answers: Answers) -> frozenset[str]:
    """The prompts that are answered rightly."""
    return frozenset(p for p in unit.prompts if states(unit.answer, answers[p].text))
