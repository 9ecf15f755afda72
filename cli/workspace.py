"""The human view of a workspace: its open requests, and whether it is in order."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from .render import Cell, Look, Screen, Words

if TYPE_CHECKING:
    from safeedit.evidence.blockers import Block
    from safeedit.evidence.check import CheckReport
    from safeedit.evidence.requests import Request

SOON = 10
"""Days left from which on a request stands out: a third of GDPR's month."""


def show_requests(
    screen: Screen, folder: Path, found: Sequence[tuple[Request, Sequence[Block]]], today: date
) -> None:
    """Open requests with the days left and what is in the way of each."""
    if not found:
        screen.line(f"no open requests in {folder}")
        return
    for request, blocks in found:
        screen.line(Words(request.id, "bold"), *_days(request, today))
        for block in blocks:
            screen.line(Words(f"    {block.code}", "dim"), block.message)
        if not blocks:
            screen.line(Words("    done", "good"))


def _days(request: Request, today: date) -> tuple[Cell, ...]:
    days = request.deadline
    about = Words(f"{request.regime}, received {request.received}", "dim")
    if request.closed is not None:
        return about, f"closed {request.closed}: {request.outcome or request.ground}"
    left = days.days_left(today)
    if left is None:
        return about, "no statutory limit"
    look: Look = "bad" if days.overdue(today) else "doubtful" if left <= SOON else "plain"
    extended = ", extended" if days.extended else ""
    word = f"{left} day{'s' * (left != 1)} left" if left >= 0 else f"{-left} days past"
    return about, Words(f"{word} (due {days.due}{extended})", look)


def show_check(screen: Screen, folder: Path, report: CheckReport) -> None:
    """Everything that is not in order, one line each."""
    for problem in report.problems:
        screen.line(Words(problem.where, "bold"), problem.message, Words(problem.code, "dim"))
    counted = f"{folder}: {report.runs} runs stand, {report.requests} requests"
    if report.ok:
        screen.line(Words("✓ in order" if screen.unicode else "+ in order", "good"), counted)
        return
    count = len(report.problems)
    word = "✗ not in order" if screen.unicode else "x not in order"
    screen.line(Words(word, "bad"), f"{counted}; {count} problem{'s' * (count > 1)}")
