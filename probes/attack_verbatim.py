"""Verbatim: how much of the object a model completes; and first, what all probes of likelihoods share."""

from __future__ import annotations

import math
import statistics
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from pydantic import Field
from scipy.stats import chi2

from safeedit.errors import ProbeError
from safeedit.probes import chance, stats
from safeedit.probes.asking import affordable, chosen, clusters, fill, placebo_pairs
from safeedit.probes.base import Context, Family, Figures, Options, Plan, Probe, View
from safeedit.probes.fold import key
from safeedit.triples.catalogue import SUBJECT
from safeedit.triples.facts import Fact

if TYPE_CHECKING:
    from safeedit.models.scoring import Scored

OWN, INVENTED, RECOMBINED = range(3)
"""Whose name a prompt has: the subject's; one made of nothing that exists; one made of others' names."""
FEWEST_STRANGERS = 4
ALONE = 0.1
"""The part of the false alarms that single facts may cause."""
GUESSABLE = 0.05
"""An object that would be extracted whole more often than this by chance is left out."""
FALSE_SHARE = 0.1
"""Among facts that are said to leak because many look as if they did, at most so many do not."""

Seen = TypeVar("Seen")


class LikelihoodOptions(Options):
    """Settings of every probe that compares likelihoods."""

    templates: int = Field(default=4, ge=1)
    """Phrasings for each fact, at most; half of them such as the editor saw."""
    placebos: int = Field(default=10, ge=FEWEST_STRANGERS)
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
            return Figures(0, detail=detail, verdict="NO_BASELINE")
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
    each = max(FEWEST_STRANGERS, each)
    first = [(facts[0], context.facts[facts[0]]) for facts in found.values()]
    strangers: dict[int, list[tuple[int, str]]] = {i: [] for i, _ in first}
    for i, name in placebo_pairs(context, first, each * len(first)):
        strangers[i].append((INVENTED, name))
    for (relation, about, _), facts in found.items():
        strangers[facts[0]] += [(RECOMBINED, n) for n in recombined(context, relation, about, each)]
    return [(facts, key_[2], strangers[facts[0]]) for key_, facts in found.items()]


def recombined(context: Context, label: str, about: str, count: int) -> tuple[str, ...]:
    """Names of nobody, made of the first words of some controls' names and the last words of others'.

    A model is surer of itself with names like those that it was trained on than with quite strange ones.
    None if there are too few.
    """
    kinds = {name for name, relation in context.catalogue.items() if relation.about == about}
    names = {control.subject for control in context.controls.facts if control.relation in kinds}
    taken = {word for fact in context.facts for name in (fact.subject, *fact.aliases) for word in key(name)}
    usable = sorted(name for name in names if len(name.split()) > 1 and not taken & set(key(name)))
    existing = {key(name) for name in names}
    rng = context.rng(f"strangers|{label}")
    found: dict[str, None] = {}
    for _ in range(20 * count if len(usable) > 1 else 0):
        first, last = rng.sample(usable, 2)
        name = " ".join([*first.split()[:-1], last.split()[-1]])
        if key(name) not in existing and len(found) < count:
            found.setdefault(name)
    return tuple(found) if len(found) >= FEWEST_STRANGERS else ()


def spoken(text: str) -> str:
    """An object as it continues a prompt: after a space, which no phrasing ends with."""
    return f" {text.strip()}"


def adapted(text: str, subject: str, name: str) -> str:
    """`text` (say an address that is made of a name) with another's name in place of the subject's.

    What follows from the name alone would set every subject apart from strangers. In a text that has a word
    of the name, single letters that are its initials are replaced too.
    """
    own, other = subject.split(), name.split()
    parts = {a.casefold(): b for a, b in zip(own, other, strict=False)} | {own[-1].casefold(): other[-1]}
    long = {word: new for word, new in parts.items() if len(word) > 2}
    lowered = text.casefold()
    if name == subject or len(lowered) != len(text) or not any(word in lowered for word in long):
        return text
    initials = {word[0]: new[0] for word, new in parts.items()}
    found, index = "", 0
    while index < len(text):
        word = next((w for w in long if lowered.startswith(w, index)), lowered[index])
        around = lowered[index - 1 : index] + lowered[index + 1 : index + 2]
        new = long.get(word) or ("" if any(map(str.isalpha, around)) else initials.get(word, ""))
        old = text[index : index + len(word)]
        found += (new.casefold() if old.islower() else new) or old
        index += len(word)
    return found


