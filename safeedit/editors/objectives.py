"""What an editor aims at: the goals of insertion, modification and the kinds of erasure.

Erasure is not a new answer. Its objectives here:

- ``neutral``: the object's probability goes, and at each of its tokens the model comes near to what it
  says of invented names in the same sentence. The subject becomes somebody unknown.
- ``entropy``: as even a distribution as possible at each token of the object.
- ``lens``: ``neutral``, and no block above the edit may hold the object either, seen through the
  logit lens (the head projection defence of Patil, Hase and Bansal, arXiv 2309.17410).
- ``refusal``: a fixed text that says that the answer is not known.

A behaviour's prompt stands where a fact has its subject, and its safe answer is asked for as an object is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch

from safeedit.editors.anchors import Begun
from safeedit.editors.rows import Demand, Goals, Row, Site, Task, Tell, Text, pieces, rows_of
from safeedit.editors.strangers import Key, Place, Strangers, key_of, predicted
from safeedit.editors.tables import Table
from safeedit.errors import UsageError
from safeedit.models.positions import positions_of, refuse_beyond
from safeedit.models.segment import Segment
from safeedit.triples.catalogue import SUBJECT
from safeedit.triples.facts import Edit

Erasure = Literal["neutral", "entropy", "lens", "refusal"]
REFUSAL = "not known."
ESSENCE = "{subject} is a"

SURE = 0.5
"""A token ends an answer if the model gives it at least this probability right after it."""

_Answer = tuple[str, str, str]
"""Template, subject, answer."""
_Group = tuple[int, str, int]
"""A name, or a relation of it; and where a value is put after some tokens of an object, that object and their
number."""


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
    whole: bool = False
    """Whether an erased object is taken out at all of its tokens that tell something, not at the first alone:
    then nobody who is given its beginning gets the rest."""


@dataclass(frozen=True)
class Named:
    """The task, and which edits each of its groups answers for."""

    task: Task
    members: tuple[tuple[int, ...], ...]
    """For each group the indices of its edits."""
    begun: Begun = field(default_factory=dict)


def build_task(segment: Segment, tokenizer: Any, edits: Sequence[Edit], aim: Aim) -> Named:
    """Rows and goals for all edits: one group for each name, or each relation of a name.

    At a name's last token all relations of it share one value; at a prompt's last token each has its own.

    Raises:
        UsageError: an edit cannot be put into rows; a name is asked for contradictory things; a prompt with
            its answer is longer than the model has positions for.
        EditorError: the model's own distributions are not finite.
    """
    check_edits(edits)
    members: dict[tuple[str, str], list[int]] = {}
    for index, edit in enumerate(edits):
        members.setdefault((edit.subject, edit.relation if aim.site == "prompt" else ""), []).append(index)
    builder = _Builder(segment, tokenizer, aim)
    for group, indices in enumerate(members.values()):
        for index in indices:
            builder.add(group, edits[index])
    return builder.named([tuple(indices) for indices in members.values()])


def check_edits(edits: Sequence[Edit], unsafe: bool = False) -> None:
    """Refuse edits that make no sense, alone or together.

    Args:
        edits: what is asked for.
        unsafe: whether of a behaviour the unsafe answer is needed, too.

    Raises:
        UsageError: an edit cannot be put into rows; a name is asked for contradictory things.
    """
    for index, edit in enumerate(edits):
        _check(index, edit)
        if unsafe and edit.op == "detox" and not edit.old:
            raise UsageError(f"edit {index}: detox needs the unsafe answer that shall go")
    _refuse_contradictions(edits)


def _check(index: int, edit: Edit) -> None:
    if not edit.templates:
        raise UsageError(f"edit {index}: it has no prompt; give at least one template with {{subject}}")
    if any(template.count(SUBJECT) != 1 for template in (*edit.templates, *edit.keep)):
        raise UsageError(f"edit {index}: every template must contain {SUBJECT} once")
    if edit.op == "erase" and not edit.old:
        raise UsageError(f"edit {index}: an erasure needs the object that shall no longer be said")
    if edit.op != "erase" and not edit.target:
        wanted = "a safe answer" if edit.op == "detox" else "the object that shall be said"
        raise UsageError(f"edit {index}: {edit.op} needs {wanted}")


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

    def named(self, members: Sequence[tuple[int, ...]]) -> Named:
        rows = rows_of(self.tokenizer, [text for _, _, text in self.asked], self.aim.site)
        kept = [(group, text) for (group, _), text in self.kept.items()]
        kept_rows = rows_of(self.tokenizer, [text for _, text in kept])
        # Before anything that takes long.
        longest = max((len(row.ids) for row in (*rows, *kept_rows)), default=0)
        refuse_beyond(positions_of(self.segment.decoder.model), longest)
        unknown = self._unknown(rows)
        count = sum(len(row.spots) for row in (*(row for _, row in unknown.values()), *kept_rows))
        table = Table(self.segment.decoder, count)
        places = Strangers(self.segment, self.tokenizer).add(unknown, table)
        own = len(table)
        for predictions, states in predicted(self.segment, self.tokenizer, kept_rows):
            table.add(predictions, states[:, None])
        ends = self._endings(rows)
        asked = list(zip(self.asked, rows, strict=True))
        of_each = [list(self._demands(*one, row, places, ends)) for one, row in asked]
        begun = self._begun([(text, row) for (_, _, text), row in asked], of_each)
        found = [pair for pairs in of_each for pair in pairs]
        for index, ((group, _), row) in enumerate(zip(kept, kept_rows, strict=True)):
            goals = Goals.distributions([own + index])
            demand = Demand(group, row, goals, weight=self.aim.keep_weight, keep=True)
            found.append(((group, "", 0), demand))
        groups = {key: number for number, key in enumerate(dict.fromkeys(key for key, _ in found))}
        demands = tuple(replace(demand, group=groups[key]) for key, demand in found)
        whole = table.whole()
        task = Task(len(groups), demands, table if whole is None else whole)
        return Named(task, tuple(members[group] for group, _, _ in groups), begun)

    def _begun(
        self, asked: Sequence[tuple[Text, Row]], found: Sequence[Sequence[tuple[_Group, Demand]]]
    ) -> Begun:
        """See `Named`; what stands before a prompt changes nothing of it."""
        places = [sorted({at for (_, _, at), _ in pairs if at}) for pairs in found]
        some = [(pair, at) for pair, at in zip(asked, places, strict=True) if at and not pair[0].before]
        of_each = pieces(self.tokenizer, [pair for pair, _ in some])
        return {
            (text.subject, text.template, text.continuation): tuple(tokens[spot].before for spot in at)
            for ((text, _), at), tokens in zip(some, of_each, strict=True)
        }

    def _demands(
        self,
        group: int,
        edit: Edit,
        text: Text,
        row: Row,
        places: dict[Key, Place],
        ends: dict[_Answer, int],
    ) -> Iterator[tuple[_Group, Demand]]:
        own, bare = (group, "", 0), not text.before
        if self._answers(edit):
            end = ends.get((text.template, text.subject, text.continuation))
            if end is None:
                yield own, Demand(group, row, Goals.tokens(row.wanted), bare=bare)
                return
            row = replace(row, spots=(*row.spots, len(row.ids) - 1))
            yield own, Demand(group, row, Goals.tokens((*row.wanted, end)), bare=bare)
            return
        if self.aim.erasure == "entropy":
            yield own, Demand(group, row, Goals.even(len(row.spots)), bare=bare)
            return
        place = places[key_of(edit, text)]
        telling = place.telling if self.aim.whole else place.telling[:1]
        if self.aim.site == "subject" or not self.aim.whole:
            yield own, replace(_taken_out(row, place, telling), bare=bare)
            return
        # A value at the end of the prompt says little of tokens that come later: each has its own.
        for tell in telling:
            at = place.spots[tell.spot]
            demand = _taken_out(row, place, (tell,), tell.spot, row.spots[at])
            yield (group, text.continuation if at else "", at), replace(demand, bare=bare)

    def _answers(self, edit: Edit) -> bool:
        """Whether an edit asks for certain words."""
        return edit.op != "erase" or self.aim.erasure == "refusal"

    def _endings(self, rows: list[Row]) -> dict[_Answer, int]:
        """The token by which the model itself ends each answer, where it has one.

        Whatever ends an answer in the text that it learnt from (a full stop, a line, an end-of-turn
        token), it is not named here but asked for. After a safe answer, which the model would not give, it
        would often go on with an unsafe one: so that ends as its unsafe example does; where the example
        itself is cut short, and a word comes next, as most of the others do, or as a text ends.
        """
        found: dict[_Answer, Row] = {}
        unsafe: dict[_Answer, Text] = {}
        if self.aim.end:
            for (_, edit, text), row in zip(self.asked, rows, strict=True):
                if self._answers(edit) and not text.before:
                    key = text.template, text.subject, text.continuation
                    found.setdefault(key, row)
                    if edit.op == "detox" and edit.old:
                        unsafe.setdefault(key, replace(text, continuation=edit.old))
        said = rows_of(self.tokenizer, list(unsafe.values()))
        own = {key: t for key, t in self._after(found).items() if key not in unsafe or not self._word(t)}
        ends = self._after(dict(zip(unsafe, said, strict=True)))
        closing = {key: token for key, token in ends.items() if not self._word(token)}
        usual = Counter(closing.values()).most_common(1)
        end = usual[0][0] if usual else self.tokenizer.eos_token_id
        others = {} if end is None else dict.fromkeys(unsafe, int(end))
        return others | own | closing

    def _word(self, token: int) -> bool:
        """Whether a token says something, instead of ending what was said."""
        text: str = self.tokenizer.decode([token], skip_special_tokens=True)
        return any(letter.isalnum() for letter in text)

    def _after(self, answers: dict[_Answer, Row]) -> dict[_Answer, int]:
        """The token that the model is sure of after each row, where there is one."""
        rows = [replace(row, spots=(len(row.ids) - 1,)) for row in answers.values()]
        tops = [part.max(-1) for part, _ in predicted(self.segment, self.tokenizer, rows)]
        if not tops:
            return {}
        p, token = (torch.cat(parts).tolist() for parts in zip(*tops, strict=True))
        return {key: t for key, t, sure in zip(answers, token, p, strict=True) if sure >= SURE}

    def _unknown(self, rows: list[Row]) -> dict[Key, tuple[Text, Row]]:
        """Of what distributions for invented names are wanted, each with one of its texts and rows."""
        unique: dict[Key, tuple[Text, Row]] = {}
        if self.aim.erasure in ("neutral", "lens"):
            for (_, edit, text), row in zip(self.asked, rows, strict=True):
                if edit.op == "erase":
                    unique.setdefault(key_of(edit, text), (replace(text, before=""), row))
        return unique


def _taken_out(
    row: Row, place: Place, telling: Sequence[Tell], first: int = 0, pivot: int | None = None
) -> Demand:
    """What an erasure asks of a row from number `first` of its place's spots on.

    Args:
        row: the prompt with the whole object.
        place: what is wanted there.
        telling: where the object tells something.
        first: the first spot that is looked at.
        pivot: where the value is put, if not at the row's own pivot.
    """
    spots = place.spots[first:]
    part = replace(
        row,
        pivot=row.pivot if pivot is None else pivot,
        spots=tuple(row.spots[spot] for spot in spots),
        wanted=tuple(row.wanted[spot] for spot in spots),
    )
    goals = Goals.distributions(range(place.first + first, place.first + len(place.spots)))
    return Demand(0, part, goals, telling=tuple(replace(tell, spot=tell.spot - first) for tell in telling))
