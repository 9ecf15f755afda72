"""Where each part of a policy's data stands, and telling validation errors at those places."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from safeedit.policy.model import RULE
from safeedit.policy.problems import Place, Problems
from safeedit.policy.rules import Finding, Loc
from safeedit.policy.tree import ListNode, MapNode, Node
from safeedit.policy.words import explain, untagged

Model = TypeVar("Model", bound=BaseModel)


class Positions:
    """Places by location in the data.

    Args:
        file: what the file is called.
        root: its tree; None where there is none, and every place is the line's beginning.
        line: the line of a file without a tree.
    """

    def __init__(self, file: str, root: Node | None, line: int = 1) -> None:
        self.elsewhere: dict[int, tuple[str, Sequence[int]]] = {}
        """By the index of an operation: the file that its facts or behaviours stand in, and their lines."""
        self._file, self._root, self._line = file, root, line

    def value(self, loc: Loc) -> Place:
        """The place of the value, or of the innermost thing around it that there is."""
        return self._walk(loc, key=False)

    def key(self, loc: Loc) -> Place:
        """The place of the key that the value belongs to."""
        return self._walk(loc, key=True)

    def named(self, loc: Loc) -> str:
        """How a message speaks of a place."""
        place = self.value(loc)
        return f"line {place.line}" if place.file == self._file else f"{place.file}:{place.line}"

    def _walk(self, loc: Loc, *, key: bool) -> Place:
        if len(loc) > 3 and loc[0] == "operations" and loc[2] in ("facts", "behaviours"):
            file, lines = self.elsewhere.get(int(loc[1]), ("", ()))
            if file:
                return Place(file, lines[int(loc[3])], 1)
        node = self._root
        if node is None:
            return Place(self._file, self._line, 1)
        line, column = node.line, node.column
        for depth, part in enumerate(loc):
            if isinstance(node, MapNode) and isinstance(part, str) and part in node.entries:
                name, node = node.entries[part]
                pointed = name if key and depth == len(loc) - 1 else node
            elif isinstance(node, ListNode) and isinstance(part, int) and part < len(node.items):
                node = pointed = node.items[part]
            else:
                break
            line, column = pointed.line, pointed.column
        return Place(self._file, line, column)


def validated(model: type[Model], data: object) -> tuple[Model | None, list[Any]]:
    """The data as a `model`, or what is wrong with it."""
    # The error itself goes no further: it holds the values that it is about.
    try:
        return model.model_validate(data), []
    except ValidationError as error:
        return None, list(error.errors(include_url=False, include_input=False))


def tell(
    errors: Iterable[Any],
    findings: Iterator[Finding],
    data: object,
    positions: Positions,
    problems: Problems,
    under: Loc = (),
) -> None:
    """Note validation errors and broken rules at their places.

    Args:
        errors: from `validated`.
        findings: from `safeedit.policy.rules`, for the same data.
        data: what was validated.
        positions: of that data.
        problems: where to note.
        under: where in a policy the data belongs, the operation's kind included.
    """
    meant: set[Loc] = set()
    # Unknown keys first: a misspelt key is not a missing one as well.
    for error in sorted(errors, key=lambda error: error["type"] != "extra_forbidden"):
        # Validation stops at the first rule of each part; `findings` has them all.
        told = None if error["type"] == RULE else explain(error, data, under)
        loc: Loc = error["loc"] if under else untagged(error["loc"])
        if told is None or (error["type"] == "missing" and loc in meant):
            continue
        if told.meant is not None:
            meant.add((*loc[:-1], told.meant))
        about_key = told.at == "key" or loc[-1:] == ("[key]",)
        loc = loc[:-1] if loc[-1:] == ("[key]",) else loc
        loc = loc if told.below is None else (*loc, told.below)
        problems.add(positions.key(loc) if about_key else positions.value(loc), told.message)
    for finding in findings:
        place = positions.key(finding.loc) if finding.at_key else positions.value(finding.loc)
        problems.add(place, finding.text(positions.named))


def note(findings: Iterable[Finding], positions: Positions, problems: Problems, under: Loc = ()) -> None:
    """Note what is wrong with a part of a file, `under` which it stands, at its places."""
    for finding in findings:
        loc = (*under, *finding.loc)
        problems.add(positions.key(loc) if finding.at_key else positions.value(loc), finding.message)
