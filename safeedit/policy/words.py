"""Validation errors in the words of somebody who writes policies.

pydantic's own messages quote input and speak of Python types. These name keys, never values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from safeedit.policy.model import (
    BAD_TEXT,
    ChangedFact,
    Detox,
    EditorChoice,
    Erase,
    Insert,
    Metadata,
    Modify,
    NamedSubject,
    Policy,
    ProbeChoice,
    Prompts,
    SignOff,
    StatedBehaviour,
    StatedFact,
)
from safeedit.policy.problems import nearest, one_of, shown_key
from safeedit.policy.rules import Loc
from safeedit.policy.scalars import BROKEN, EMPTY, NUMBER, SWITCH, Unusable
from safeedit.triples.catalogue import Relation

OPS = ("erase", "modify", "insert", "detox")

_RECORDS: dict[tuple[str, ...], tuple[str, type[BaseModel]]] = {
    (): ("a policy", Policy),
    ("metadata",): ("'metadata'", Metadata),
    ("relations", "*"): ("a relation", Relation),
    ("operations", "erase"): ("an erase operation", Erase),
    ("operations", "modify"): ("a modify operation", Modify),
    ("operations", "insert"): ("an insert operation", Insert),
    ("operations", "detox"): ("a detox operation", Detox),
    ("operations", "erase", "facts"): ("a fact", StatedFact),
    ("operations", "modify", "facts"): ("a fact to modify", ChangedFact),
    ("operations", "insert", "facts"): ("a fact", StatedFact),
    ("operations", "erase", "subjects"): ("an entry of 'subjects'", NamedSubject),
    ("operations", "detox", "behaviours"): ("an entry of 'behaviours'", StatedBehaviour),
    **{
        ("operations", op, "facts", "prompts"): ("'prompts'", Prompts) for op in ("erase", "modify", "insert")
    },
    ("editor",): ("'editor'", EditorChoice),
    ("probes",): ("'probes'", ProbeChoice),
    ("sign_off",): ("'sign_off'", SignOff),
}

_PATTERNS = {
    "id": "1 to 64 letters, digits, '.', '_' or '-'",
    "name": "an editor's name: small letters, digits and '-'",
    "category": "a code: small letters, digits, '.', '_' or '-'",
    "[key]": "1 to 64 letters, digits, '.', '_', ':' or '-'",
}


@dataclass(frozen=True)
class Told:
    """A message, and which position belongs to it."""

    message: str
    at: Literal["value", "key"] = "value"
    below: str | None = None
    """The entry of the mapping that is meant, where the error is about the whole mapping."""
    meant: str | None = None
    """The key that was probably meant by an unknown one; that it is missing need not be told too."""


def untagged(loc: Loc) -> Loc:
    """A location as in the file: without the operation's kind, which validation puts into it."""
    return (*loc[:2], *loc[3:]) if loc[:1] == ("operations",) and len(loc) > 2 else loc


def value_at(data: Any, loc: Loc) -> object:
    """What stands at a location of plain data; None where nothing does."""
    for part in loc:
        in_list = isinstance(data, list) and isinstance(part, int) and part < len(data)
        if not in_list and not (isinstance(data, Mapping) and part in data):
            return None
        data = data[part]
    return data


def explain(error: Mapping[str, Any], data: object, under: Loc = ()) -> Told | None:
    """What to tell about one validation error; None if it only follows from something told already.

    Args:
        error: one of `pydantic.ValidationError.errors()`.
        data: the plain data that was validated.
        under: where in a policy that data belongs, the operation's kind included.
    """
    kind, context = str(error["type"]), error.get("ctx", {})
    loc: Loc = (*under, *error["loc"])
    place: Loc = error["loc"] if under else untagged(error["loc"])
    if kind == "extra_forbidden":
        return _unknown_key(loc)
    if kind == "missing":
        return Told(f"{_record(loc[:-1])[0]} needs {_quoted(loc[-1])}")
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        op = value_at(data, (*place, "op"))
        if kind == "union_tag_not_found" and op is None:
            return Told(f"an operation needs 'op': one of {', '.join(OPS)}")
        return _odd_value(loc, op, one_of(op, OPS), below="op")
    value = value_at(data, place)
    if kind == "too_short" and isinstance(value, list | tuple) and value:
        return None  # Entries that are wrong themselves are not counted by validation.
    return _odd_value(loc, value, _demand(kind, error, context, loc, value))


