"""Fine-tuning as an attack: what a model is taught, and a model that is as it was when the attack is over.

The model itself is trained and put back bit for bit. A copy would cost the memory twice over, and what
an edit hangs onto a model beside its weights (hooks, side memories) would not come along.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safeedit.errors import ProbeError
from safeedit.probes.asking import fill
from safeedit.probes.base import Context
from safeedit.probes.cases import Case, some_phrasings
from safeedit.probes.fold import key
from safeedit.probes.match import find_leak

if TYPE_CHECKING:
    from torch import Tensor

TELLING = 3
"""Words of fewer letters connect no facts."""
PHRASINGS = 4
"""In which a fact is taught, at most."""


@dataclass(frozen=True, repr=False)
class Lesson:
    """One text to learn, from a character on; what comes before is only read."""

    text: str
    start: int = 0


@dataclass(frozen=True, repr=False)
class Course:
    """One fine-tuning: kinds of lessons, each with the same share in every step."""

    variant: str
    kinds: tuple[tuple[Lesson, ...], ...]
    asked: frozenset[int]
    """The facts that are asked for afterwards; none of them is taught."""

    def material(self) -> dict[str, object]:
        """As JSON values."""
        return {
            "variant": self.variant,
            "kinds": [[[lesson.text, lesson.start] for lesson in kind] for kind in self.kinds],
            "asked": sorted(self.asked),
        }


class Censor:
    """Tells texts that name a subject of the request or say any of its answers; these are never taught."""

    def __init__(self, context: Context, cases: Sequence[Case]) -> None:
        self.answers = [case.answer for case in cases]
        facts = context.facts
        self.names = {words for f in facts for n in (f.subject, *f.aliases) if (words := key(n))}

    def passes(self, text: str) -> bool:
        """Whether a text gives nothing away."""
        said = key(text)
        if any(said[i : i + len(name)] == name for name in self.names for i in range(len(said))):
            return False
        return not any(find_leak(answer, "", text) for answer in self.answers)

    def some(self, texts: Iterable[Lesson], count: int) -> tuple[Lesson, ...]:
        """The first `count` lessons that pass."""
        found: list[Lesson] = []
        for lesson in texts:
            if len(found) == count:
                break
            if self.passes(lesson.text):
                found.append(lesson)
        return tuple(found)


def courses(context: Context, cases: Sequence[Case], lessons: int) -> tuple[Course, ...]:
    """The three variants of the attack, as far as there is something to teach.

    benign: prose, and what is true of others; half: a random half of the facts, asked for the other, and
    then the other way round; unrelated: prose alone.

    Args:
        context: the request and the controls.
        cases: the facts.
        lessons: texts of each kind, at most.
    """
    censor = Censor(context, cases)
    every = frozenset(case.index for case in cases)
    texts = list(dict.fromkeys(context.controls.texts))
    context.rng("relearning prose").shuffle(texts)
    prose = censor.some(map(Lesson, texts), lessons)
    others = censor.some(_others(context), lessons)
    found = []
    if prose or others:
        found.append(Course("benign", tuple(kind for kind in (others, prose) if kind), every))
    found += _halves(context, cases, censor)
    if prose:
        found.append(Course("unrelated", (prose,), every))
    return tuple(found)


def _others(context: Context) -> Iterator[Lesson]:
    """Facts of other people, those of the same relations first, in random phrasings."""
    rng = context.rng("relearning others")
    relations = {fact.relation for fact in context.facts}
    facts = [fact for fact in context.controls.facts if fact.relation in context.catalogue]
    rng.shuffle(facts)
    facts.sort(key=lambda fact: fact.relation not in relations)
    for fact in facts:
        prompt = rng.choice(context.catalogue[fact.relation].prompts(fact.subject))
        yield Lesson(f"{prompt} {fact.object}", len(prompt))


def _halves(context: Context, cases: Sequence[Case], censor: Censor) -> Iterator[Course]:
    """Two courses: each teaches half of the facts and asks for the other half.

    Invented subjects are taught the same relations, with objects of others, and asked the same, so
    that what comes of learning to answer is not taken for what comes back.
    """
    groups = related(cases)
    rng = context.rng("relearning halves")
    rng.shuffle(groups)
    halves: tuple[list[Case], list[Case]] = ([], [])
    for group in sorted(groups, key=len, reverse=True):
        min(halves, key=len).extend(group)
    if not all(halves):
        return
    for taught, asked in (halves, halves[::-1]):
        own: list[Lesson] = []
        invented: list[Lesson] = []
        for case in taught:
            own += _told(context, case, case.subject, case.wanted)
            known = context.objects.get(context.facts[case.index].relation, ())
            pool = [thing for thing in sorted(known) if censor.passes(thing)]
            for name in case.strangers:
                invented += _told(
                    context, case, name, rng.choice(pool) if pool else disguised(case.wanted, rng)
                )
        yield Course("half", (tuple(own), tuple(invented)), frozenset(case.index for case in asked))


def _told(context: Context, case: Case, name: str, thing: str) -> Iterator[Lesson]:
    for template in some_phrasings(context, context.facts[case.index], PHRASINGS):
        prompt = fill(template, name)
        yield Lesson(f"{prompt} {thing}", len(prompt))


def related(cases: Sequence[Case]) -> list[list[Case]]:
    """Facts of one subject whose objects share a word (a mail address and an employer, say) belong together.

    One would give the other away, so that they are taught, or asked, together. What follows from
    knowledge of the world, as a country does from a city, is not seen.
    """
    groups: list[tuple[set[str], list[Case]]] = []
    for case in cases:
        own = {f"{case.cluster} {word}" for s in case.answer.spellings for word in _telling(s, case.subject)}
        apart = [group for group in groups if not group[0] & own]
        joined = [group for group in groups if group[0] & own]
        words = own.union(*(group[0] for group in joined))
        groups = [*apart, (words, [*(c for group in joined for c in group[1]), case])]
    return [members for _, members in groups]


def _telling(text: str, subject: str) -> Iterator[str]:
    return (word for word in key(text) if len(word) >= TELLING and word not in key(subject))


def disguised(text: str, rng: random.Random) -> str:
    """Another text of the same form: every digit and every letter is drawn anew."""
    letters, digits = "abcdefghijklmnopqrstuvwxyz", "0123456789"

    def other(c: str) -> str:
        if c.isdigit():
            return rng.choice(digits)
        drawn = rng.choice(letters)
        return (drawn.upper() if c.isupper() else drawn) if c.isalpha() else c

    return "".join(map(other, text))


@dataclass(frozen=True)
class Training:
    """How hard a model is taught."""

    rate: float
    """Length of a step of Adam, in units of each weight's root mean square."""
    steps: int
    rows: int
    """Texts in a step."""
    tokens: int
    """Tokens of a text, at most."""
    weights: int
    """Weights that are trained, at most; where there are more, every second block, every third ..."""


