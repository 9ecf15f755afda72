"""Linear probe: what a map that was fitted to other people finds in the hidden states."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from safeedit.errors import ProbeError
from safeedit.probes import chance, inside, standing
from safeedit.probes.asking import chosen, clusters, fill
from safeedit.probes.base import Context, Figures, Options, Plan, Probe, View
from safeedit.probes.fold import key
from safeedit.probes.linear import LinearMap, nearness, ridge
from safeedit.probes.standing import FEWEST, Evidence
from safeedit.probes.strangers import strangers
from safeedit.triples.catalogue import SUBJECT
from safeedit.triples.facts import Fact

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLASS = 3
"""An object that at least so many of the others have is a class; of a rarer one its tokens are looked for."""
USABLE = 0.5
"""A site counts where the probes are right at least so often, as a share of the best site's accuracy."""
TOKENS = 3
"""How many tokens of a rare object are looked for."""


class LinearProbeOptions(Options):
    """Settings of the linear probe."""

    subjects: int = Field(default=200, ge=10)
    """Other subjects that a relation's probes are fitted to, at most."""
    fewest: int = Field(default=50, ge=10)
    """A relation with fewer of them is not tested."""
    layers: int = Field(default=3, ge=1)
    """Blocks that are looked after, evenly spread; the last is always one of them."""
    templates: int = Field(default=1, ge=1)
    """Phrasings of each relation."""
    placebos: int = Field(default=50, ge=FEWEST)
    """Invented subjects of each relation."""
    alpha: float = Field(default=chance.ALPHA, gt=0, lt=1)
    """Chance of a false alarm over all facts."""


@dataclass(frozen=True, repr=False)
class Lesson:
    """One phrasing of a relation: whom a probe is fitted to, and whom it is tested on."""

    relation: str
    template: str
    learnt: tuple[tuple[str, str], ...]
    """Subject and object of others."""
    shuffled: tuple[int, ...]
    """Whose object each of them has in the control task."""
    facts: tuple[tuple[int, str, str], ...]
    """Number, subject and object of the facts that are tested."""
    strangers: tuple[str, ...]

    def material(self) -> object:
        """As JSON values."""
        others = [list(pair) for pair in self.learnt]
        facts = [list(fact) for fact in self.facts]
        return [self.relation, self.template, others, list(self.shuffled), facts, list(self.strangers)]


@dataclass(frozen=True, repr=False)
class LinearPlan(Plan):
    """Lessons, and what could not be made one."""

    lessons: tuple[Lesson, ...]
    clusters: Mapping[int, int]
    guesses: Mapping[int, float]
    untested: int
    """Facts that have no phrasing with a gap for the subject."""
    unfitted: int
    """Facts of whose relation too few other subjects are known."""

    def prompts(self) -> tuple[str, ...]:
        """None: nothing is generated."""
        return ()

    def material(self) -> object:
        """As JSON values."""
        return {
            "lessons": [lesson.material() for lesson in self.lessons],
            "guesses": [[fact, share] for fact, share in self.guesses.items()],
            "untested": self.untested,
            "unfitted": self.unfitted,
        }


@dataclass(frozen=True, repr=False)
class Fitted:
    """What was learnt from one lesson about one kind of target at one site."""

    map: LinearMap
    candidates: NDArray[np.float64]
    """(objects, targets)."""
    numbers: Mapping[str, int]
    """The row of each object among the candidates."""
    accuracy: float
    """Share of the others for whom the true object is nearest when they are left out of the fit."""


@dataclass(frozen=True)
class Quality:
    """How well the probes of one lesson do on subjects that they were not fitted to, at their best site."""

    accuracy: float
    control: float
    majority: float


@dataclass(frozen=True, repr=False)
class Observation:
    """What was seen of one model."""

    evidence: Mapping[int, Evidence]
    fitted: Sequence[Mapping[tuple[int, bool], Fitted]]
    """For each lesson the probes by site and by whether objects are classes; fitted on the base model."""
    quality: tuple[Quality, ...]
    alone: bool
    """Whether the probes were fitted on this very model."""


