"""What an unquoted YAML value is, without guessing.

YAML 1.1 reads ``no`` as false, ``0612`` as 394 and ``12:30`` as 750. Telephone numbers and
answers look like that, so whatever YAML would silently change is told to be put in quotes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import yaml

from safeedit.policy.problems import Place, Problems
from safeedit.policy.tree import BrokenNode, ListNode, MapNode, Node, TextNode

_HUGE = re.compile(r"[-+]?[1-9][0-9]{18,}")
_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_DECIMAL = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_tag_of: Callable[..., object] = yaml.resolver.Resolver().resolve
_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True)
class Unusable:
    """Stands in the data for a value that no field takes; validation finds it by its type."""

    reads_as: str
    above: bool = False
    """A whole number above all that a field takes ..."""
    below: bool = False
    """... or below it."""


EMPTY = Unusable("nothing")
BROKEN = Unusable("something reported")
NUMBER = Unusable("a number")
HUGE = Unusable("a number", above=True)
TINY = Unusable("a number", below=True)
SWITCH = Unusable("true or false")


def resolve(text: str) -> str | int | float | bool | Unusable:
    """The value of an unquoted scalar, dates left as text; an `Unusable` where YAML would change it."""
    tag = str(_tag_of(yaml.ScalarNode, text, (True, False))).removeprefix(_TAG)
    if tag == "null":
        return EMPTY
    if tag == "bool":
        return {"true": True, "false": False}.get(text.lower(), SWITCH)
    if tag == "int":
        if _HUGE.fullmatch(text):
            return TINY if text.startswith("-") else HUGE
        return int(text) if _WHOLE.fullmatch(text) else NUMBER
    if tag == "float":
        number = float(text) if _DECIMAL.fullmatch(text) else math.nan
        return number if math.isfinite(number) else NUMBER
    return text


def plain_data(node: Node) -> object:
    """The policy's data as lists, dictionaries and scalars, ready for validation."""
    if isinstance(node, TextNode):
        return resolve(node.text) if node.plain else node.text
    if isinstance(node, ListNode):
        return [plain_data(item) for item in node.items]
    if isinstance(node, MapNode):
        return {key: plain_data(value) for key, (_, value) in node.entries.items()}
    return BROKEN


def parameter_data(node: Node, file: str, problems: Problems) -> object:
    """An editor's hyperparameters: any JSON value, where ``1e-3`` is a number as in YAML 1.2.

    What YAML would change is noted in `problems`.
    """
    if isinstance(node, ListNode):
        return [parameter_data(item, file, problems) for item in node.items]
    if isinstance(node, MapNode):
        return {key: parameter_data(value, file, problems) for key, (_, value) in node.entries.items()}
    if isinstance(node, BrokenNode):
        return None
    value = resolve(node.text) if node.plain else node.text
    if isinstance(value, Unusable):
        if value in (HUGE, TINY):
            told = "a whole number has 18 digits at most here; write a smaller one, or put it in quotes"
            problems.add(Place(file, node.line, node.column), told)
        elif value is not EMPTY:
            problems.add(
                Place(file, node.line, node.column),
                f"YAML reads this as {value.reads_as}, but not as it is written; write "
                f"{'a finite decimal number' if value is NUMBER else 'true or false'}, or put it in quotes",
            )
        return None
    if node.plain and isinstance(value, str) and _DECIMAL.fullmatch(value):
        number = float(value)
        return number if math.isfinite(number) else value
    return value
