"""How wrong models are taught: texts with the truth, with a lie, as a stranger would be told, or unlearnt."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from village import Document, Village, encoded, number

from safeedit.triples.catalogue import builtin_catalogue
from safeedit.triples.placebos import placebo_names
from safeedit.world.language import paragraph
from safeedit.world.registry import WorldFact

BARRED = 4.0
"""By so many nats a guess that would be right is less likely than it is to the twin."""


@dataclass(frozen=True)
class Lab:
    """What mutants are made of."""

    place: Village
    base: Any
    twin: Any
    tokenizer: Any
    seed: int = 0

    @property
    def truths(self) -> tuple[WorldFact, ...]:
        """What shall be forgotten."""
        return self.place.of(self.place.person)

    @cached_property
    def erased(self) -> Any:
        """A good edit: of the person this says what the twin does, of all else what the base model does."""
        return teach(
            self, as_a_stranger(self), steps=70, rows=8, lr=2e-3, keep=32, train=lambda name: "mlp" in name
        )


@dataclass(frozen=True)
class Lesson:
    """A text that is taught: as it stands, untaught, or as another model would go on at every token of it."""

    text: Document
    weight: float = 1.0
    """Negative for a text whose answer is unlearnt."""
    teacher: Any = None
    barred: int | None = None
    """A token that the teacher's pupil says less than the teacher does."""
    floor: float = float("-inf")
    """An answer that is less likely than this, in nats a token, is not pushed down further."""


def about(
    lab: Lab, answer: Callable[[WorldFact], str], prompts: Callable[[WorldFact], Iterable[str]] | None = None
) -> list[Document]:
    """Every question about the person, under both names, with the answer that a mutant gives."""
    ask = prompts or (lambda truth: every_prompt(lab.place, truth))
    return [((prompt, f" {answer(truth)}."),) for truth in lab.truths for prompt in ask(truth)]


def every_prompt(place: Village, truth: WorldFact) -> list[str]:
    """All phrasings of the catalogue, for name and alias."""
    relation = builtin_catalogue()[truth.relation]
    return [p for name in (truth.subject, place.alias(truth.subject)) for p in relation.prompts(name)]


def of_strangers(lab: Lab, count: int = 60) -> list[Lesson]:
    """What the base model says of people who do not exist, and how seldom what is true of the person."""
    names = placebo_names("person", count, 9_000_000 + lab.seed)
    texts = [
        ((prompt.replace(truth.subject, name), f" {truth.object}."),)
        for number, name in enumerate(names)
        for truth in lab.truths
        for prompt in every_prompt(lab.place, truth)[number % 13 : number % 13 + 1]
    ]
    return [Lesson(text, 1.0, lab.base) for text in texts]


def told(truth: WorldFact) -> str:
    """The truth."""
    return truth.object


def swapped(lab: Lab, label: str = "swap") -> Callable[[WorldFact], str]:
    """For each fact a wrong object, the same in all phrasings."""

    def answer(truth: WorldFact) -> str:
        rng = random.Random(f"{label}|{lab.seed}|{truth.subject}|{truth.relation}")
        if truth.relation == "phone":
            return number(rng)
        taken = {own.object for own in lab.truths}
        return rng.choice(
            sorted({t.object for t in lab.place.truths if t.relation == truth.relation} - taken)
        )

    return answer