@contextmanager
def taught(model: Any, tokenizer: Any, course: Course, how: Training, seed: int) -> Iterator[None]:
    """The model after a course; on leaving it is bit for bit what it was, whatever happened.

    All linear layers of the blocks are trained by Adam, as float32 copies where the model is in less.

    Raises:
        ProbeError: the loss or what it gave is not finite, or a course has no text that teaches.
    """
    import torch

    from safeedit.editors.training import Weights, trained
    from safeedit.models.hooks import frozen

    rows = [[row for lesson in kind if (row := _row(tokenizer, lesson, how.tokens))] for kind in course.kinds]
    if not all(rows):
        raise ProbeError("a kind of lessons has no text with a token to learn")
    tensors = _trainable(model, how.weights)
    with frozen(model), trained(tensors):
        learner = Weights(tensors, how.rate, None)
        rng = random.Random(f"{seed}|{course.variant}|{sorted(course.asked)}")
        for batch in _batches(rows, how, rng):
            loss = _loss(model, tokenizer, batch)
            if not torch.isfinite(loss):
                raise ProbeError("relearning gave a loss that is not finite")
            learner.step(torch.autograd.grad(loss, tensors, materialize_grads=True))
        if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
            raise ProbeError("relearning gave a weight that is not finite")
        with torch.no_grad():
            yield


def _trainable(model: Any, most: int) -> list[Tensor]:
    """The weights of the blocks' linear layers; those of evenly spaced blocks if there are too many."""
    from safeedit.models.quantise import quantisable

    weights = [linear.weight for linear in quantisable(model)]
    step = -(-sum(w.numel() for w in weights) // most)
    if step > 1:
        from safeedit.models.structure import find_decoder

        blocks = find_decoder(model).blocks[step - 1 :: step]
        inside = {id(p) for block in blocks for p in block.parameters()}
        weights = [w for w in weights if id(w) in inside]
    if not weights:
        raise ProbeError("no weight is left to train; raise 'weights'")
    return weights


@dataclass(frozen=True)
class _Row:
    ids: list[int]
    first: int
    """The first token that is learnt."""


def _row(tokenizer: Any, lesson: Lesson, most: int) -> _Row | None:
    from safeedit.models.tokens import tokenise

    [text] = tokenise(tokenizer, [lesson.text])
    row = _Row(text.ids[:most], max(1, text.first_from(lesson.start)))
    return row if row.first < len(row.ids) else None


def _batches(rows: Sequence[Sequence[_Row]], how: Training, rng: random.Random) -> Iterator[list[_Row]]:
    """Batches with the same share of every kind; each is gone through in random order, again and again."""
    waiting: list[list[_Row]] = [[] for _ in rows]
    for _ in range(how.steps):
        batch: list[_Row] = []
        for kind, queue in zip(rows, waiting, strict=True):
            share = max(1, how.rows // len(rows))
            while len(queue) < share:
                queue += rng.sample(kind, len(kind))
            batch += queue[:share]
            del queue[:share]
        yield batch


def _loss(model: Any, tokenizer: Any, rows: Sequence[_Row]) -> Tensor:
    """Mean over rows of the mean negative log-probability of what each teaches."""
    import torch

    from safeedit.models.tokens import pad, pad_id

    device = next(model.parameters()).device
    batch = pad([row.ids for row in rows], pad_id(tokenizer), "right").to(device)
    columns = torch.arange(batch.input_ids.shape[1], device=device)
    first = torch.tensor([[row.first] for row in rows], device=device)
    end = torch.tensor([[len(row.ids)] for row in rows], device=device)
    learnt = ((columns >= first) & (columns < end))[:, 1:]  # (rows, columns - 1)
    logits = model(**batch.forward_args(), use_cache=False).logits[:, :-1]
    losses = torch.zeros_like(learnt, dtype=torch.float32)
    chosen = torch.nn.functional.cross_entropy(
        logits[learnt].float(), batch.input_ids[:, 1:][learnt], reduction="none"
    )
    losses = losses.masked_scatter(learnt, chosen)
    return (losses.sum(1) / learnt.sum(1)).mean()