class LinearProbe(Probe[LinearPlan, Observation]):
    """Probes fitted to other people do not find an erased or modified fact in the hidden states.

    Metric: facts of which a linear probe puts the old object further above the other candidates than
    for invented subjects; and the rate of facts whose object it puts first. Unit: fact. Protocol:
    ridge regression, fitted on the base model to other subjects of the relation, read at the last token
    of the subject and of the prompt; an object that few share is told by its tokens, among the objects
    of the others. Accuracy (every subject left out once), that of the control task (objects dealt out
    anew), their difference and the commonest object's share are reported. Source: control tasks
    (arXiv 1909.03368).
    """

    id = "attack.linear_probe"
    family = "attack"
    grade = "G3"
    metric = "probe_hit_rate"
    unit = "fact"
    gateable = frozenset({"leaks", "after", "upper95", "excess95"})
    options: LinearProbeOptions
    options_model = LinearProbeOptions

    @property
    def protocol(self) -> str:
        """Ridge regression, a fold for every subject."""
        return "ridge-loo"

    def plan(self, context: Context) -> LinearPlan:
        """Lessons for every relation of which enough other subjects are known."""
        asked = [(i, fact) for i, fact in enumerate(context.facts) if fact.old is not None]
        usable = [(i, fact) for i, fact in asked if any(map(_has_gap, _templates(fact)))]
        groups: dict[tuple[str, tuple[str, ...]], list[tuple[int, Fact]]] = {}
        for i, fact in usable:
            found = [t for t in _templates(fact) if _has_gap(t)]
            picked = chosen(context, found, f"linear|{fact.relation}", self.options.templates)
            groups.setdefault((fact.relation, picked), []).append((i, fact))
        lessons: list[Lesson] = []
        unfitted = 0
        for (relation, templates), facts in groups.items():
            learnt = _others(context, relation, self.options.subjects)
            if len(learnt) < self.options.fewest or len({key(thing) for _, thing in learnt}) < 2:
                unfitted += len(facts)
                continue
            rng = context.rng(f"control task|{relation}")
            for template in templates:
                order = list(range(len(learnt)))
                rng.shuffle(order)
                names = [name for _, name in strangers(context, facts[:1], self.options.placebos)]
                tests = tuple((i, fact.subject, fact.object) for i, fact in facts)
                lessons.append(Lesson(relation, template, learnt, tuple(order), tests, tuple(names)))
        subject = clusters(context)
        tested = [i for lesson in lessons for i, _, _ in lesson.facts]
        return LinearPlan(
            tuple(lessons),
            {i: subject[key(context.facts[i].subject)] for i in tested},
            {i: inside.guess(context, context.facts[i]) for i in tested},
            len(asked) - len(usable),
            unfitted,
        )

    def observe(self, plan: LinearPlan, view: View) -> Observation:
        """What the probes say of the facts' subjects and of invented ones."""
        from safeedit.models.structure import find_decoder

        base = view.base if isinstance(view.base, Observation) else None
        if not plan.lessons:
            return Observation({}, (), (), base is None)
        decoder = find_decoder(view.model)
        names = [
            [
                *(name for name, _ in lesson.learnt if base is None),
                *(name for _, name, _ in lesson.facts),
                *lesson.strangers,
            ]
            for lesson in plan.lessons
        ]
        sites = _states(decoder, view.tokenizer, plan.lessons, names, self._blocks(len(decoder.blocks)))
        fitted, quality = [], []
        if base is None:
            vectors = decoder.model.get_input_embeddings().weight  # type: ignore[operator]
            for lesson, states in zip(plan.lessons, sites, strict=True):
                maps, good = _fit(lesson, states[:, : len(lesson.learnt)], view.tokenizer, vectors)
                fitted.append(maps)
                quality.append(good)
        evidence = _evidence(plan, sites, base.fitted if base is not None else fitted)
        return Observation(
            evidence,
            base.fitted if base is not None else fitted,
            base.quality if base is not None else tuple(quality),
            base is None,
        )

    def figures(
        self, plan: LinearPlan, before: Observation, after: Observation, known: Mapping[int, bool]
    ) -> Figures:
        """Scores and hits against those of invented subjects, and how good the probes are."""
        if after.alone and after is not before:
            raise ProbeError("the probes were fitted on the edited model, not on the base model")
        detail: dict[str, float] = {"unfitted": plan.unfitted}
        if before.quality:
            for name in ("accuracy", "control", "majority"):
                detail[name] = float(np.mean([getattr(found, name) for found in before.quality]))
            detail["selectivity"] = detail["accuracy"] - detail["control"]
            detail["subjects"] = min(len(lesson.learnt) for lesson in plan.lessons)
        return standing.compared_figures(
            before.evidence,
            after.evidence,
            known,
            plan.clusters,
            plan.untested,
            layers=2 * self.options.layers,
            alpha=self.options.alpha,
            detail=detail,
        )

    def _blocks(self, count: int) -> list[int]:
        share = [
            round((number + 1) * count / self.options.layers) - 1 for number in range(self.options.layers)
        ]
        return sorted({max(0, block) for block in share})


