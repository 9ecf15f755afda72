"""The report as one HTML file: no script, no network; for the screen, for paper and for screen readers."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from safeedit.evidence.clock import RULES
from safeedit.reports import words
from safeedit.reports.model import ProbePart, Report
from safeedit.reports.plots import plot, plottable

if TYPE_CHECKING:
    from jinja2 import Template

_GROUPS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "forgetting",
        "Forgetting and attacks: how many of the facts were said or found",
        ("forgetting", "attack"),
    ),
    ("teaching", "New facts: how many were stated", ("success",)),
    ("locality", "Everything else: how much was lost or became conspicuous", ("locality", "behaviour")),
)
_TABLES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("forgetting", "Forgetting", ("forgetting",)),
    ("success", "New facts", ("success",)),
    ("attacks", "Attacks", ("attack", "membership")),
    ("locality", "Locality", ("locality", "behaviour")),
    ("utility", "Utility and toxicity", ("utility", "toxicity")),
)
"""Families as the report puts them together; what is in none of them comes last, under `more`."""


def write_html(report: Report) -> str:
    """The whole document; everything that is put into it is escaped."""
    plots = [
        (name, title, plot(f"plot-{name}", title, found))
        for name, title, families in _GROUPS
        if (found := plottable([p for p in report.judged if p.family in families]))
    ]
    placed = {family for _, _, families in _TABLES for family in families}
    tables: list[tuple[str, str, list[ProbePart]]] = [
        (name, title, [p for p in report.judged if p.family in families]) for name, title, families in _TABLES
    ]
    tables.append(("more", "Further measurements", [p for p in report.judged if p.family not in placed]))
    regime = report.request.regime
    text = _template().render(
        r=report,
        w=words,
        claims=words.claims(report),
        failing=words.failing(report),
        plots=plots,
        tables=[table for table in tables if table[2]],
        skipped=[p.id for p in report.probes if p.verdict == "SKIPPED"],
        rule=RULES.get(regime) if regime else None,  # type: ignore[call-overload]
    )
    return text + "\n"


@cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("safeedit.reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return made.get_template("report.html")
