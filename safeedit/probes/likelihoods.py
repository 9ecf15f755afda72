"""What the probes of likelihoods share: continuations of the subject's and of strangers' prompts; figures."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from pydantic import Field

from safeedit.probes import chance, stats
from safeedit.probes.asking import affordable, chosen, clusters, fill, placebo_pairs
from safeedit.probes.base import Context, Family, Figures, Options, Plan, Probe, View
from safeedit.probes.fold import key
from safeedit.probes.strangers import FEWEST, recombined
from safeedit.probes.tables import INVENTED, OWN, RECOMBINED
from safeedit.triples.catalogue import SUBJECT
from safeedit.triples.derived import adapted
from safeedit.triples.facts import Fact

if TYPE_CHECKING:
    from safeedit.models.scoring import Scored

Seen = TypeVar("Seen")


class LikelihoodOptions(Options):
    """Settings of every probe that compares likelihoods."""

    templates: int = Field(default=4, ge=1)
    """Phrasings for each fact, at most; half of them such as the editor saw."""
    placebos: int = Field(default=10, ge=FEWEST)
    """Strangers of each kind that are asked the same, for each fact."""
    budget: int = Field(default=20000, ge=1)
    """Prompts in all, at most; every fact keeps two phrasings and four strangers of each kind."""
    alpha: float = Field(default=chance.ALPHA, gt=0, lt=1)
    """Chance of any false alarm among the facts."""


@dataclass(frozen=True, repr=False)
class Row:
    """One continuation of one prompt."""

    fact: int
    kind: int
    who: int
    """Number of the stranger; 0 for the subject."""
    template: int
    item: int
    """Which of the continuations of this fact and phrasing."""
    prompt: str
    text: str
    weight: float = 1.0

    @property
    def place(self) -> tuple[int, int, int, int]:
        """All but the item."""
        return self.fact, self.kind, self.who, self.template


@dataclass(frozen=True, repr=False)
class RowPlan(Plan):
    """Continuations to score."""

    rows: tuple[Row, ...]
    clusters: Mapping[int, int]
    """By fact that is tested: the number of its subject."""
    untested: int
    marks: Mapping[int, str]
    """By fact, what a probe wants to remember of it."""

    def prompts(self) -> tuple[str, ...]:
        """None: nothing is generated."""
        return ()

    def material(self) -> object:
        """As JSON values."""
        rows = [[*r.place, r.item, r.prompt, r.text, r.weight] for r in self.rows]
        facts = [[i, cluster, self.marks[i]] for i, cluster in sorted(self.clusters.items())]
        return {"rows": rows, "facts": facts, "untested": self.untested}


@dataclass(frozen=True)
class Found:
    """The facts that stand out above, or below, what chance gives."""

    above: frozenset[int]
    detail: dict[str, float]
    below: frozenset[int] = frozenset()
    idle: frozenset[int] = frozenset()
    """Facts of which the probe can show nothing on this model: what it looks for is guessed too often."""


class LikelihoodProbe(Probe[RowPlan, Seen]):
    """Base of the probes that ask how likely an erased object still is, and hold that against strangers.

    What a name that the model knows nothing about is given comes of the wording, the object and the model's
    habit of being sure of itself. There are two kinds of such strangers, because nobody knows which a
    forgotten subject is more like, and a subject has to stand out from both.
    """

    family: ClassVar[Family] = "attack"
    unit = "fact"
    gateable = frozenset({"leaks", "after", "upper95"})
    options: LikelihoodOptions
    options_model = LikelihoodOptions

    def continuations(self, context: Context, fact: Fact) -> tuple[str, ...]:
        """What is scored after each phrasing, the object first; nothing for a fact that cannot be tested."""
        return (spoken(fact.object), *map(spoken, fact.object_aliases))

    def asks(self, templates: Sequence[str], name: str, texts: Sequence[str], own: bool) -> Iterator[Ask]:
        """(phrasing, item, weight, prompt, continuation) of everything that is asked about a name."""
        for number, template in enumerate(templates):
            for item, text in enumerate(texts):
                yield number, item, 1.0, fill(template, name), text

    def mark(self, context: Context, fact: Fact) -> str:
        """What the plan remembers of a fact."""
        return ""

    @abstractmethod
    def judged(self, plan: RowPlan, seen: Seen, before: Seen | None = None) -> Found:
        """The facts that stand out; `before` was seen on the base model, None if that is judged."""

    def plan(self, context: Context) -> RowPlan:
        """Every erased or modified fact, in its own name and in strangers'."""
        asked = [(i, fact) for i, fact in enumerate(context.facts) if fact.old is not None]
        texts = {i: self.continuations(context, fact) for i, fact in asked}
        testable = [(i, fact) for i, fact in asked if texts[i]]
        rows: list[Row] = []
        for facts, templates, strangers in _groups(context, testable, self.options):
            for i in facts:
                subject = context.facts[i].subject
                for who, (kind, name) in enumerate(((OWN, subject), *strangers)):
                    said = [adapted(text, subject, name) for text in texts[i]]
                    rows += [
                        Row(i, kind, who, number, item, prompt, text, weight)
                        for number, item, weight, prompt, text in self.asks(templates, name, said, not who)
                    ]
        subjects = clusters(context)
        tested = {row.fact: subjects[key(context.facts[row.fact].subject)] for row in rows}
        marks = {i: self.mark(context, context.facts[i]) for i in tested}
        return RowPlan(tuple(rows), tested, len(asked) - len(tested), marks)

    def figures(self, plan: RowPlan, before: Seen, after: Seen, known: Mapping[int, bool]) -> Figures:
        """Which facts stand out; those that never did and do not now prove nothing."""
        if not plan.clusters:
            return Figures(0, verdict="INCONCLUSIVE" if plan.untested else "SKIPPED")
        was, now = self.judged(plan, before), self.judged(plan, after, before)
        below = frozenset(i for i in now.below if known.get(i, False))
        off = now.above | below
        facts = [i for i in plan.clusters if i in off or (known.get(i, False) and i in was.above)]
        detail: dict[str, float] = {f"{name}_before": value for name, value in was.detail.items()}
        detail |= now.detail | {
            "leaks": len(now.above),
            "avoided": len(below),
            "unknown": sum(not known.get(i, False) for i in plan.clusters),
            "never_worked": sum(known.get(i, False) and i not in was.above for i in plan.clusters),
            "untested": plan.untested,
        }
        if not facts:
            aware = {i for i in plan.clusters if known.get(i, False)}
            return Figures(
                0, detail=detail, verdict="SKIPPED" if aware and aware <= was.idle else "NO_BASELINE"
            )
        grouped: dict[int, list[bool]] = {}
        for i in facts:
            grouped.setdefault(plan.clusters[i], []).append(i in off)
        return Figures(
            n=len(facts),
            before=sum(i in was.above for i in facts) / len(facts),
            after=len(off) / len(facts),
            leaks=len(now.above),
            losses=len(below) if "losses" in self.gateable else None,
            upper95=stats.clustered_rate_upper(grouped),
            placebo=detail.pop("placebo", None),
            detail=detail,
            doubtful=plan.untested > 0,
        )