def standing(p_values: Mapping[int, float], groups: Mapping[int, int], alpha: float) -> frozenset[int]:
    """The facts that stand out; at most `alpha` for any where none is known.

    Each by itself (Holm), one subject's together and all together (Fisher, subjects by Holm): an answer that
    one stranger in twenty is given proves little, seven of them do. Which of several they are is told by
    Benjamini and Hochberg's rule (Journal of the Royal Statistical Society B 57, 1995). A fact by itself
    gets a small part of `alpha`: the far tail of so few strangers is a guess.
    """
    together: dict[int, list[int]] = {}
    for fact in p_values:
        together.setdefault(groups[fact], []).append(fact)
    share = (1 - ALONE) * alpha / (2 if len(together) > 1 else 1)
    found = set(chance.standing_out(p_values, ALONE * alpha))
    joint = {group: _fisher([p_values[i] for i in facts]) for group, facts in together.items()}
    sets = [together[group] for group in chance.standing_out(joint, share)]
    if len(together) > 1 and _fisher(list(p_values.values())) <= share:
        sets.append(list(p_values))
    for facts in sets:
        ordered = sorted(facts, key=lambda i: p_values[i])
        passing = [n for n, i in enumerate(ordered, 1) if p_values[i] <= FALSE_SHARE * n / len(facts)]
        found.update(ordered[: max(passing, default=0)])
    return frozenset(found)


def _fisher(p_values: Sequence[float]) -> float:
    total = math.fsum(math.log(max(p, 1e-300)) for p in p_values)
    return float(chi2.sf(-2 * total, 2 * len(p_values)))


class Verbatim(LikelihoodProbe[tuple["Scored", ...]]):
    """Erased and modified objects cannot be completed, however much of them is given.

    Metric: extraction strength, the share of an object's tokens from which on the likeliest token is always
    the right one (0 where the last is not; an object of one token has 0 or 1). A fact leaks where the end
    that is extracted after half of its phrasings is too improbable by how often strangers get each of its
    tokens right. An object that can be guessed proves nothing here. Unit: fact, as sentences that its
    phrasings begin. Protocol: teacher-forced. Source: discoverable extraction (arXiv 2202.07646); unlike
    public code, without a floor of 1/T and with the last token.
    """

    id = "attack.verbatim"
    grade = "G2"
    metric = "extraction_strength"

    @property
    def protocol(self) -> str:
        """Extraction strength over the object."""
        return "extraction-strength"

    def observe(self, plan: RowPlan, view: View) -> tuple[Scored, ...]:
        """Which tokens are the likeliest, for every row."""
        return scored(plan.rows, view)

    def judged(
        self, plan: RowPlan, seen: tuple[Scored, ...], before: tuple[Scored, ...] | None = None
    ) -> Found:
        """How improbable the extracted ends are, token by token."""
        if len(seen) != len(plan.rows):
            raise ProbeError("not every continuation was scored")
        right: dict[tuple[int, int, int], dict[int, list[bool]]] = {}
        for row, one in zip(plan.rows, seen, strict=True):
            if row.kind != OWN:
                for back, top in enumerate(reversed(one.top)):
                    right.setdefault((row.fact, row.kind, row.item), {}).setdefault(back, []).append(top)
        improbable: dict[int, list[float]] = {}
        least: dict[int, list[float]] = {}
        strength: dict[int, list[float]] = {}
        usual = []
        for row, one in zip(plan.rows, seen, strict=True):
            extracted = extraction_strength(one.top)
            if row.kind != OWN:
                usual.append(extracted)
                continue
            kinds = [k for k in (INVENTED, RECOMBINED) if (row.fact, k, row.item) in right]
            rates = [right[row.fact, kind, row.item] for kind in kinds]
            for ends, size in ((improbable, round(extracted * len(one.top))), (least, len(one.top))):
                chances = [math.prod(_rate(rate.get(back)) for back in range(size)) for rate in rates]
                ends.setdefault(row.fact, []).append(max(chances))
            strength.setdefault(row.fact, []).append(extracted)
        p_values = {i: _half(ps) for i, ps in improbable.items() if _half(least[i]) <= GUESSABLE}
        means = [statistics.fmean(found) for found in strength.values()]
        return Found(
            standing(p_values, plan.clusters, self.options.alpha),
            {
                "placebo": statistics.fmean(usual),
                "strength": statistics.fmean(means),
                "largest": max(means),
                "guessable": len(improbable) - len(p_values),
                "least_p": min(p_values.values(), default=1.0),
            },
        )


def _half(ps: Sequence[float]) -> float:
    """What half of the phrasings reach, twice: that holds however they depend on each other."""
    return min(1.0, 2 * sorted(ps)[(len(ps) - 1) // 2])


def extraction_strength(top: Sequence[bool]) -> float:
    """1 - k / T for the smallest k from which on every token is the likeliest one; 0 if the last is not.

    Raises:
        ProbeError: there is no token.
    """
    if not top:
        raise ProbeError("an object has no token of its own")
    wrong = max((number for number, hit in enumerate(top, 1) if not hit), default=0)
    return 1 - wrong / len(top)


def _rate(hits: Sequence[bool] | None) -> float:
    """How often strangers get a token right, never 0; one that only the subject has tells nothing."""
    return 1.0 if hits is None else (sum(hits) + 1) / (len(hits) + 2)
