"""Rows of one local file that plain Python can read: JSON, JSON lines, CSV, TSV, text; and their places."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from safeedit.errors import PolicyError, Problem
from safeedit.policy.files import decoded, shown_path, size_in_words, why_unreadable
from safeedit.policy.problems import Place

MAX_BYTES = 2**30
"""The largest file that is read."""
MAX_LINE = 2**24
TEXT = "text"
"""The field of a row that is a text and nothing more."""


@dataclass(frozen=True, repr=False)
class Row:
    """One record, and where it stands."""

    values: Mapping[str, Any]
    place: Place


def file_rows(path: Path, elsewhere: Iterable[str] = ()) -> Iterator[Row]:
    """The rows of a file; `elsewhere` are endings of files that something else reads.

    Raises:
        PolicyError: it cannot be read, or a row is none; file and line, and no value.
    """
    ending = path.suffix.lower()
    read = READERS.get(ending)
    name = shown_path(path)
    if read is None:
        known = ", ".join(sorted((*READERS, *elsewhere)))
        raise PolicyError([Problem(name, 1, 1, f"cannot read this kind of file; give one of: {known}")])
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise PolicyError([Problem(name, 1, 1, f"the file is larger than {size_in_words(MAX_BYTES)}")])
        yield from read(path, name)
    except OSError as error:
        reason = why_unreadable(error)
    else:
        return
    raise PolicyError([Problem(name, 1, 1, reason)])


def _lines(path: Path, name: str) -> Iterator[tuple[Place, str]]:
    """Every line that is not blank, with its place."""
    with path.open("rb") as stream:
        number = 0
        while line := stream.readline(MAX_LINE + 1):
            number += 1
            place = Place(name, number, 1)
            if len(line) > MAX_LINE:
                _refuse(place, f"this line is longer than {size_in_words(MAX_LINE)}")
            text = _decoded(line.rstrip(b"\r\n"), place)
            if number == 1:
                text = text.removeprefix("\ufeff")
            if text.strip():
                yield place, text


def _json_lines(path: Path, name: str) -> Iterator[Row]:
    for place, text in _lines(path, name):
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            at, message = place._replace(column=error.colno), _why_not_json(error)
        except (ValueError, RecursionError):
            at, message = place, "this line is not JSON that can be read"
        else:
            yield _row(value, place)
            continue
        _refuse(at, message)


def _json(path: Path, name: str) -> Iterator[Row]:
    """A list of records, or (as some benchmarks call it too) one record a line."""
    with path.open("rb") as stream:
        head = stream.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    if not head.startswith(b"["):
        yield from _json_lines(path, name)
        return
    text = _decoded(path.read_bytes(), Place(name, 1, 1)).removeprefix("\ufeff")
    decoder, at, line, told = json.JSONDecoder(), text.index("[") + 1, 1, 0
    while True:
        while at < len(text) and (text[at].isspace() or text[at] == ","):
            at += 1
        if text[at : at + 1] == "]":
            break
        line, told = line + text.count("\n", told, at), at
        place = Place(name, line, at - (text.rfind("\n", 0, at) + 1) + 1)
        try:
            value, end = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            where, message = Place(name, error.lineno, error.colno), _why_not_json(error)
        except (ValueError, RecursionError):
            where, message = place, "this is not JSON that can be read"
        else:
            yield _row(value, place)
            at = end
            continue
        _refuse(where, message)
    rest = text[at + 1 :]
    if rest.strip():
        line = text.count("\n", 0, len(text) - len(rest.lstrip())) + 1
        _refuse(Place(name, line, 1), "there is more after the end of the list")


def _table(delimiter: str) -> Callable[[Path, str], Iterator[Row]]:
    def read(path: Path, name: str) -> Iterator[Row]:
        texts = (text for _, text in _physical(path, name))
        reader = csv.DictReader(texts, delimiter=delimiter, strict=True)
        line = 1
        while True:
            try:
                if reader.fieldnames:  # Reads the first line, the first time.
                    line = reader.line_num + 1
                values = next(reader)
            except StopIteration:
                return
            except csv.Error:
                break
            if None in values or None in values.values():
                _refuse(Place(name, line, 1), "this row has not as many fields as the first line names")
            # A table has no other way to leave a field out.
            yield Row({key: value for key, value in values.items() if value != ""}, Place(name, line, 1))
        _refuse(Place(name, line, 1), "this row is not CSV; put fields with commas or quotes in quotes")

    return read


def _physical(path: Path, name: str) -> Iterator[tuple[Place, str]]:
    """Every line with its end, blank ones too: a field in quotes may hold them."""
    with path.open("rb") as stream:
        number = 0
        while line := stream.readline(MAX_LINE + 1):
            number += 1
            place = Place(name, number, 1)
            text = _decoded(line, place)
            yield place, text.removeprefix("\ufeff") if number == 1 else text


def _plain(path: Path, name: str) -> Iterator[Row]:
    """One text a line."""
    for place, text in _lines(path, name):
        yield Row({TEXT: text.strip()}, place)


READERS: Mapping[str, Callable[[Path, str], Iterator[Row]]] = {
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": _table(","),
    ".tsv": _table("\t"),
    ".txt": _plain,
}


def _row(value: object, place: Place) -> Row:
    if isinstance(value, Mapping):
        return Row(value, place)
    if isinstance(value, str):
        return Row({TEXT: value}, place)
    _refuse(place, "this is not a record; a JSON object is needed ({…})")


def _decoded(data: bytes, start: Place) -> str:
    text = decoded(data, start)
    if isinstance(text, Place):
        _refuse(text, "this is not UTF-8; save the file as UTF-8")
    return text


def _why_not_json(error: json.JSONDecodeError) -> str:
    found = error.msg.partition(":")[0]
    return f"this is not JSON ({found[:1].lower()}{found[1:]})"


def _refuse(place: Place, message: str) -> NoReturn:
    raise PolicyError([Problem(*place, message)])
