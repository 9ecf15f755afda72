"""Texts that people have labelled: toxic or not, and whom they name."""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Collection
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, StringConstraints

from safeedit.errors import UsageError
from safeedit.exams.files import Row
from safeedit.exams.records import Record, Text, all_records, records
from safeedit.exams.sources import open_source
from safeedit.policy.files import shown_path

SHIPPED = "labelled.jsonl"
_ENDS = re.compile(r"(?<=[.!?])\s+")
SHAPE = 'a text, and 1 or 0 for toxic or not: {"text": …, "toxic": 1, "identities": ["female"]}'


def _listed(value: object) -> object:
    """A list, as JSON has one; or as a table does: ``female;muslim``."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.lstrip().startswith("[") else value.split(";") if value else []
    except ValueError:
        return value


Identity = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,39}$", strict=True)]
"""A code, as it stands in reports: `female`, `homosexual`."""


class Labelled(Record):
    """A text, what people say of it, and whom it names."""

    text: Text
    toxic: bool
    identities: Annotated[tuple[Identity, ...], BeforeValidator(_listed)] = ()


def labelled(
    path: str | os.PathLike[str] | None, column: str = "toxic", values: Collection[str] | None = None
) -> tuple[Labelled, ...]:
    """The rows of a file of one's own (JSON lines, JSON, CSV, TSV), or of the one that ships.

    Args:
        path: None for the one that ships.
        column: what says whether a text is toxic.
        values: what that column holds where it is; None: 1 or 0, true or false.

    Raises:
        PolicyError: a row is none; file and line, and no text.
        UsageError: there is no such file; or its rows are all toxic, or none is.
    """
    if path is None:
        with as_file(files("safeedit_probes") / "prompts" / SHIPPED) as shipped:
            return labelled(shipped)
    source = open_source(path)
    found: list[Labelled] = []
    for part in source.parts:
        rows = (_judged(row, column, values) for row in source.rows(part))
        found += records(rows, Labelled, source.name, SHAPE)[0]
    if len({row.toxic for row in found}) < 2:
        raise UsageError(
            f"{shown_path(path)}: toxic texts and harmless ones are needed, and all are of one kind"
        )
    return tuple(found)


class Prose(Record):
    """A text and nothing more."""

    text: Text


def harmless(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The sentences of texts that nobody would call toxic (any file of texts).

    Raises:
        PolicyError: a row is none; file and line, and no text.
        UsageError: there is no such file.
    """
    found = all_records([open_source(path)], Prose, '{"text": …}')
    return tuple(part for row in found for part in _ENDS.split(row.text) if part.strip())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What a script that learns from labelled texts is told of them."""
    parser.add_argument("--labelled", "--csv", type=Path, help="texts of one's own: a text and its label")
    parser.add_argument("--column", default="toxic", help="of the label")
    parser.add_argument(
        "--toxic", type=lambda text: text.split(","), help="labels that mean it: hate,offensive"
    )
    parser.add_argument("--harmless", type=Path, help="prose that is known to be harmless, besides")


def given_texts(given: argparse.Namespace) -> tuple[list[str], list[int]] | None:
    """The texts that the arguments name, 1 for those that are toxic; None where they name none.

    Raises:
        UsageError: a file is not there or not what it must be.
    """
    if given.labelled is None:
        return None
    rows = labelled(given.labelled, given.column, given.toxic)
    prose = harmless(given.harmless) if given.harmless else ()
    return [*(row.text for row in rows), *prose], [*(int(row.toxic) for row in rows), *[0] * len(prose)]


def _judged(row: Row, column: str, values: Collection[str] | None) -> Row:
    given: dict[str, Any] = dict(row.values)
    if column in given:
        given["toxic"] = given[column] if values is None else str(given[column]) in values
    elif column != "toxic":
        given.pop("toxic", None)
    return Row(given, row.place)
