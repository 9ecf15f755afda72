"""Public data sets on the screen: each figure before and after, and how sure its change is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .render import Cell, Column, Screen, Words

if TYPE_CHECKING:
    from safeedit.probes.report import ProbeReport, ProbeResult

AFTER = "_after"
COUNTED = ("empty",)
"""What is counted, and is no figure of a paper."""


def stands_apart(result: ProbeResult) -> bool:
    """Whether a result is a data set's that no gate judges, so that it has figures and no verdict to show."""
    from safeedit.exams import PREFIX

    return result.id.startswith(PREFIX) and result.gate is None and result.verdict not in ("ERROR", "SKIPPED")


def show_exams(screen: Screen, report: ProbeReport) -> None:
    """A table for each data set; nothing where there is none."""
    columns = (
        Column("figure"),
        Column("before", right=True),
        Column("after", right=True),
        Column("95 % of the change", right=True),
    )
    for result in filter(stands_apart, report.results):
        screen.line()
        units = f"{result.n} {result.unit}{'s' * (result.n != 1)}"
        screen.table(columns, list(_rows(result)), f"{result.id}, {units}, decides nothing")


def _rows(result: ProbeResult) -> Iterator[tuple[Cell, ...]]:
    detail = result.figures.detail
    for key in sorted(detail):
        name = key.removesuffix(AFTER)
        if name == key or name in COUNTED:
            continue
        low, high = (detail.get(f"{name}_change_{end}95") for end in ("low", "high"))
        change = "" if low is None or high is None else f"{low:+.3f} … {high:+.3f}"
        before = detail.get(f"{name}_before")
        yield (Words(name), "" if before is None else f"{before:.3f}", f"{detail[key]:.3f}", change)