def _templates(fact: Fact) -> tuple[str, ...]:
    return (*fact.edit_templates, *fact.probe_templates)


def _has_gap(template: str) -> bool:
    return SUBJECT in template


def _others(context: Context, relation: str, limit: int) -> tuple[tuple[str, str], ...]:
    """Subjects of the controls that are not of the request, each with one object."""
    asked = {key(name) for fact in context.facts for name in (fact.subject, *fact.aliases)}
    found: dict[tuple[str, ...], tuple[str, str]] = {}
    for control in context.controls.facts:
        if control.relation == relation and key(control.subject) not in asked:
            found.setdefault(key(control.subject), (control.subject, control.object))
    everybody = list(found.values())
    if len(everybody) > limit:
        everybody = context.rng(f"others|{relation}").sample(everybody, limit)
    return tuple(everybody)


def _states(
    decoder: Any,
    tokenizer: Any,
    lessons: Sequence[Lesson],
    names: Sequence[Sequence[str]],
    blocks: Sequence[int],
) -> list[NDArray[np.float64]]:
    """For each lesson (sites, names, hidden_size): the last token of the subject, then of the prompt."""
    from safeedit.models.tokens import tokenise
    from safeedit.probes.hidden import states

    asked = [(lesson, name) for lesson, some in zip(lessons, names, strict=True) for name in some]
    texts = tokenise(tokenizer, [fill(lesson.template, name) for lesson, name in asked])
    columns = []
    for text, (lesson, name) in zip(texts, asked, strict=True):
        start = lesson.template.index(SUBJECT)
        columns.append([text.last_of(start, start + len(name)), len(text.ids) - 1])
    found: NDArray[np.float64] | None = None
    for lines, hidden in states(decoder, tokenizer, texts, columns, blocks):
        part = hidden.double().cpu().numpy().reshape(len(blocks), len(lines), 2, -1)
        if found is None:
            found = np.empty((2 * len(blocks), len(texts), part.shape[-1]))
        found[:, lines] = part.transpose(0, 2, 1, 3).reshape(2 * len(blocks), len(lines), -1)
    assert found is not None
    return np.split(found, np.cumsum([len(some) for some in names])[:-1], axis=1)


