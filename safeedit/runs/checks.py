"""One thing that was checked, and what came of it: what `safeedit verify` shows a line of."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from safeedit.runs.findings import Finding

Outcome = Literal["ok", "wrong", "not checked"]


@dataclass(frozen=True)
class Check:
    """One thing that was checked."""

    what: str
    """The file, or the thing; the beginning of the line."""
    said: str
    """What holds of it, where nothing is wrong."""
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    """What could not be checked, because it is not here; one line each."""
    checked: bool = True
    """Whether anything of it could be."""

    @property
    def outcome(self) -> Outcome:
        """What came of it."""
        if self.findings:
            return "wrong"
        return "ok" if self.checked else "not checked"


def divided(
    findings: Iterable[Finding], parts: Iterable[tuple[str, str, Callable[[str], bool]]]
) -> list[Check]:
    """Checks of the parts of a run, each with the findings about its files.

    Args:
        findings: all that is wrong.
        parts: what each is called, what holds of it, and whether a file belongs to it; the first that
            takes a finding has it, the last takes the rest.
    """
    left, checks = list(findings), []
    named = list(parts)
    for number, (what, said, takes) in enumerate(named, start=1):
        own = [found for found in left if number == len(named) or takes(found.file)]
        left = [found for found in left if found not in own]
        checks.append(Check(what, said, tuple(own)))
    return checks
