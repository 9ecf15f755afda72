"""YAML text as a tree that knows where everything stands.

Only the parser's events are used: nothing is constructed, executed or expanded, so that an
anchor cannot multiply and a tag cannot build anything. Limits are checked while events arrive.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, TypeAlias

import yaml

from safeedit.policy.problems import Place, Problems

MAX_DEPTH = 50
MAX_NODES = 500_000

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")
_NOT_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufeff\ufffe\uffff]")

_IN_OTHER_WORDS = (
    ("undefined tag handle", "tags (!) are not read here; put the text in quotes"),
    ("mapping values are not allowed", "a ':' cannot stand here; put the text in quotes or begin a new line"),
    ("mapping keys are not allowed", "a '?' cannot stand here; put the text in quotes"),
    ("sequence entries are not allowed", "a '- ' cannot stand here; begin a new line before it"),
    ("cannot start any token", "this character cannot begin a value; use quotes, and spaces to indent"),
    ("tab character", "a tab cannot indent; use spaces"),
    ("expected ':'", "a ':' is missing after this key"),
    ("end of stream", "a quote is opened here and never closed"),
    ("',' or ']'", "a ',' or a ']' is missing before this"),
    ("',' or '}'", "a ',' or a '}' is missing before this"),
    ("escape", "this escape is unknown; in single quotes a backslash is an ordinary character"),
    ("hexdecimal", "this escape is unknown; in single quotes a backslash is an ordinary character"),
    ("alphabetic or numeric", "'&' and '*' begin an anchor in YAML; put the text in quotes"),
    ("URI", "tags (!) are not read here; put the text in quotes"),
    ("document start", "only one document can stand in a file"),
    ("incompatible", "only YAML 1 is read"),
    ("expected <block end>", "this does not fit the lines above; check indentation, quotes and brackets"),
    ("expected key", "this does not fit the lines above; check indentation, quotes and brackets"),
    ("'-' indicator", "this does not fit the lines above; check indentation, quotes and brackets"),
    ("node content", "a value is missing here, or there is a bracket too many"),
)


@dataclass(slots=True)
class TextNode:
    """A scalar."""

    line: int
    column: int
    text: str
    plain: bool
    """Written without quotes, so that YAML may read it as something other than text."""


@dataclass(slots=True)
class ListNode:
    """A sequence."""

    line: int
    column: int
    items: list[Node]


@dataclass(slots=True)
class MapNode:
    """A mapping; keys are text and occur once."""

    line: int
    column: int
    entries: dict[str, tuple[TextNode, Node]]


@dataclass(slots=True)
class BrokenNode:
    """Something whose problem has been noted."""

    line: int
    column: int


Node: TypeAlias = TextNode | ListNode | MapNode | BrokenNode


@dataclass(slots=True)
class _Open:
    """A collection whose end has not been reached."""

    node: ListNode | MapNode
    key: TextNode | BrokenNode | None = None
    broken: bool = False


def read_tree(text: str, file: str, problems: Problems, *, first_line: int = 1) -> Node | None:
    """The tree of the one document in `text`; None if there is nothing in it.

    Anchors, aliases, tags, repeated keys and control characters are noted in `problems`, and what
    they stand for is left out of the tree.

    Args:
        text: the YAML.
        file: what the file is called in messages.
        problems: where to note what is wrong.
        first_line: the number of the line that `text` begins with.

    Raises:
        PolicyError: the text is not YAML, holds a second document, or is beyond a limit.
    """
    odd = _NOT_TEXT.search(text)
    if odd:
        line = text.count("\n", 0, odd.start())
        column = odd.start() - (text.rfind("\n", 0, odd.start()) + 1)
        problems.stop(
            Place(file, first_line + line, column + 1),
            f"a control character (U+{ord(odd.group()):04X}) cannot stand in a text file",
        )
    builder = _Builder(file, problems, first_line)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            builder.take(event)
        return builder.root
    except yaml.MarkedYAMLError as error:
        place, message = _explain(error, builder)
    except (yaml.YAMLError, ValueError, OverflowError):
        place, message = builder.last, "this is not YAML from here on"
    problems.stop(place, message)


def _explain(error: yaml.MarkedYAMLError, builder: _Builder) -> tuple[Place, str]:
    problem = error.problem or ""
    message = next((words for part, words in _IN_OTHER_WORDS if part in problem), "this is not YAML")
    if "',' or" in problem and error.context_mark is not None:
        message += f"; the bracket is opened in line {builder.place(error.context_mark).line}"
    unclosed = "end of stream" in problem and error.context_mark is not None
    mark = error.context_mark if unclosed else error.problem_mark or error.context_mark
    return (builder.last if mark is None else builder.place(mark)), message


class _Builder:
    def __init__(self, file: str, problems: Problems, first_line: int) -> None:
        self.root: Node | None = None
        self.last = Place(file, first_line, 1)
        self._file, self._problems, self._first_line = file, problems, first_line
        self._open: list[_Open] = []
        self._nodes = 0
        self._documents = 0
        self._anchored = False

    def place(self, mark: Any) -> Place:
        return Place(self._file, mark.line + self._first_line, mark.column + 1)

    def take(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                self._problems.stop(self.place(event.start_mark), "only one document can stand in a file")
        elif isinstance(event, yaml.CollectionEndEvent):
            done = self._open.pop()
            self._add(BrokenNode(done.node.line, done.node.column) if done.broken else done.node)
        elif isinstance(event, yaml.NodeEvent):
            self.last = self.place(event.start_mark)
            self._node(event)

    def _node(self, event: yaml.NodeEvent) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            self._problems.stop(
                self.last, f"the file holds more than {MAX_NODES} values; move facts to a facts_file"
            )
        self._refuse_anchor(event)
        tagged = getattr(event, "tag", None) is not None
        if tagged:
            self._problems.add(self.last, "tags (!) are not read here; remove it, or put the text in quotes")
        _, line, column = self.last
        if isinstance(event, yaml.CollectionStartEvent):
            if len(self._open) >= MAX_DEPTH:
                self._problems.stop(self.last, f"nested deeper than {MAX_DEPTH} levels")
            mapping = isinstance(event, yaml.MappingStartEvent)
            node = MapNode(line, column, {}) if mapping else ListNode(line, column, [])
            self._open.append(_Open(node, broken=tagged))
        elif not isinstance(event, yaml.ScalarEvent) or tagged:
            self._add(BrokenNode(line, column))
        elif _CONTROL.search(event.value):
            self._problems.add(self.last, "a control character cannot stand in a value; remove its escape")
            self._add(BrokenNode(line, column))
        else:
            self._add(TextNode(line, column, event.value, plain=event.implicit[0]))

    def _refuse_anchor(self, event: yaml.NodeEvent) -> None:
        if event.anchor is not None and not self._anchored:
            # One line for all of them: a bomb has thousands.
            self._anchored = True
            self._problems.add(self.last, "anchors (&) and aliases (*) are not read; write values out")

    def _add(self, node: Node) -> None:
        if not self._open:
            self.root = node
            return
        frame = self._open[-1]
        if isinstance(frame.node, ListNode):
            frame.node.items.append(node)
        elif frame.key is None:
            frame.key = self._key(node, frame.node)
        else:
            key, frame.key = frame.key, None
            if isinstance(key, TextNode):
                frame.node.entries[key.text] = (key, node)

    def _key(self, node: Node, mapping: MapNode) -> TextNode | BrokenNode:
        place = Place(self._file, node.line, node.column)
        if isinstance(node, TextNode):
            first = mapping.entries.get(node.text)
            if first is None:
                return node
            self._problems.add(place, f"the key is already given in line {first[0].line}; give it once")
        elif not isinstance(node, BrokenNode):
            self._problems.add(place, "a key must be a single word, not a list or a mapping")
        return BrokenNode(node.line, node.column)
