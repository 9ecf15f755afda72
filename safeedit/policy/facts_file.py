"""Facts and behaviours by the thousand: a file with one JSON object a line, read line by line."""

from __future__ import annotations

import json
import os
import re
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any, BinaryIO, NoReturn

from safeedit.errors import PolicyError, UsageError
from safeedit.exams.edits import EDITS, dataset_of, stated_facts
from safeedit.exams.sources import beside
from safeedit.policy.files import decoded, shown_path, size_in_words, why_unreadable
from safeedit.policy.model import ChangedFact, StatedBehaviour, StatedFact
from safeedit.policy.positions import Positions, tell, validated
from safeedit.policy.problems import SHOWN, Place, Problems
from safeedit.policy.rules import (
    BEHAVIOUR_SOURCES,
    SOURCES,
    Finding,
    Loc,
    behaviour_findings,
    fact_findings,
)
from safeedit.policy.scalars import EMPTY
from safeedit.policy.tree import read_tree
from safeedit.triples.catalogue import builtin_catalogue

MAX_BYTES = 2**30
MAX_LINE = 2**16
MAX_FACTS = 1_000_000


@dataclass(frozen=True)
class _Kind:
    """What the lines of an operation's file are."""

    model: type[StatedFact] | type[StatedBehaviour]
    findings: Callable[[object], Iterator[Finding]] = fact_findings
    key: str = "facts"
    """Where they are put."""
    rivals: tuple[str, ...] = SOURCES
    one: str = "fact"
    shape: str = '{"subject": …, "relation": …, "object": …}'

    @property
    def source(self) -> str:
        """The key that names the file."""
        return f"{self.key}_file"


_STATED = _Kind(StatedFact)
_KINDS = {
    "erase": _STATED,
    "modify": _Kind(ChangedFact),
    "insert": _STATED,
    "detox": _Kind(
        StatedBehaviour,
        behaviour_findings,
        "behaviours",
        BEHAVIOUR_SOURCES,
        "behaviour",
        '{"prompt": …, "unsafe": …, "safe": …}',
    ),
}


class _TwiceError(ValueError):
    """A key stands twice in one object."""


def include_facts_files(data: object, policy_path: str, positions: Positions, problems: Problems) -> None:
    """Put what every `facts_file` or `behaviours_file` holds in its place, in the policy's plain data.

    A file of facts has one a line, or is ``NAME:PATH``: what a public data set of edits states.

    What is wrong with a file is noted in `problems`, with that file's own lines; facts that are
    right are put in place even so, for the rules that look at all of them together.
    """
    operations = data.get("operations") if isinstance(data, Mapping) else None
    for index, operation in enumerate(operations if isinstance(operations, list) else ()):
        op = operation.get("op") if isinstance(operation, dict) else None
        if not isinstance(op, str) or op not in _KINDS:
            continue
        kind = _KINDS[op]
        name = operation.get(kind.source)
        if not isinstance(name, str) or not name or (set(kind.rivals) - {kind.source}) & set(operation):
            continue
        place = positions.value(("operations", index, kind.source))
        dataset = dataset_of(name) if kind.key == "facts" else None
        if _leaves_folder(dataset[1] if dataset else name):
            problems.add(place, f"'{kind.source}' must be a path in or below the policy's folder")
            continue
        folder = os.path.dirname(policy_path)
        path = beside(dataset[1], folder) if dataset else os.path.join(folder, name)
        reason = ""
        reader = _Reader(shown_path(path), op, index, problems)
        try:
            if dataset:
                _include_dataset(data, dataset[0], path, reader, op)
            else:
                with open(path, "rb") as file:
                    reader.read(file)
        except PolicyError as error:
            reader.refuse(error)
        except UsageError as error:
            reason = str(error)
        except (OSError, ValueError) as error:
            reason = why_unreadable(error)
            if isinstance(error, FileNotFoundError):
                reason += _sets(name, kind)
        if reason:
            problems.add(place, f"'{kind.source}': {reason}")
        elif reader.found:
            del operation[kind.source]
            operation[kind.key] = reader.found
            positions.elsewhere[index] = (reader.name, reader.lines)


def _include_dataset(data: object, dataset: str, path: str, reader: _Reader, op: str) -> None:
    """The facts that a public data set states, and its relations where the policy has none of that name."""
    stated = stated_facts(dataset, path, op)
    for fact, place in stated.facts:
        reader.add(fact, place)
    if isinstance(data, dict) and isinstance(data.setdefault("relations", {}), dict):
        known = builtin_catalogue()
        new = {name: entry for name, entry in stated.relations.items() if name not in known}
        data["relations"] = {**new, **data["relations"]}


