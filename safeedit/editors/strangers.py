"""What strangers are told instead: distributions for invented names, and where an object tells something.

An erased subject becomes somebody unknown. What the model says of unknown people is asked of invented
names in the same sentences, the object given token by token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import punctuation
from typing import Any

import torch
from torch import Tensor

from safeedit.editors.rows import Row, Tell, Text, join, pieces, rows_of
from safeedit.editors.tables import AT_ONCE, Table
from safeedit.errors import EditorError
from safeedit.models.segment import Segment
from safeedit.models.tokens import pad, pad_id
from safeedit.triples.derived import adapted, made_of_name, parts_of_name
from safeedit.triples.facts import Edit
from safeedit.triples.placebos import placebo_kind, placebo_names

PLACEBOS = 6
PLACEBO_SEED = 7919
KEYS = 128
"""Templates and objects for which invented names are asked at once."""
NEWS = 0.5
"""A token that strangers get with less than this probability tells something of the subject."""

Key = tuple[str, str, str, str]
"""Template, object, kind of subject; and the subject, where the object is made of its name."""


def key_of(edit: Edit, text: Text) -> Key:
    """By what the distributions that an erasure wants are found."""
    made = made_of_name(text.continuation, text.subject)
    return text.template, text.continuation, edit.about, text.subject if made else ""


@dataclass(frozen=True)
class Place:
    """Where the distributions for one template and object stand in the table, and where the object tells."""

    first: int
    spots: tuple[int, ...]
    """Those of the row's spots that they are for: all that do not follow from the name."""
    telling: tuple[Tell, ...]
    """The first token that strangers would not get, then the others; counted among these spots."""


@dataclass(frozen=True)
class Strangers:
    """Asks invented names."""

    segment: Segment
    tokenizer: Any

    def add(self, wanted: Mapping[Key, tuple[Text, Row]], table: Table) -> dict[Key, Place]:
        """Put distributions for invented names into the table, one a spot; where they stand.

        Names are asked some at a time, and of each batch only the mean over names stays.
        """
        places: dict[Key, Place] = {}
        keys = list(wanted)
        for start in range(0, len(keys), KEYS):
            some = keys[start : start + KEYS]
            asked = [self._strangers(key, *wanted[key]) for key in some]
            found = predicted(self.segment, self.tokenizer, [row for rows, _ in asked for row in rows])
            blocks = regrouped(found, [PLACEBOS * len(spots) for _, spots in asked])
            for key, (_, spots), (predictions, states) in zip(some, asked, blocks, strict=True):
                mean = predictions.view(PLACEBOS, len(spots), -1).mean(0)
                tokens = torch.tensor([wanted[key][1].wanted[spot] for spot in spots], device=mean.device)
                marks = [_mark(self.tokenizer, token) for token in tokens.tolist()]
                telling = telling_spots(mean, tokens, marks)
                at = telling[0].spot
                places[key] = Place(len(table), spots, telling)
                table.add(
                    without_object(mean, tokens, at),
                    states.view(PLACEBOS, len(spots), -1).transpose(0, 1),
                    (at, int(tokens[at])),
                )
        return places

    def _strangers(self, key: Key, text: Text, row: Row) -> tuple[list[Row], tuple[int, ...]]:
        """The same asked of invented names, one after another, and the spots of `row` that it is asked at.

        What an object has of its subject's name is theirs there; such tokens are left out.
        """
        template, says, about, subject = key
        names = placebo_names(placebo_kind(about), PLACEBOS, PLACEBO_SEED)
        if not subject:
            rows = rows_of(self.tokenizer, [Text("", template, name, says) for name in names])
            if any(one.wanted != row.wanted for one in rows):
                raise EditorError("the tokenizer splits an object differently after different names")
            return rows, tuple(range(len(row.spots)))
        begins = self._beginnings(text, row)
        texts = [
            Text("", join(template, adapted(begin, subject, name)), name)
            for name in names
            for begin in begins.values()
        ]
        return rows_of(self.tokenizer, texts), tuple(begins)

    def _beginnings(self, text: Text, row: Row) -> dict[int, str]:
        """By spot of `row` whose token does not come of the subject's name: the object up to that token.

        All spots, where every token has something of the name.
        """
        parts = parts_of_name(text.continuation, text.subject)
        every, news = {}, {}
        for spot, piece in enumerate(pieces(self.tokenizer, [(text, row)])[0]):
            every[spot] = piece.before
            if not any(part.start < piece.end and piece.start < part.end for part in parts):
                news[spot] = piece.before
        return news or every


@torch.no_grad()
def predicted(
    segment: Segment, tokenizer: Any, rows: Sequence[Row], batch: int = 256
) -> Iterator[tuple[Tensor, Tensor]]:
    """What the model itself predicts at the spots of all rows in order, in parts.

    Yields:
        ``(predictions, states)``, (spots, vocabulary) and the final hidden states, (spots, hidden_size).

    Raises:
        EditorError: they are not finite.
    """
    decoder = segment.decoder
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        padded = pad([row.ids for row in part], pad_id(tokenizer), "right").to(decoder.device)
        final = segment.run(padded)
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


def _mark(tokenizer: Any, token: int) -> bool:
    """Whether a token is nothing but punctuation: a dot after a name is no news, however rare the name."""
    text: str = tokenizer.decode([token])
    return all(letter.isspace() or letter in punctuation for letter in text)


def telling_spots(distributions: Tensor, wanted: Tensor, marks: Sequence[bool] = ()) -> tuple[Tell, ...]:
    """An object's tokens that an unknown subject would probably not have, or else the least probable one.

    The first of them is what ends every way of saying the object; later ones may stay as probable as
    they are for strangers.

    Args:
        distributions: (spots, vocabulary) for unknown subjects, given the object's tokens so far.
        wanted: (spots,) the object's tokens.
        marks: which of them say nothing by themselves.

    Raises:
        EditorError: an unknown subject would get the same object for certain.
    """
    p = distributions.gather(1, wanted[:, None])[:, 0].tolist()
    news = [spot for spot, usual in enumerate(p) if usual < NEWS] or [p.index(min(p))]
    telling = [spot for spot in news if not (marks and marks[spot])] or news
    if p[telling[0]] >= 1 - 1e-6:
        raise EditorError("an unknown subject would get the same object for certain; nothing tells it apart")
    return tuple(
        Tell(spot, int(wanted[spot]), p[spot] if number else 0.0) for number, spot in enumerate(telling)
    )


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