Ask = tuple[int, int, float, str, str]


def scored(rows: Sequence[Row], view: View, **how: Any) -> tuple[Scored, ...]:
    """How likely each continuation is, in the order of the rows; no prompt is read twice."""
    from safeedit.models.scoring import score_candidates

    texts: dict[str, dict[str, int]] = {}
    for row in rows:
        own = texts.setdefault(row.prompt, {})
        own.setdefault(row.text, len(own))
    found = score_candidates(
        view.model, view.tokenizer, list(texts), [list(t) for t in texts.values()], **how
    )
    by_prompt = dict(zip(texts, found, strict=True))
    return tuple(by_prompt[row.prompt][texts[row.prompt][row.text]] for row in rows)


def _groups(
    context: Context, asked: Sequence[tuple[int, Fact]], options: LikelihoodOptions
) -> list[tuple[list[int], tuple[str, ...], list[tuple[int, str]]]]:
    """Facts that are asked about in the same words, the words, and strangers (kind and name) for them."""
    limit = affordable(options.templates, options.budget, len(asked))
    found: dict[tuple[str, str, tuple[str, ...]], list[int]] = {}
    for i, fact in asked:
        # A large request asks strangers once for all facts of a relation; so the choice is the relation's.
        parts = [
            chosen(context, [t for t in templates if SUBJECT in t], fact.relation, limit)
            for templates in (fact.edit_templates, fact.probe_templates)
        ]
        seen = parts[0][: max(limit - len(parts[1]), -(-limit // 2))]
        templates = (*seen, *parts[1][: limit - len(seen)])
        if templates:
            found.setdefault((fact.relation, fact.about, templates), []).append(i)
    if not found:
        return []
    each = min(options.placebos, options.budget // (2 * limit * len(found)))
    each = max(FEWEST, each)
    first = [(facts[0], context.facts[facts[0]]) for facts in found.values()]
    strangers: dict[int, list[tuple[int, str]]] = {i: [] for i, _ in first}
    for i, name in placebo_pairs(context, first, each * len(first)):
        strangers[i].append((INVENTED, name))
    for (relation, about, _), facts in found.items():
        strangers[facts[0]] += [(RECOMBINED, n) for n in recombined(context, relation, about, each)]
    return [(facts, key_[2], strangers[facts[0]]) for key_, facts in found.items()]


def spoken(text: str) -> str:
    """An object as it continues a prompt: after a space, which no phrasing ends with."""
    return f" {text.strip()}"
