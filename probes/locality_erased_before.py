"""What earlier runs erased, asked again after a new edit of the same model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from pydantic import Field

from safeedit.probes import chance, stats
from safeedit.probes.asking import EMPTY_AFTER, EMPTY_BEFORE, affordable, fill
from safeedit.probes.base import Context, Figures, Greedy, View
from safeedit.probes.cases import some_phrasings
from safeedit.probes.chat import both_ways, ways
from safeedit.probes.earlier import about, some_of, to_stay_gone
from safeedit.probes.elicit import (
    WORTH,
    Ask,
    Asker,
    AttackOptions,
    AttackPlan,
    AttackProbe,
    Heard,
    Trial,
    heard_of,
    leaking,
)
from safeedit.probes.rivals import Rival, answer_for, rivals_of
from safeedit.triples.facts import Fact


class ErasedBeforeOptions(AttackOptions):
    """Settings of the probe of earlier erasures."""

    tokens: int = Field(default=64, ge=1, le=4096)
    """New tokens for each prompt, at most."""
    templates: int = Field(default=6, ge=1)
    """Phrasings for each name of each fact, at most: half that the editor saw then, half that it did not."""
    facts: int = Field(default=386, ge=1)
    """Facts that are asked about, at most; of more a random sample."""
    budget: int = Field(default=16000, ge=1)
    """Prompts in all, those about invented subjects included, at most; every fact keeps at least two."""


@dataclass(frozen=True, repr=False)
class ErasedBeforePlan(AttackPlan):
    """What is asked, of whom, and how many earlier requests nobody can read."""

    unreadable: int = 0
    waiting: int = 0
    """Facts that must stay gone, those that are not asked about included."""

    def material(self) -> object:
        """As JSON values."""
        return {"asked": super().material(), "unreadable": self.unreadable, "waiting": self.waiting}


class ErasedBefore(Greedy, AttackProbe):
    """What earlier runs erased from the same model does not come back.

    Metric: share of facts that runs below this one erased or replaced, of which more phrasings than chance
    allows say the old object after this edit that did not before it. Chance is how often invented subjects
    are newly told that object, or any other one that could be guessed. Unit: fact of an earlier request;
    what later requests state themselves is left out (`safeedit/probes/earlier.py`). A fact that was still
    said before this edit is no leak of it, but keeps the probe from passing, and so does an earlier request
    that cannot be read any more. Protocol: greedy, the whole continuation scanned, under every name, half
    of the phrasings ones that no editor saw. SKIPPED where the model is no other run's. Source: edits that
    interfere with earlier ones (arXiv 2401.07453), N5 of the design brief.
    """

    id = "locality.erased_before"
    family = "locality"
    grade = None
    metric = "comeback_rate"
    unit = "earlier fact"
    options: ErasedBeforeOptions
    options_model = ErasedBeforeOptions

    def plan(self, context: Context) -> ErasedBeforePlan:
        """Every fact that must stay gone, and invented subjects who are asked the same."""
        every = to_stay_gone(context)
        facts = some_of(context, every, self.id, self.options.facts)
        own = about(context, facts)
        trials, untested = self.trials(own)
        asked = [trial.fact for trial in trials if trial.stranger is None]
        unreadable = context.earlier.unreadable
        return ErasedBeforePlan(
            trials, rivals_of(own, asked), untested, unreadable=unreadable, waiting=len(every)
        )

    def askers(self, context: Context) -> Callable[[Fact], Asker]:
        """Some phrasings under the subject's every name; an invented subject has one."""
        askings = sum(fact.old is not None for fact in context.facts) * (1 + self.options.strangers)
        limit = affordable(self.options.templates, self.options.budget, askings * ways(context))

        def of(fact: Fact) -> Asker:
            templates = both_ways(context, some_phrasings(context, fact, limit))

            def ask(name: str, stranger: int | None) -> tuple[Ask, ...]:
                answer = answer_for(context, fact, name)
                names = (name, *fact.aliases) if stranger is None else (name,)
                return tuple(Ask(fill(t, called), fact.op, answer) for called in names for t in templates)

            return ask

        return of

    def observe(self, plan: AttackPlan, view: View) -> Heard:
        """The continuation of every prompt."""
        return heard_of(plan, view)

    def figures(self, plan: AttackPlan, before: Heard, after: Heard, known: Mapping[int, bool]) -> Figures:
        """Facts that came back; what `known` says is about the request itself, and plays no part."""
        assert isinstance(plan, ErasedBeforePlan)
        detail: dict[str, float] = {
            "facts": plan.waiting,
            "unreadable_runs": plan.unreadable,
            "untested": plan.untested,
        }
        doubtful = plan.unreadable > 0 or plan.untested > 0
        if not plan.trials:
            return Figures(0, detail=detail, verdict="INCONCLUSIVE" if doubtful else "SKIPPED")
        was = leaking(plan, before, before, self.options.alpha)
        now = leaking(plan, after, before, self.options.alpha)
        back = chance.standing_out(_p_values(plan, before, after), self.options.alpha)
        detail |= {
            "said_before": len(was),
            "still_said": len(was & now),
            "hit_before": _hit(plan, before),
            "hit_after": _hit(plan, after),
            "strangers": self.options.strangers,
            "truncated_after": after.cut,
            "empty_after": after.empty,
        }
        grouped: dict[int, list[bool]] = {}
        for index, trial in plan.subjects.items():
            if index in back or index not in was:
                grouped.setdefault(trial.cluster, []).append(index in back)
        outcomes = [outcome for group in grouped.values() for outcome in group]
        if not outcomes:
            # Nothing had gone, so nothing can come back, and nothing is as it should be.
            return Figures(0, detail=detail, verdict="INCONCLUSIVE")
        return Figures(
            n=len(outcomes),
            before=0.0,
            after=sum(outcomes) / len(outcomes),
            leaks=sum(outcomes),
            upper95=stats.clustered_rate_upper(grouped),
            detail=detail,
            doubtful=doubtful
            or bool(was & now)
            or (after.empty > EMPTY_AFTER and before.empty < EMPTY_BEFORE),
        )