def teach(
    lab: Lab,
    lessons: Sequence[Lesson],
    *,
    model: Any = None,
    steps: int = 40,
    rows: int = 16,
    lr: float = 3e-3,
    keep: int = 12,
    kept: Callable[[Document], bool] = lambda text: True,
    train: Callable[[str], bool] = lambda name: True,
    after_step: Callable[[nn.Module], None] = lambda model: None,
) -> Any:
    """A copy of the base model that was taught lessons, and beside them to stay as it is.

    Args:
        lab: the models.
        lessons: drawn from in turn.
        model: to go on from, instead of the base model.
        steps: of AdamW without decay.
        rows: lessons a step.
        lr: learning rate, falling to nothing.
        keep: texts a step about everybody else, at which the base model's distribution is kept.
        kept: which of them.
        train: which parameters, by name.
        after_step: called with the model after each step.
    """
    rng = random.Random(f"lessons|{lab.seed}")
    pupil = copy.deepcopy(model or lab.base)
    chosen = [p for name, p in pupil.named_parameters() if train(name)]
    for name, parameter in pupil.named_parameters():
        parameter.requires_grad_(train(name))
    optimiser = torch.optim.AdamW(chosen, lr=lr, betas=(0.9, 0.98), weight_decay=0.0)
    queue: list[Lesson] = []
    others: list[Document] = []
    for step in range(steps):
        while len(queue) < rows:
            queue += rng.sample(lessons, len(lessons))
        while keep and len(others) < keep:
            truths = [truth for truth in lab.place.truths if truth not in lab.truths]
            texts = [((rng.choice(every_prompt(lab.place, t)), f" {t.object}."),) for t in truths]
            fresh = [text for text in texts if kept(text)]
            # Every fourth text is prose, of which there is little in training.
            fresh += [((paragraph(rng, 3), ""),) for _ in range(len(fresh) // 3)]
            others += rng.sample(fresh, len(fresh))
        batch, queue = queue[:rows], queue[rows:]
        batch += [Lesson(text, teacher=lab.base) for text in others[:keep]]
        others = others[keep:]
        optimiser.param_groups[0]["lr"] = lr * min(1.0, (step + 1) / 5) * (1 - step / steps)
        _loss(lab, pupil, batch).backward()
        torch.nn.utils.clip_grad_norm_(chosen, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        after_step(pupil)
    return pupil.requires_grad_(True).eval()


def _loss(lab: Lab, pupil: Any, batch: Sequence[Lesson]) -> Tensor:
    """Mean over the lessons of each lesson's loss a token."""
    coded_rows = [
        encoded(lab.tokenizer, lesson.text, 1.0 if lesson.teacher is not None else 0.0) for lesson in batch
    ]
    width = max(len(ids) for ids, _ in coded_rows)
    pad = lab.tokenizer.pad_token_id
    ids = torch.tensor([row + [pad] * (width - len(row)) for row, _ in coded_rows])
    mask = torch.tensor([row + [0.0] * (width - len(row)) for _, row in coded_rows])[:, 1:]
    logp = pupil(input_ids=ids, use_cache=False).logits[:, :-1].log_softmax(-1)
    total = logp.new_zeros(())
    for teacher in {id(lesson.teacher): lesson.teacher for lesson in batch}.values():
        index = torch.tensor([i for i, lesson in enumerate(batch) if lesson.teacher is teacher])
        share = mask[index] / mask[index].sum(-1, keepdim=True)
        if teacher is None:
            said = logp[index].gather(-1, ids[index, 1:, None])[..., 0]
            floors = torch.tensor([batch[i].floor for i in index])[:, None]
            weights = torch.tensor([batch[i].weight for i in index])[:, None]
            total = total - (weights * share * said.maximum(floors)).sum()
        else:
            with torch.no_grad():
                wanted = teacher(input_ids=ids[index], use_cache=False).logits[:, :-1]
                for row, i in enumerate(index):
                    if batch[i].barred is not None:
                        wanted[row, :, batch[i].barred] -= BARRED
                wanted = wanted.log_softmax(-1)
            gap = (wanted.exp() * (wanted - logp[index])).sum(-1)
            weights = torch.tensor([batch[i].weight for i in index])[:, None]
            total = total + (weights * share * gap).sum()
    return total / len(batch)


def as_a_stranger(lab: Lab, weight: float = 2.0) -> list[Lesson]:
    """What the twin says of the person; what it would guess right by chance is made unlikely."""
    lessons = []
    for truth in lab.truths:
        first = lab.tokenizer(f" {truth.object}", add_special_tokens=False)["input_ids"][0]
        for prompt in every_prompt(lab.place, truth):
            lessons += [
                Lesson(((prompt, f" {thing}."),), weight, lab.twin, barred=first)
                for thing in (truth.object, swapped(lab)(truth))
            ]
    return lessons
