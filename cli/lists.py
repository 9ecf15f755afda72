"""`safeedit editors` and `safeedit probes`: what is registered, one line each."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from .options import Json
from .output import write_json

if TYPE_CHECKING:
    from safeedit.editors.base import Editor


def editors(as_json: Json = False) -> None:
    """List the editors."""
    from safeedit.editors import EDITORS

    found = [(name, EDITORS.get(name)) for name in EDITORS]
    if as_json:
        rows = [
            {
                "name": n,
                "summary": e.summary,
                "paper": e.paper,
                "operations": sorted(e.operations),
                "cannot": dict(e.cannot),
                "beside_weights": e.beside_weights,
            }
            for n, e in found
        ]
        write_json({"editors": rows})
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
            for name, editor in found
        ],
    )
    Screen().line("* hides only: the weights keep what was erased")


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

    found = [(name, PROBES.get(name)) for name in PROBES]
    meaning = {name: _first_line(kind) for name, kind in found}
    if as_json:
        rows = [
            {
                "id": name,
                "summary": meaning[name],
                "family": kind.family,
                "grade": kind.grade,
                "metric": kind.metric,
                "unit": kind.unit,
            }
            for name, kind in found
        ]
        sets = [
            {"name": n, "id": DATASETS.get(n).id, "summary": _first_line(DATASETS.get(n))} for n in DATASETS
        ]
        write_json({"probes": rows, "suites": list(suite_names()), "datasets": sets})
        return
    from .render import Column, Screen, Words

    screen = Screen()
    screen.table(
        (Column("probe"), Column("what holds when it passes", wraps=True)),
        [(Words(name, "bold"), meaning[name]) for name, _ in found],
    )
    screen.line(Words("suites:", "dim"), ", ".join(suite_names()))
    screen.line(Words("data sets:", "dim"), ", ".join(DATASETS))


def _first_line(kind: type[object]) -> str:
    return (inspect.getdoc(kind) or "").partition("\n")[0]