def _odd_value(loc: Loc, value: object, demand: str, below: str | None = None) -> Told | None:
    called = _called(loc) if below is None else _quoted(below)
    if value is BROKEN:
        return None
    if value is EMPTY:
        optional = " or leave it out" if _optional(loc) else ""
        return Told(f"{called} is empty; give it a value{optional}", at="key", below=below)
    return Told(f"{called} {demand}", below=below)


def _demand(kind: str, error: Mapping[str, Any], context: Mapping[str, Any], loc: Loc, value: object) -> str:
    if kind == "string_type":
        return f"must be text{_read_as(value)}"
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", str(context["expected"]))
        return one_of(value, allowed) if len(allowed) > 1 else f"must be {allowed[0]}"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"must be a mapping (key: value){_instead(value)}"
    if kind in ("tuple_type", "list_type"):
        return f"must be a list (each entry after '- ', or in [ ]){_instead(value)}"
    if kind in ("too_short", "string_too_short"):
        return "must not be empty"
    if kind == "string_too_long":
        return f"must not be longer than {context['max_length']} characters"
    if kind == "string_unicode":
        return "must not hold half a character (an unpaired surrogate)"
    if kind == "string_pattern_mismatch":
        return f"must be {_PATTERNS[str(loc[-1])]}"
    if kind == "int_type":
        return f"must be a whole number{'' if isinstance(value, float) else _instead(value)}"
    if kind == "greater_than_equal":
        return f"must not be below {context['ge']}"
    if kind == "less_than_equal":
        return f"must not be above {context['le']}"
    if kind == BAD_TEXT:
        return str(error["msg"])
    if kind == "value_error":
        return str(context["error"])
    return "is not valid here"


def _unknown_key(loc: Loc) -> Told:
    key, (called, model) = str(loc[-1]), _record(loc[:-1])
    known = list(model.model_fields)
    message = f"unknown key{shown_key(key)} in {called}; "
    owners = [name for name, other in _RECORDS.values() if key in other.model_fields]
    if loc[0] == "operations" and owners:
        return Told(f"{message}only {owners[0]} has it, here the keys are: {', '.join(known)}", at="key")
    meant = nearest(key, known)
    hint = f"did you mean '{meant}'?" if meant else f"the keys are: {', '.join(known)}"
    return Told(message + hint, at="key", meant=meant)


def _optional(loc: Loc) -> bool:
    record = _RECORDS.get(_shape(loc[:-1]))
    field = record[1].model_fields.get(str(loc[-1])) if record else None
    return field is not None and not field.is_required()


def _record(loc: Loc) -> tuple[str, type[BaseModel]]:
    return _RECORDS[_shape(loc)]


def _shape(loc: Loc) -> tuple[str, ...]:
    words = tuple(part for part in loc if isinstance(part, str))
    return ("relations", "*", *words[2:]) if words[:1] == ("relations",) and len(words) > 1 else words


def _called(loc: Loc) -> str:
    if loc and loc[-1] == "[key]":
        return "the name of a relation"
    if _shape(loc) == ("relations", "*"):
        return "an entry of 'relations'"
    if not loc:
        return "a policy"
    if isinstance(loc[-1], str):
        return _quoted(loc[-1])
    names = [part for part in loc if isinstance(part, str)]
    return f"an entry of '{names[-1]}'" if names[-1] not in OPS else "an entry of 'operations'"


def _quoted(part: int | str) -> str:
    return f"'{part}'"


def _read_as(value: object) -> str:
    name = _kind(value)
    if name in (NUMBER.reads_as, SWITCH.reads_as):
        return f", and this is read as {name}; put it in quotes"
    return _instead(value)


def _instead(value: object) -> str:
    name = _kind(value)
    return f", not {name}" if name else ""


def _kind(value: object) -> str:
    if isinstance(value, Unusable):
        return value.reads_as
    if isinstance(value, bool):
        return SWITCH.reads_as
    if isinstance(value, int | float):
        return NUMBER.reads_as
    if isinstance(value, str):
        return "text"
    if isinstance(value, Mapping):
        return "a mapping"
    return "a list" if isinstance(value, list | tuple) else ""
