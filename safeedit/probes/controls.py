"""Facts of other people that must survive an edit, and prose that the model must go on writing well.

Where they come from, in this order: what the policy names; the files that the suite names;
`controls.jsonl` and `retained.jsonl` in the model's own folder; the common knowledge and the plain
English that ship with safeedit.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from safeedit.errors import PolicyError, Problem
from safeedit.policy.positions import validated
from safeedit.policy.problems import Place
from safeedit.policy.words import findings_of

if TYPE_CHECKING:
    from safeedit.probes.suite import Suite

CONTROLS_FILE = "controls.jsonl"
RETAINED_FILE = "retained.jsonl"
LARGEST_FILE = 64 * 2**20

_Words = Annotated[str, Field(min_length=1, max_length=500)]
Row = TypeVar("Row", bound=BaseModel)


class _FactRow(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    subject: _Words
    relation: _Words
    object: _Words
    aliases: list[_Words] = Field(default_factory=list)


class _TextRow(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    text: Annotated[str, Field(min_length=1, max_length=100_000)]


@dataclass(frozen=True, repr=False)
class ControlFact:
    """Somebody else's fact; the model should say it after an edit if it said it before."""

    subject: str
    relation: str
    object: str
    aliases: tuple[str, ...] = ()
    """Other spellings of the object."""
    place: Place | None = field(default=None, compare=False)
    """The line that says it, for messages."""


@dataclass(frozen=True, repr=False)
class Controls:
    """What must survive."""

    facts: tuple[ControlFact, ...]
    texts: tuple[str, ...]
    shipped: bool = False
    """Whether the facts are the common knowledge that ships with safeedit, which holds few people."""


def load_controls(model_folder: Path | None, suite: Suite) -> Controls:
    """The controls for a model under a suite; facts and texts are looked for independently.

    Args:
        model_folder: the folder that the model was loaded from, if it was one.
        suite: may name files of its own.

    Raises:
        PolicyError: a file cannot be read, or a line of it is not a control.
    """
    ours = files("safeedit_probes") / "prompts"
    source = _source(suite.controls, model_folder, CONTROLS_FILE, ours / "common_facts.jsonl")
    facts = suite.own.facts or _rows(
        source,
        _FactRow,
        lambda row, place: ControlFact(row.subject, row.relation, row.object, tuple(row.aliases), place),
        '{"subject": …, "relation": …, "object": …}',
    )
    texts = suite.own.texts or _rows(
        _source(suite.retained, model_folder, RETAINED_FILE, ours / "plain_english.jsonl"),
        _TextRow,
        lambda row, place: row.text,
        '{"text": …}',
    )
    return Controls(facts, texts, shipped=not suite.own.facts and source == ours / "common_facts.jsonl")


def _source(named: Path | None, folder: Path | None, name: str, shipped: Traversable) -> Path | Traversable:
    if named is not None:
        return named
    if folder is not None and (folder / name).is_file():
        return folder / name
    return shipped


Item = TypeVar("Item")


def _rows(
    source: Path | Traversable, model: type[Row], build: Callable[[Row, Place], Item], shape: str
) -> tuple[Item, ...]:
    """Every line as a record; all lines that are not one are reported together, without their content."""
    problems: list[Problem] = []
    found: list[Item] = []
    for number, line in enumerate(_lines(source), 1):
        if not line.strip():
            continue
        place = Place(str(source), number, 1)
        try:
            data = json.loads(line)
        except json.JSONDecodeError as error:
            told = f"not JSON: {error.msg.partition(':')[0]}"
            problems.append(Problem(str(source), number, error.colno, told))
            continue
        except (ValueError, RecursionError):
            problems.append(Problem(*place, f"not JSON that can be read; {shape} is needed"))
            continue
        if not isinstance(data, dict):
            problems.append(Problem(*place, f"a line must be one object: {shape}"))
            continue
        row, errors = validated(model, data)
        problems += [Problem(*place, finding.message) for finding in findings_of(errors, data, model)]
        if row is not None:
            found.append(build(row, place))
    if problems:
        raise PolicyError(problems)
    if not found:
        raise PolicyError([Problem(str(source), 1, 1, "holds no line; one JSON object a line is needed")])
    return tuple(found)


def _lines(source: Path | Traversable) -> list[str]:
    try:
        with source.open("rb") as stream:
            data = stream.read(LARGEST_FILE + 1)
        if len(data) > LARGEST_FILE:
            raise PolicyError([Problem(str(source), 1, 1, f"larger than {LARGEST_FILE >> 20} MiB")])
        return data.decode("utf-8").splitlines()
    except OSError as error:
        raise PolicyError([Problem(str(source), 1, 1, error.strerror or "cannot be read")]) from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PolicyError([Problem(str(source), line, 1, "not UTF-8")]) from None