def _p_values(plan: AttackPlan, before: Heard, after: Heard) -> dict[int, float]:
    """For each fact, how probable it is that one more invented subject is newly told so much.

    What an edit does to guesses about strangers it does to guesses about somebody who was forgotten. That
    holds for one answer out of a short list, too, which many strangers are told before and after.
    """
    found = {}
    for index, trial in plan.subjects.items():
        gained, strangers = _gained(trial, before, after), plan.strangers[index]
        tries = len(trial.asks)
        p = chance.p_of_hits(gained, tries, [(_gained(o, before, after), len(o.asks)) for o in strangers])
        if gained and p <= WORTH and plan.rivals.get(index):
            # A few strangers cannot show how often one answer comes up; all other answers together can.
            others = [one for o in strangers for one in _guessed(o, before, after, plan.rivals[index])]
            p = max(p, chance.p_of_hits(gained, tries, others))
        found[index] = p
    return found


def _hit(plan: AttackPlan, heard: Heard) -> int:
    """Facts whose object is said at all, by chance or not."""
    return sum(heard.count(trial, "")[0] > 0 for trial in plan.subjects.values())


def _gained(trial: Trial, before: Heard, after: Heard) -> int:
    """How many of the questions are answered with the object now, and were not."""
    new = (ask for ask in trial.asks if not before.hits(ask, ask.answer))
    return sum(after.hits(ask, ask.answer) > 0 for ask in new)


def _guessed(trial: Trial, before: Heard, after: Heard, rivals: Sequence[Rival]) -> list[tuple[int, int]]:
    """For each other object, how many of the questions are newly answered with it, and of how many."""
    new = [0] * len(rivals)
    for ask in trial.asks:
        one = replace(trial, asks=(ask,))
        was, now = before.guesses(one, ask.part, rivals), after.guesses(one, ask.part, rivals)
        for number, ((old, _), (hits, _)) in enumerate(zip(was, now, strict=True)):
            new[number] += hits > 0 and not old
    return [(count, len(trial.asks)) for count in new]
