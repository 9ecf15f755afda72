"""`safeedit editors` and `safeedit probes`: what is registered, one line each."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from .options import Json
from .output import write_json

if TYPE_CHECKING:
    from safeedit.editors.base import Editor
    from safeedit.exams.exam import Exam
    from safeedit.probes.base import Probe
    from safeedit.registry import Registry

    from .render import Screen

T = TypeVar("T")
Row = dict[str, Any]


@dataclass(frozen=True)
class _Listed(Generic[T]):
    """What is registered: what can be used, and what other packages wanted to add."""

    kinds: dict[str, type[T]]
    rows: list[Row]
    """As JSON values, one for each of `kinds`."""
    broken: dict[str, str]
    """Why what is registered under a name cannot be used."""
    ignored: dict[str, str]
    """What would have taken the place of something of ours."""


def _listed(registry: Registry[T], told: Callable[[str, type[T]], Row]) -> _Listed[T]:
    from safeedit.registry import BrokenEntryError

    found: _Listed[T] = _Listed({}, [], {}, dict(registry.ignored))
    for name in registry:
        target = registry.target(name)
        try:
            kind = registry.get(name)
            row = told(name, kind)
        except BrokenEntryError as error:
            found.broken[name] = f"{error.reason}: {target}"
        except AttributeError as error:
            # A class of another package that does not say of itself what a list shows.
            found.broken[name] = f"cannot be listed ({type(error).__name__}): {target}"
        else:
            found.kinds[name] = kind
            found.rows.append(row)
    return found


def _others(*lists: _Listed[Any]) -> Row:
    """What other packages wanted to add, as JSON values."""
    return {
        "broken": [{"name": n, "error": why} for one in lists for n, why in one.broken.items()],
        "ignored": [{"name": n, "target": what} for one in lists for n, what in one.ignored.items()],
    }


def _show_others(screen: Screen, lists: Iterable[_Listed[Any]]) -> None:
    from .render import Words

    for one in lists:
        for name, why in one.broken.items():
            screen.line(Words(name, "bad"), why)
        for name, target in one.ignored.items():
            told = f"of a package ({target}) is ignored: the name is one of safeedit's own"
            screen.line(Words(name, "doubtful"), told)


def editors(as_json: Json = False) -> None:
    """List the editors."""
    from safeedit.editors import EDITORS

    found = _listed(EDITORS, _editor)
    if as_json:
        write_json({"editors": found.rows, **_others(found)})
        return
    from .render import Column, Screen, Words

    Screen().table(
        (Column("editor"), Column("what it does", wraps=True), Column("can"), Column("arXiv")),
        [
            (
                Words(name, "bold"),
                "; ".join([editor.summary, *_refusals(editor)]),
                ", ".join(_marked(op, editor) for op in sorted(editor.operations)),
                editor.paper,
            )
            for name, editor in found.kinds.items()
        ],
    )
    Screen().line("* hides only: the weights keep what was erased")
    _show_others(Screen(), (found,))


def _editor(name: str, editor: type[Editor]) -> Row:
    return {
        "name": name,
        "summary": editor.summary,
        "paper": editor.paper,
        "operations": sorted(editor.operations),
        "cannot": dict(editor.cannot),
        "beside_weights": editor.beside_weights,
    }


def _refusals(editor: type[Editor]) -> list[str]:
    """Why it cannot do the other operations, each reason once."""
    reasons: dict[str, list[str]] = {}
    for op, why in editor.cannot.items():
        reasons.setdefault(why, []).append(op)
    return [f"no {' or '.join(ops)}: {why}" for why, ops in reasons.items()]


def _marked(op: str, editor: type[Editor]) -> str:
    return f"{op}*" if op == "erase" and editor.beside_weights else op


def probes(as_json: Json = False) -> None:
    """List the probes, the suites that put them together, and the data sets of `--dataset`."""
    from safeedit.exams import DATASETS
    from safeedit.probes import PROBES
    from safeedit.probes.suite import suite_names

    found, sets = _listed(PROBES, _probe), _listed(DATASETS, _data_set)
    if as_json:
        listed = {"probes": found.rows, "suites": list(suite_names()), "datasets": sets.rows}
        write_json({**listed, **_others(found, sets)})
        return
    from .render import Column, Screen, Words

    screen = Screen()
    screen.table(
        (Column("probe"), Column("what holds when it passes", wraps=True)),
        [(Words(name, "bold"), _first_line(kind)) for name, kind in found.kinds.items()],
    )
    screen.line(Words("suites:", "dim"), ", ".join(suite_names()))
    screen.line(Words("data sets:", "dim"), ", ".join(sets.kinds))
    _show_others(screen, (found, sets))


def _probe(name: str, kind: type[Probe[Any, Any]]) -> Row:
    return {
        "id": name,
        "summary": _first_line(kind),
        "family": kind.family,
        "grade": kind.grade,
        "metric": kind.metric,
        "unit": kind.unit,
    }


def _data_set(name: str, kind: type[Exam]) -> Row:
    return {"name": name, "id": kind.id, "summary": _first_line(kind)}


def _first_line(kind: type[object]) -> str:
    return (inspect.getdoc(kind) or "").partition("\n")[0]
