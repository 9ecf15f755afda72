"""Validation errors in the words of somebody who writes policies.

pydantic's own messages quote input and speak of Python types. These name keys, never values.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

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
from safeedit.policy.problems import hint, nearest, one_of
from safeedit.policy.rules import Finding, Loc
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

_WHOLE_NUMBERS = frozenset({"int_type", "int_parsing", "int_parsing_size", "int_from_float"})
_NUMBERS = frozenset({"float_type", "float_parsing", "finite_number"})
_MAPPINGS = frozenset({"model_type", "model_attributes_type", "dict_type"})
_OWN_WORDS = frozenset({"value_error", "assertion_error"})
_LIMITS = {
    "greater_than_equal": ("must not be below", "ge"),
    "less_than_equal": ("must not be above", "le"),
    "greater_than": ("must be above", "gt"),
    "less_than": ("must be below", "lt"),
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
    kind = str(error["type"])
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
    if _follows(kind, value):
        return None
    return _odd_value(loc, value, _demand(error, value, str(loc[-1]) if loc else "", _field(loc)))


def findings_of(
    errors: Iterable[Mapping[str, Any]],
    data: object,
    model: type[BaseModel],
    *,
    whole: str = "this",
    unknown: str = "unknown key",
    patterns: Mapping[str, str] | None = None,
) -> list[Finding]:
    """What to tell about all validation errors of a record that is no policy: settings, a suite, a line.

    Args:
        errors: from `pydantic.ValidationError.errors()`.
        data: the plain data that was validated.
        model: what it was validated as.
        whole: what the record is called.
        unknown: how a message about a key that there is not begins.
        patterns: by field, what a text must be that has to be of some form.

    Returns:
        one for each thing that is wrong; none repeats a key that is not known, nor a value.
    """
    errors, found, meant = list(errors), list[Finding](), set[Loc]()
    demands: dict[Loc, list[str]] = {}
    # Unknown keys first: a misspelt key is not a missing one as well.
    for error in sorted(errors, key=lambda error: error["type"] != "extra_forbidden"):
        kind, loc = str(error["type"]), tuple(error["loc"])
        if kind == "missing":
            if loc not in meant:
                found.append(Finding(loc[:-1], f"the key {_quoted(loc[-1])} is missing"))
            continue
        here = _there(data, loc)
        name, value = str(here[-1]) if here else "", value_at(data, here)
        record = _record_at(model, here[:-1])
        fields = record.model_fields if record else {}
        if kind == "extra_forbidden":
            found.append(Finding(here, f"{unknown}; {hint(name, fields)}", at_key=True))
            meant.add((*here[:-1], nearest(name, fields) or ""))
        elif value is EMPTY:
            optional = " or leave it out" if name in fields and not fields[name].is_required() else ""
            told = f"{_known_as(here, model, whole)} is empty; give it a value{optional}"
            found.append(Finding(here, told, at_key=True))
        elif not (value is BROKEN or _follows(kind, value) or _other_branch(error, here, value, errors)):
            form = "[key]" if loc[-1:] == ("[key]",) else name
            demand = _demand(error, value, form, fields.get(name), patterns or {})
            if kind in _OWN_WORDS:
                found.append(Finding(here, demand))
            elif demand not in demands.setdefault(here, []):
                demands[here].append(demand)
    for here, wanted in demands.items():
        found.append(Finding(here, f"{_known_as(here, model, whole)} {'; or it '.join(wanted)}"))
    return found


def _follows(kind: str, value: object) -> bool:
    """Whether an error only follows from others: entries that are wrong themselves are not counted."""
    return kind == "too_short" and isinstance(value, list | tuple) and bool(value)


def _other_branch(
    error: Mapping[str, Any], here: Loc, value: object, errors: Sequence[Mapping[str, Any]]
) -> bool:
    """Whether a field that may be a word or a list holds a list, and this error only misses the word."""
    below = sum(tuple(other["loc"][: len(here)]) == here for other in errors)
    return error["type"] == "literal_error" and isinstance(value, list | tuple | Mapping) and below > 1


def _there(data: object, loc: Loc) -> Loc:
    """A location as in the data: without what validation puts into it for one of several types."""
    found: list[int | str] = []
    for part in loc:
        in_list = isinstance(data, list | tuple) and isinstance(part, int) and part < len(data)
        if in_list or (isinstance(data, Mapping) and part in data):
            data = data[part]  # type: ignore[index]
            found.append(part)
    return tuple(found)


def _record_at(model: type[BaseModel] | None, loc: Loc) -> type[BaseModel] | None:
    """The model of the record at a location; None where that is no record."""
    for part in loc:
        if isinstance(part, str):
            field = model.model_fields.get(part) if model else None
            model = _record_in(field.annotation) if field else None
    return model


def _record_in(kind: object) -> type[BaseModel] | None:
    if isinstance(kind, type) and not get_args(kind) and issubclass(kind, BaseModel):
        return kind
    return next((found for part in get_args(kind) if (found := _record_in(part))), None)


def _known_as(loc: Loc, model: type[BaseModel], whole: str) -> str:
    """How a message calls a place: by the last key of ours on the way to it."""
    for end in range(len(loc), 0, -1):
        record, name = _record_at(model, loc[: end - 1]), loc[end - 1]
        if isinstance(name, str) and record is not None and name in record.model_fields:
            return _quoted(name) if end == len(loc) else f"an entry of {_quoted(name)}"
    return whole


def _odd_value(loc: Loc, value: object, demand: str, below: str | None = None) -> Told | None:
    called = _called(loc) if below is None else _quoted(below)
    if value is BROKEN:
        return None
    if value is EMPTY:
        optional = " or leave it out" if _optional(loc) else ""
        return Told(f"{called} is empty; give it a value{optional}", at="key", below=below)
    return Told(f"{called} {demand}", below=below)


def _demand(
    error: Mapping[str, Any],
    value: object,
    name: str,
    field: FieldInfo | None,
    patterns: Mapping[str, str] = _PATTERNS,
) -> str:
    """What a value must be.

    Args:
        error: the validation error about it.
        value: what stands there.
        name: its key.
        field: its field, where it is one.
        patterns: by key, what a text of some form must be.
    """
    kind, context = str(error["type"]), error.get("ctx") or {}
    if kind == "string_type":
        return f"must be text{_read_as(value)}"
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", str(context["expected"]))
        expected = allowed[0] if allowed else str(context["expected"]).lower()
        return one_of(value, allowed) if len(allowed) > 1 else f"must be {expected}"
    if kind in _WHOLE_NUMBERS or kind in _NUMBERS:
        return _number(kind, value, field)
    if kind in ("bool_type", "bool_parsing"):
        return f"must be true or false{_instead(value)}"
    if kind in _MAPPINGS:
        return f"must be a mapping (key: value){_instead(value)}"
    if kind in ("tuple_type", "list_type"):
        return f"must be a list (each entry after '- ', or in [ ]){_instead(value)}"
    if kind == "too_long":
        most = context["max_length"]
        return f"must not have more than {most} {'entry' if most == 1 else 'entries'}"
    if kind in ("too_short", "string_too_short"):
        return "must not be empty"
    if kind == "string_too_long":
        return f"must not be longer than {context['max_length']} characters"
    if kind == "string_unicode":
        return "must not hold half a character (an unpaired surrogate)"
    if kind == "string_pattern_mismatch":
        return f"must be {patterns[name]}" if name in patterns else "is not of the form that is needed here"
    if kind in _LIMITS:
        words, name = _LIMITS[kind]
        limit = context[name]
        return f"{words} {int(limit) if limit == int(limit) else limit}"
    if kind == BAD_TEXT:
        return str(error["msg"])
    if kind in _OWN_WORDS:
        return str(context["error"])
    return "is not valid here"


def _number(kind: str, value: object, field: FieldInfo | None) -> str:
    whole = kind in _WHOLE_NUMBERS
    if isinstance(value, Unusable) and (value.above or value.below):
        name = "le" if value.above else "ge"
        rules = field.metadata if field is not None else ()
        limit = next((found for rule in rules if (found := getattr(rule, name, None)) is not None), None)
        words = "above" if value.above else "below"
        return f"must not be {words} {limit}" if limit is not None else "has too many digits"
    if isinstance(value, Unusable) and value == NUMBER:
        return f"must be a {'whole' if whole else 'finite decimal'} number in plain digits"
    if whole:
        return f"must be a whole number{'' if isinstance(value, float) else _instead(value)}"
    return "must be a finite number" if kind == "finite_number" else f"must be a number{_instead(value)}"


def _unknown_key(loc: Loc) -> Told:
    key, (called, model) = str(loc[-1]), _record(loc[:-1])
    known = list(model.model_fields)
    owners = [name for name, other in _RECORDS.values() if key in other.model_fields]
    if loc[0] == "operations" and owners:
        # A key of ours holds nothing of the request.
        elsewhere = f"unknown key '{key}' in {called}; only {owners[0]} has it, here the keys are: "
        return Told(elsewhere + ", ".join(known), at="key")
    return Told(f"unknown key in {called}; {hint(key, known)}", at="key", meant=nearest(key, known))


def _field(loc: Loc) -> FieldInfo | None:
    record = _RECORDS.get(_shape(loc[:-1]))
    return record[1].model_fields.get(str(loc[-1])) if record and loc else None


def _optional(loc: Loc) -> bool:
    field = _field(loc)
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