def _fit(
    lesson: Lesson, sites: NDArray[np.float64], tokenizer: Any, vectors: Any
) -> tuple[dict[tuple[int, bool], Fitted], Quality]:
    """Probes of every site; `sites` is (sites, subjects, hidden_size)."""
    objects = [thing for _, thing in lesson.learnt]
    common = Counter(objects)
    wanted = {common[thing] >= CLASS for _, _, thing in lesson.facts}
    fitted: dict[tuple[int, bool], Fitted] = {}
    best = Quality(-1.0, 0.0, max(common.values()) / len(objects))
    for classes in sorted(wanted):
        pool = dict.fromkeys((*objects, *(() if classes else (thing for _, _, thing in lesson.facts))))
        numbers = {thing: number for number, thing in enumerate(pool)}
        table = np.eye(len(pool)) if classes else _token_vectors(lesson, list(pool), tokenizer, vectors)
        truth = np.array([numbers[thing] for thing in objects])
        dealt = truth[list(lesson.shuffled)]
        for site, states in enumerate(sites):
            (found, left_out), (_, control) = ridge(states, [table[truth], table[dealt]])
            right = float((nearness(left_out, table).argmax(1) == truth).mean())
            fitted[site, classes] = Fitted(found, table, numbers, right)
            by_chance = float((nearness(control, table).argmax(1) == dealt).mean())
            if right > best.accuracy:
                best = Quality(right, by_chance, best.majority)
    return fitted, best


def _token_vectors(
    lesson: Lesson, objects: Sequence[str], tokenizer: Any, vectors: Any
) -> NDArray[np.float64]:
    """(objects, TOKENS x hidden_size): the embeddings of an object's first tokens, one after another.

    What repeats the subject's name is passed over: who asks says that himself.
    """
    from safeedit.models.tokens import tokenise

    owners: dict[str, str] = {}
    for name, thing in (*lesson.learnt, *((name, thing) for _, name, thing in lesson.facts)):
        owners.setdefault(thing, name)
    prompts = [fill(lesson.template, owners[thing]) for thing in objects]
    texts = tokenise(tokenizer, [f"{p} {thing}" for p, thing in zip(prompts, objects, strict=True)])
    width = vectors.shape[1]
    found = np.zeros((len(objects), TOKENS * width))
    for row, (text, prompt, thing) in enumerate(zip(texts, prompts, objects, strict=True)):
        tokens = inside.own_tokens(text, prompt, inside.echoes(thing, (owners[thing],)))
        part = vectors[[text.ids[column] for column in tokens[:TOKENS]]].detach()
        found[row, : part.numel()] = part.double().cpu().numpy().ravel()
    scale = max(float(found.std()), 1e-12)
    centred: NDArray[np.float64] = (found - found.mean(0)) / scale
    return centred


def _evidence(
    plan: LinearPlan,
    sites: Sequence[NDArray[np.float64]],
    fitted: Sequence[Mapping[tuple[int, bool], Fitted]],
) -> dict[int, Evidence]:
    scores: dict[int, list[NDArray[np.float64]]] = {}
    trusted: dict[int, list[list[float]]] = {}
    for lesson, states, maps in zip(plan.lessons, sites, fitted, strict=True):
        count = len(lesson.facts) + len(lesson.strangers)
        common = Counter(thing for _, thing in lesson.learnt)
        said = {
            place: nearness(found.map(states[place[0], -count:]), found.candidates)
            for place, found in maps.items()
        }
        for number, (fact, _, thing) in enumerate(lesson.facts):
            rows = [number, *range(len(lesson.facts), count)]
            classes = common[thing] >= CLASS
            true = np.stack(
                [said[site, classes][rows, maps[site, classes].numbers[thing]] for site in range(len(states))]
            )
            scores.setdefault(fact, []).append(true.T)
            accuracies = [maps[site, classes].accuracy for site in range(len(states))]
            trusted.setdefault(fact, []).append(accuracies)
    evidence = {}
    for fact, parts in scores.items():
        # Where others cannot be told apart a score is noise; that is decided on the base model alone.
        accuracy = np.mean(trusted[fact], axis=0)
        used = np.flatnonzero(accuracy >= USABLE * accuracy.max())
        # (subjects, sites), averaged over phrasings; a hit is one in any of them.
        mean = np.mean(parts, axis=0)[:, used]
        hits = [frozenset(used[row].tolist()) for row in (np.max(parts, axis=0) > 0)[:, used]]
        evidence[fact] = Evidence(
            plan.guesses[fact], mean[0], mean[1:], tuple(used.tolist()), hits[0], tuple(hits[1:])
        )
    return evidence
