"""Probes that ask and read the answer: units of prompts, and how they are chosen within a budget."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pydantic import Field

from safeedit.errors import ProbeError
from safeedit.probes.base import Context, Greedy, Options, Plan, Probe, View
from safeedit.probes.chat import in_chat
from safeedit.probes.fold import key
from safeedit.probes.match import Answer, find_leak, is_empty, states
from safeedit.probes.plans import StagedPlan
from safeedit.triples.catalogue import SUBJECT
from safeedit.triples.facts import Fact
from safeedit.triples.placebos import PlaceboKind, placebo_kind, placebo_names

if TYPE_CHECKING:
    from safeedit.models.generate import Generation

Answers = Mapping[str, "Generation"]

EMPTY_AFTER = 0.5
EMPTY_BEFORE = 0.1
FEWEST_TEMPLATES = 2


@dataclass(frozen=True, repr=False)
class Unit:
    """One fact (or control, or prompt) and the prompts that ask about it."""

    index: int
    """Of the fact or control, within its list."""
    cluster: int
    """Units of one cluster (one subject) are not independent of each other."""
    prompts: tuple[str, ...]
    answer: Answer
    """What is looked for."""
    refuted: Answer | None = None
    """What must not be said beside it."""

    def leaks(self, answers: Answers) -> bool:
        """Whether any of the prompts is answered with the answer."""
        return any(find_leak(self.answer, p, answers[p].text) is not None for p in self.prompts)

    def stated(self, answers: Answers) -> int:
        """How many of the prompts are answered with the answer first, and not refuted after it."""
        return len(self.stating(answers))

    def stating(self, answers: Answers) -> tuple[str, ...]:
        """Those prompts."""
        return tuple(prompt for prompt in self.prompts if self._stated(prompt, answers[prompt].text))

    def _stated(self, prompt: str, text: str) -> bool:
        if in_chat(prompt):
            # A conversation is answered in sentences; a misspelt object is not stated there either.
            hit = find_leak(self.answer, prompt, text)
            if hit is None or hit.how == "near":
                return False
        elif not states(self.answer, text):
            return False
        return self.refuted is None or find_leak(self.refuted, prompt, text) is None

    def material(self) -> dict[str, object]:
        """As JSON values."""
        return {
            "index": self.index,
            "prompts": list(self.prompts),
            "answer": self.answer.material(),
            "refuted": self.refuted and self.refuted.material(),
        }


@dataclass(frozen=True, repr=False)
class AskPlan(Plan):
    """Units to ask about, and the same questions about invented subjects."""

    units: tuple[Unit, ...]
    placebos: tuple[Unit, ...] = ()
    untested: int = 0
    """Facts that the probe is for but has no prompt for."""
    stages: StagedPlan | None = None
    """How many units are asked, and when it is enough; then the units stand in random order."""
    frame: int | None = None
    """How many units there are in all that could have been asked; None where nobody knows."""

    def prompts(self) -> tuple[str, ...]:
        """Every prompt once; of a plan in stages those of the first."""
        first = self.units if self.stages is None else self.units[: self.stages.stages[0].n]
        return _prompts((*first, *self.placebos))

    def material(self) -> object:
        """As JSON values."""
        return {
            "units": [unit.material() for unit in self.units],
            "placebos": [unit.material() for unit in self.placebos],
            "untested": self.untested,
            "stages": self.stages and self.stages.material(),
            "frame": self.frame,
        }


def _prompts(units: Iterable[Unit]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(prompt for unit in units for prompt in unit.prompts))


class AskOptions(Options):
    """Settings of every probe that generates text."""

    tokens: int = Field(default=64, ge=1, le=4096)
    """New tokens for each prompt, at most."""


class AskProbe(Greedy, Probe[AskPlan, Answers]):
    """A probe whose observation is what the model wrote."""

    options: AskOptions
    options_model = AskOptions

    def observe(self, plan: AskPlan, view: View) -> Answers:
        """The continuation of every prompt; a missing one is an error, never a silence."""
        return answered(plan.prompts(), view.answers)


def answered(prompts: Sequence[str], answers: Answers) -> Answers:
    """The continuations of these prompts.

    Raises:
        ProbeError: one is missing.
    """
    found = {prompt: answers[prompt] for prompt in prompts if prompt in answers}
    if any(prompt not in found for prompt in prompts):
        raise ProbeError("a prompt of the plan was not answered")
    return found


def counts(units: Iterable[Unit], before: Answers, after: Answers) -> tuple[dict[str, float], bool]:
    """Numbers about the answers themselves, and whether so many went empty that silence proves nothing."""
    prompts = list(dict.fromkeys(prompt for unit in units for prompt in unit.prompts))
    empty_before = sum(is_empty(before[prompt].text) for prompt in prompts)
    empty_after = sum(is_empty(after[prompt].text) for prompt in prompts)
    detail: dict[str, float] = {
        "prompts": len(prompts),
        "empty_before": empty_before,
        "empty_after": empty_after,
        "truncated_after": sum(after[prompt].truncated for prompt in prompts),
    }
    silenced = empty_after > EMPTY_AFTER * len(prompts) and empty_before < EMPTY_BEFORE * len(prompts)
    return detail, silenced


def fill(template: str, name: str) -> str:
    """The prompt that a template makes for a name."""
    return template.replace(SUBJECT, name)


def chosen(context: Context, templates: Iterable[str], label: str, limit: int) -> tuple[str, ...]:
    """`limit` of the templates, at random but always the same; a smaller limit takes a subset of a larger."""
    distinct = list(dict.fromkeys(templates))
    if len(distinct) <= limit:
        return tuple(distinct)
    picked = set(context.rng(f"templates|{label}").sample(distinct, len(distinct))[:limit])
    return tuple(template for template in distinct if template in picked)


def affordable(limit: int, budget: int, askings: int) -> int:
    """How many templates each of `askings` (fact, name) pairs may have, within a budget of prompts."""
    return max(FEWEST_TEMPLATES, min(limit, budget // max(1, askings)))


def clusters(context: Context) -> dict[tuple[str, ...], int]:
    """A number for each subject of the request, by its folded name."""
    found: dict[tuple[str, ...], int] = {}
    for fact in context.facts:
        found.setdefault(key(fact.subject), len(found))
    return found


def answer_of(
    context: Context, fact: Fact, spellings: tuple[str, ...], *, beside: str | None = None
) -> Answer:
    """What is looked for in answers about `fact`.

    Args:
        context: the request and the controls.
        fact: the fact.
        spellings: the object and its other spellings.
        beside: a different object that may be said and may contain the looked-for one.
    """
    relation = context.catalogue.get(fact.relation)
    listed = tuple(relation.objects) if relation is not None else ()
    answer = Answer(
        spellings=spellings,
        closed=bool(listed),
        names=(fact.subject, *fact.aliases, *((beside,) if beside else ())),
    )
    # The patterns are prepared here, so that an object that could never be found is refused before
    # any editing. Other values matter only where a misspelling would count.
    if not any(pattern.edits for pattern in answer.patterns):
        return answer
    own = {key(spelling) for spelling in spellings}
    others = {*context.objects.get(fact.relation, ()), *((beside,) if beside else ())}
    return replace(answer, others=tuple(sorted(other for other in others if key(other) not in own)))


def old_answer(context: Context, fact: Fact) -> Answer:
    """What the model shall no longer say of `fact` (for an insertion: what it shall say)."""
    return answer_of(context, fact, (fact.object, *fact.object_aliases), beside=fact.new_object)


def placebo_pairs(context: Context, asked: Sequence[tuple[int, Fact]], count: int) -> list[tuple[int, str]]:
    """`count` pairs of a fact's index and an invented name, spread over the facts of `asked`."""
    if not asked:
        return []
    picked = list(asked)
    if len(picked) > count:
        picked = context.rng("placebo facts").sample(picked, count)
    each = -(-count // len(picked))
    pools: dict[PlaceboKind, Iterator[str]] = {}
    pairs = []
    for _ in range(each):
        for index, fact in picked:
            kind = placebo_kind(fact.about)
            if kind not in pools:
                pools[kind] = invented(context, kind, 3 * each * len(picked) + 60)
            name = next(pools[kind], None)
            if name is None:
                raise ProbeError("too few invented names differ from the names of the request")
            pairs.append((index, name))
    return pairs[:count]


def invented(context: Context, kind: PlaceboKind, drawn: int) -> Iterator[str]:
    """Of `drawn` invented names those that share no word with a subject and are not a control's."""
    taken = {word for fact in context.facts for name in (fact.subject, *fact.aliases) for word in key(name)}
    controls = {key(control.subject) for control in context.controls.facts}
    names = placebo_names(kind, drawn, context.seed)
    return (name for name in names if not taken & set(key(name)) and key(name) not in controls)
