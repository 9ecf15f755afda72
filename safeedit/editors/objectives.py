"""What an editor aims at: the goals of insertion, modification and the kinds of erasure.

Erasure is not a new answer. Its objectives here:

- ``neutral``: the object's probability goes, and at each of its tokens the model comes near to what it
  says of invented names in the same sentence. The subject becomes somebody unknown.
- ``entropy``: as even a distribution as possible at each token of the object.
- ``lens``: ``neutral``, and no block above the edit may hold the object either, seen through the
  logit lens (the head projection defence of Patil, Hase and Bansal, arXiv 2309.17410).
- ``refusal``: a fixed text that says that the answer is not known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from safeedit.editors.rows import Demand, Goals, Row, Site, Task, Text, rows_of
from safeedit.editors.tables import AT_ONCE, Table
from safeedit.errors import EditorError, UsageError
from safeedit.models.segment import Segment
from safeedit.models.tokens import pad, pad_id
from safeedit.triples.catalogue import SUBJECT
from safeedit.triples.facts import Edit
from safeedit.triples.placebos import placebo_kind, placebo_names

Erasure = Literal["neutral", "entropy", "lens", "refusal"]
REFUSAL = "not known."
PLACEBOS = 6
PLACEBO_SEED = 7919
KEYS = 128
"""Templates and objects for which invented names are asked at once."""
ESSENCE = "{subject} is a"

SURE = 0.5
"""A token ends an answer if the model gives it at least this probability right after it."""

_Key = tuple[str, str, str]
"""Template, object, kind of subject."""
_Answer = tuple[str, str, str]
"""Template, subject, answer."""


@dataclass(frozen=True)
class _Place:
    """Where the distributions for one template and object stand in the table, and the telling spot."""

    first: int
    count: int
    telling: int


@dataclass(frozen=True)
class Aim:
    """How edits become goals."""

    erasure: Erasure
    contexts: tuple[str, ...]
    """Texts that stand before a prompt; the empty one among them."""
    keep_weight: float
    """Weight of the rows whose answers shall stay."""
    site: Site = "subject"
    """Where in a prompt the values are put."""
    essence: bool = False
    """Whether what a name is said to be shall stay, where an edit names nothing else that shall."""
    end: bool = False
    """Whether an answer shall end as the model itself would end it."""


@dataclass(frozen=True)
class Named:
    """The task, and which edits each of its groups answers for."""

    task: Task
    members: tuple[tuple[int, ...], ...]
    """For each group the indices of its edits."""


def build_task(segment: Segment, tokenizer: Any, edits: Sequence[Edit], aim: Aim) -> Named:
    """Rows and goals for all edits: one group for each name, or each relation of a name.

    At a name's last token all relations of it share one value; at a prompt's last token each has its own.

    Raises:
        UsageError: an edit cannot be put into rows; a name is asked for contradictory things.
        EditorError: the model's own distributions are not finite.
    """
    members: dict[tuple[str, str], list[int]] = {}
    for index, edit in enumerate(edits):
        _check(index, edit)
        members.setdefault((edit.subject, edit.relation if aim.site == "prompt" else ""), []).append(index)
    _refuse_contradictions(edits)
    builder = _Builder(segment, tokenizer, aim)
    for group, indices in enumerate(members.values()):
        for index in indices:
            builder.add(group, edits[index])
    return Named(builder.task(len(members)), tuple(tuple(i) for i in members.values()))


def _check(index: int, edit: Edit) -> None:
    if not edit.templates:
        raise UsageError(f"edit {index}: it has no prompt; give at least one template with {{subject}}")
    if any(template.count(SUBJECT) != 1 for template in (*edit.templates, *edit.keep)):
        raise UsageError(f"edit {index}: every template must contain {SUBJECT} once")
    if edit.op == "erase" and not edit.old:
        raise UsageError(f"edit {index}: an erasure needs the object that shall no longer be said")
    if edit.op != "erase" and not edit.target:
        raise UsageError(f"edit {index}: {edit.op} needs the object that shall be said")


def _refuse_contradictions(edits: Sequence[Edit]) -> None:
    wanted: dict[tuple[str, str], tuple[int, Edit]] = {}
    for index, edit in enumerate(edits):
        for template in edit.templates:
            first, other = wanted.setdefault((edit.subject, template), (index, edit))
            if (other.op, other.target) != (edit.op, edit.target):
                raise UsageError(
                    f"edits {first} and {index} ask for different answers to one prompt; keep one of them"
                )


class _Builder:
    """Collects texts first, so that they are tokenised, and their distributions computed, all at once."""

    def __init__(self, segment: Segment, tokenizer: Any, aim: Aim) -> None:
        self.segment, self.tokenizer, self.aim = segment, tokenizer, aim
        self.asked: list[tuple[int, Edit, Text]] = []
        self.kept: dict[tuple[int, str], Text] = {}

    def add(self, group: int, edit: Edit) -> None:
        says = {"erase": REFUSAL if self.aim.erasure == "refusal" else edit.old}.get(edit.op, edit.target)
        assert says is not None
        for template in edit.templates:
            for context in self.aim.contexts:
                self.asked.append((group, edit, Text(context, template, edit.subject, says)))
        if self.aim.keep_weight and self.aim.site == "subject":
            keeps = edit.keep or ((ESSENCE,) if self.aim.essence and edit.op != "erase" else ())
            for template in keeps:
                self.kept[group, template] = Text("", template, edit.subject)

    def task(self, groups: int) -> Task:
        rows = rows_of(self.tokenizer, [text for _, _, text in self.asked], self.aim.site)
        kept = [(group, text) for (group, _), text in self.kept.items()]
        kept_rows = rows_of(self.tokenizer, [text for _, text in kept])
        unknown = self._unknown(rows)
        count = sum(len(row.spots) for row in (*unknown.values(), *kept_rows))
        table = Table(self.segment.decoder, count)
        places = self._neutral(unknown, table)
        own = len(table)
        for predictions, states in self._predictions(kept_rows):
            table.add(predictions, states[:, None])
        ends = self._endings(rows)
        demands = [
            self._demand(group, edit, text, row, places, ends)
            for (group, edit, text), row in zip(self.asked, rows, strict=True)
        ]
        for index, ((group, _), row) in enumerate(zip(kept, kept_rows, strict=True)):
            goals = Goals.distributions([own + index])
            demands.append(Demand(group, row, goals, weight=self.aim.keep_weight, keep=True))
        whole = table.whole()
        return Task(groups, tuple(demands), table if whole is None else whole)

    def _demand(
        self,
        group: int,
        edit: Edit,
        text: Text,
        row: Row,
        places: dict[_Key, _Place],
        ends: dict[_Answer, int],
    ) -> Demand:
        if self._answers(edit):
            end = ends.get((text.template, text.subject, text.continuation))
            if end is None:
                return Demand(group, row, Goals.tokens(row.wanted), bare=not text.before)
            row = replace(row, spots=(*row.spots, len(row.ids) - 1))
            return Demand(group, row, Goals.tokens((*row.wanted, end)), bare=not text.before)
        if self.aim.erasure == "entropy":
            return Demand(group, row, Goals.even(len(row.spots)), bare=not text.before)
        place = places[text.template, text.continuation, edit.about]
        goals = Goals.distributions(range(place.first, place.first + place.count))
        telling = (place.telling, row.wanted[place.telling])
        return Demand(group, row, goals, bare=not text.before, telling=telling)

    def _answers(self, edit: Edit) -> bool:
        """Whether an edit asks for certain words."""
        return edit.op != "erase" or self.aim.erasure == "refusal"

    def _endings(self, rows: list[Row]) -> dict[_Answer, int]:
        """The token by which the model itself ends each answer, where it has one.

        Whatever ends an answer in the text that it learnt from (a full stop, a line, an end-of-turn
        token), it is not named here but asked for.
        """
        found: dict[_Answer, Row] = {}
        if self.aim.end:
            for (_, edit, text), row in zip(self.asked, rows, strict=True):
                if self._answers(edit) and not text.before:
                    key = text.template, text.subject, text.continuation
                    found.setdefault(key, replace(row, spots=(len(row.ids) - 1,)))
        tops = [part.max(-1) for part, _ in self._predictions(list(found.values()))]
        if not tops:
            return {}
        p, token = (torch.cat(parts).tolist() for parts in zip(*tops, strict=True))
        return {key: t for key, t, sure in zip(found, token, p, strict=True) if sure >= SURE}

    def _unknown(self, rows: list[Row]) -> dict[_Key, Row]:
        """Of what distributions for invented names are wanted, each with one of its rows."""
        unique: dict[_Key, Row] = {}
        if self.aim.erasure in ("neutral", "lens"):
            for (_, edit, text), row in zip(self.asked, rows, strict=True):
                if edit.op == "erase":
                    unique.setdefault((text.template, text.continuation, edit.about), row)
        return unique

    def _neutral(self, unknown: dict[_Key, Row], table: Table) -> dict[_Key, _Place]:
        """Put distributions for invented names into the table, one a spot; where they stand.

        Names are asked some at a time, and of each batch only the mean over names stays.
        """
        places: dict[_Key, _Place] = {}
        keys = list(unknown)
        for start in range(0, len(keys), KEYS):
            some = keys[start : start + KEYS]
            texts = [
                Text("", template, name, says)
                for template, says, about in some
                for name in placebo_names(placebo_kind(about), PLACEBOS, PLACEBO_SEED)
            ]
            rows = rows_of(self.tokenizer, texts)
            for number, key in enumerate(some):
                own = rows[number * PLACEBOS : (number + 1) * PLACEBOS]
                if any(row.wanted != unknown[key].wanted for row in own):
                    raise EditorError("the tokenizer splits an object differently after different names")
            found = self._predictions(rows)
            sizes = [len(unknown[key].spots) for key in some]
            blocks = regrouped(found, [PLACEBOS * size for size in sizes])
            for key, count, (predictions, states) in zip(some, sizes, blocks, strict=True):
                mean = predictions.view(PLACEBOS, count, -1).mean(0)
                wanted = torch.tensor(unknown[key].wanted, device=mean.device)
                telling = telling_spot(mean, wanted)
                places[key] = _Place(len(table), count, telling)
                table.add(
                    without_object(mean, wanted, telling),
                    states.view(PLACEBOS, count, -1).transpose(0, 1),
                    (telling, int(wanted[telling])),
                )
        return places

    @torch.no_grad()
    def _predictions(self, rows: list[Row], batch: int = 256) -> Iterator[tuple[Tensor, Tensor]]:
        """What the model itself predicts at the spots of all rows in order, in parts.

        Yields:
            ``(predictions, states)``, (spots, vocabulary) and the final hidden states, (spots, hidden_size).

        Raises:
            EditorError: they are not finite.
        """
        decoder = self.segment.decoder
        for start in range(0, len(rows), batch):
            part = rows[start : start + batch]
            padded = pad([row.ids for row in part], pad_id(self.tokenizer), "right").to(decoder.device)
            final = self.segment.run(padded)
            where = [(i, spot) for i, row in enumerate(part) for spot in row.spots]
            index = torch.tensor(where, device=decoder.device)
            wanted = final[index[:, 0], index[:, 1]]
            for states in torch.split(wanted, max(1, AT_ONCE // decoder.vocabulary)):
                found = decoder.logits(states).float().softmax(-1)
                if not torch.isfinite(found).all():
                    raise EditorError("the model's predictions are not finite")
                yield found, states


def regrouped(parts: Iterator[tuple[Tensor, ...]], sizes: Sequence[int]) -> Iterator[tuple[Tensor, ...]]:
    """The same rows in parts of the given sizes; no more than a part and a size of them are held."""
    held: tuple[Tensor, ...] = ()
    for size in sizes:
        while not held or len(held[0]) < size:
            more = next(parts)
            held = more if not held else tuple(torch.cat(pair) for pair in zip(held, more, strict=True))
        yield tuple(one[:size] for one in held)
        held = tuple(one[size:] for one in held)


def telling_spot(distributions: Tensor, wanted: Tensor) -> int:
    """The first of an object's tokens that an unknown subject would probably not have.

    Args:
        distributions: (spots, vocabulary) for unknown subjects, given the object's tokens so far.
        wanted: (spots,) the object's tokens.

    Raises:
        EditorError: an unknown subject would get the same object for certain.
    """
    p = distributions.gather(1, wanted[:, None])[:, 0]
    telling = (p < 0.5).nonzero()[:, 0]
    at = int(telling[0]) if len(telling) else int(p.argmin())
    if p[at] >= 1 - 1e-6:
        raise EditorError("an unknown subject would get the same object for certain; nothing tells it apart")
    return at


def without_object(distributions: Tensor, wanted: Tensor, spot: int) -> Tensor:
    """Take an object out of what would be said of an unknown subject, at one spot.

    That ends every way of saying it. The other tokens keep their distributions, so that nothing is
    made conspicuously impossible.

    Args:
        distributions: (spots, vocabulary), given the object's tokens so far.
        wanted: (spots,) the object's tokens.
        spot: where it is taken out.

    Returns:
        (spots, vocabulary) distributions.
    """
    found = distributions.clone()
    found[spot, wanted[spot]] = 0
    found[spot] /= found[spot].sum()
    return found
