"""What a check of a run or a workspace found, one line for each thing checked; as JSON too."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .render import Cell, Look, Screen, Words

if TYPE_CHECKING:
    from safeedit.runs.checks import Check
    from safeedit.runs.findings import Finding

_MARKS: dict[str, tuple[str, str, Look]] = {
    "ok": ("✓", "+", "good"),
    "wrong": ("✗", "x", "bad"),
    "not checked": ("·", ".", "doubtful"),
}
_UNFINISHED = {"running", "interrupted", "sealing-interrupted"}


def show_checks(screen: Screen, checks: Iterable[Check], *, quiet: bool = False, prefix: str = "") -> None:
    """A line for each thing that was checked, and one for each thing that is wrong with it.

    Args:
        screen: where to.
        checks: what was checked.
        quiet: leave out what is in order.
        prefix: what comes before each name: the run, where there are several.
    """
    for check in checks:
        if check.findings:
            for finding in check.findings:
                words = _words(screen, "wrong", posixpath.normpath(prefix + finding.file), finding.message)
                screen.line(*words, Words(finding.code, "dim"))
        elif not quiet and check.checked:
            screen.line(*_words(screen, "ok", prefix + check.what, check.said))
        for note in check.notes:
            screen.line(*_words(screen, "not checked", prefix + check.what, note))


def show_outcome(screen: Screen, path: Path, findings: Sequence[Finding], told: str) -> None:
    """The last line: whether everything is as it was left."""
    if not findings:
        screen.line(_mark(screen, "✓", "+", "intact", "good"), f"{path}: {told}")
        return
    count = f"{len(findings)} finding{'s' * (len(findings) > 1)}"
    if all(found.code in _UNFINISHED for found in findings):
        screen.line(_mark(screen, "?", "?", "not finished", "doubtful"), f"{path}: {count}")
    else:
        screen.line(_mark(screen, "✗", "x", "not as it was left", "bad"), f"{path}: {count}")


def checks_json(checks: Iterable[Check]) -> list[dict[str, Any]]:
    """What `--json` prints of what was checked."""
    return [
        {
            "what": check.what,
            "outcome": check.outcome,
            "said": check.said,
            "findings": findings_json(check.findings),
            "not_checked": list(check.notes),
        }
        for check in checks
    ]


def findings_json(findings: Iterable[Finding]) -> list[dict[str, str]]:
    """What `--json` prints of what is wrong."""
    return [{"code": found.code, "file": found.file, "message": found.message} for found in findings]


def _words(screen: Screen, outcome: str, what: str, said: str) -> list[Cell]:
    mark, plain, look = _MARKS[outcome]
    return [Words(mark if screen.unicode else plain, look), Words(what, "bold"), said]


def _mark(screen: Screen, mark: str, plain: str, word: str, look: Look) -> Words:
    return Words(f"{mark if screen.unicode else plain} {word}", look)
