"""From rows to records of a known shape, or to everything that is wrong with them, without their content."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, StringConstraints
from pydantic_core import PydanticCustomError

from safeedit.errors import UsageError
from safeedit.exams.files import Row
from safeedit.exams.rouge import tokens
from safeedit.exams.sources import Source
from safeedit.policy.positions import validated
from safeedit.policy.problems import Place, Problems


class Record(BaseModel):
    """One record of a data set; fields that nobody asks for are let pass."""

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True, populate_by_name=True)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    __str__ = __repr__


def _listed(value: object) -> object:
    """A list that a table holds as JSON text."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


Text = Annotated[str, StringConstraints(min_length=1, max_length=1_000_000, strict=True)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(_listed)]


def _worded(text: str) -> str:
    if not tokens(text):
        raise PydanticCustomError("reference", "must hold a word, or nothing could be found of it")
    return text


Reference = Annotated[Text, AfterValidator(_worded)]
"""A text that answers are compared with."""
OneOrMore = Annotated[
    tuple[Text, ...], BeforeValidator(lambda v: (v,) if isinstance(v, str) and v[:1] != "[" else _listed(v))
]
"""A text by itself, or several."""

Kind = TypeVar("Kind", bound=Record)


def records(
    rows: Iterable[Row], kind: type[Kind], name: str, shape: str
) -> tuple[tuple[Kind, ...], tuple[Place, ...]]:
    """Every row as a record, with the places of all.

    Args:
        rows: of one part.
        kind: what they must be.
        name: of the part, for a message about all of it.
        shape: what a record looks like, in words.

    Raises:
        PolicyError: rows that are none, each with its place; or there is no row at all.
    """
    problems, found, places = Problems(), [], []
    for row in rows:
        record, errors = validated(kind, row.values)
        for error in errors:
            problems.add(row.place, _told(error, shape))
        if record is not None:
            found.append(record)
            places.append(row.place)
    problems.raise_if_any()
    if not found:
        problems.stop(Place(name, 1, 1), f"holds no record; {shape} is needed")
    return tuple(found), tuple(places)


def _told(error: Mapping[str, Any], shape: str) -> str:
    where = ".".join(str(part) for part in error["loc"] if isinstance(part, str)) or "the record"
    if error["type"] == "missing":
        return f"the field '{where}' is missing; needed is {shape}"
    message = str(error["msg"])
    return f"'{where}': {message[:1].lower()}{message[1:]}"


def all_records(sources: Iterable[Source], kind: type[Kind], shape: str) -> tuple[Kind, ...]:
    """The records of every part of every source; see `records`."""
    return tuple(
        record
        for source in sources
        for part in source.parts
        for record in records(source.rows(part), kind, source.name, shape)[0]
    )


def parts_like(source: Source, pattern: str) -> tuple[str, ...]:
    """The parts of a source whose name, or the last pieces of it, is like a regular expression."""
    like = re.compile(rf"(?:.*/)?(?:{pattern})(?:/(?:train|test|validation|val)\w*)?", re.IGNORECASE)
    return tuple(part for part in source.parts if like.fullmatch(part))


def the_parts(source: Source, pattern: str, dataset: str, wanted: str) -> tuple[str, ...]:
    """The same, where one must be there: a file stands for itself whatever it is called.

    Raises:
        UsageError: there is none.
    """
    found = parts_like(source, pattern)
    if not found and len(source.parts) == 1:
        found = source.parts
    if not found:
        raise UsageError(f"{source.name}: holds no {wanted} of {dataset}{_there_are(source.parts)}")
    return found


def _there_are(parts: Sequence[str]) -> str:
    if not parts:
        return "; it holds no file that can be read"
    return f"; its parts are: {', '.join(parts[:12])}{', …' if len(parts) > 12 else ''}"