class _Reader:
    def __init__(self, name: str, op: str, index: int, problems: Problems) -> None:
        self.name, self.found, self.lines = name, list[StatedFact | StatedBehaviour](), array("L")
        self._kind = _KINDS[op]
        self._under: Loc = ("operations", index, op, self._kind.key, 0)
        self._problems = problems

    def read(self, file: BinaryIO) -> None:
        before = len(self._problems)
        number = 0
        for number, line in self._numbered(file):
            place = Place(self.name, number, 1)
            if len(self._problems) - before >= SHOWN:
                self._problems.add(place, "from here on the file was not checked: too much is wrong before")
                return
            if not line.strip():
                continue
            if len(self.found) >= MAX_FACTS:
                self._problems.add(place, f"more than {MAX_FACTS} {self._kind.key}; split the request")
                return
            text = decoded(line, place)
            if isinstance(text, Place):
                self._problems.add(text, "this is not UTF-8; save the file as UTF-8")
            else:
                self._line(text.removeprefix("\ufeff") if number == 1 else text, place)
        if not self.found and len(self._problems) == before:
            self._problems.add(
                Place(self.name, 1, 1), f"no {self._kind.key} here; put one JSON object on each line"
            )

    def _numbered(self, file: BinaryIO) -> Iterator[tuple[int, bytes]]:
        """Every line that is short enough, with its number; the others are noted and skipped."""
        number = total = 0
        while line := file.readline(MAX_LINE + 1):
            number += 1
            total += len(line)
            whole = line.endswith(b"\n") or len(line) <= MAX_LINE
            if not whole:
                while rest := file.readline(MAX_LINE):
                    total += len(rest)
                    if rest.endswith(b"\n") or total > MAX_BYTES:
                        break
            place = Place(self.name, number, 1)
            if total > MAX_BYTES:
                self._problems.add(
                    place, f"the file is larger than {size_in_words(MAX_BYTES)}; split the request"
                )
                return
            if whole:
                yield number, line.rstrip(b"\r\n")
            else:
                self._problems.add(place, f"this line is longer than {size_in_words(MAX_LINE)}")

    def _line(self, text: str, place: Place) -> None:
        try:
            data = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
        except json.JSONDecodeError as error:
            found = error.msg.partition(":")[0]
            self._problems.add(
                Place(place.file, place.line, error.pos + 1),
                f"this line is not JSON ({found[:1].lower()}{found[1:]})",
            )
            return
        except _TwiceError as error:
            self._problems.add(place, str(error))
            return
        except (ValueError, RecursionError):
            self._problems.add(place, f"this line is not JSON that states a {self._kind.one}")
            return
        if not isinstance(data, Mapping):
            self._problems.add(place, f"a line must be one {self._kind.one}: {self._kind.shape}")
            return
        self.add(data, place, text)

    def add(self, data: Mapping[str, Any], place: Place, text: str = "") -> None:
        """One fact or behaviour as plain data; `text` is the line that it stands on, if it is one."""
        found, errors = validated(self._kind.model, data)
        if found is None:
            own = self._positions(text, place)
            tell(errors, self._kind.findings(data), data, own, self._problems, self._under)
        else:
            self.found.append(found)
            self.lines.append(place.line)

    def refuse(self, error: PolicyError) -> None:
        """Note what is wrong with a file that something else read."""
        for problem in error.problems:
            self._problems.add(Place(problem.file, problem.line, problem.column), problem.message)

    def _positions(self, text: str, place: Place) -> Positions:
        # JSON is YAML but for a few escapes; where it is not, the line alone must do.
        try:
            root = read_tree(text, place.file, Problems(), first_line=place.line) if text else None
        except PolicyError:
            root = None
        return Positions(place.file, root, place.line)


def _sets(name: str, kind: _Kind) -> str:
    """Which data sets there are, where the name of one may have been meant."""
    if kind.key != "facts" or not re.match(r"[A-Za-z][\w-]+:", name):
        return ""
    return f"; of the data sets, {' and '.join(f'{known}:FILE' for known in EDITS)} are read here"


def _leaves_folder(name: str) -> bool:
    path = PureWindowsPath(name)  # It knows both kinds of slash.
    depth = 0
    for part in path.parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            return True
    return bool(path.drive or path.root) or Path(name).is_absolute()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise _TwiceError("a key is given twice on this line; give it once")
        found[key] = EMPTY if value is None else value
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"JSON has no {name}")
