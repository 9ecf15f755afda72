"""What a run came to, as a value."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safeedit.policy.resolve import Resolved
from safeedit.probes.report import EXIT_CODES, ProbeReport, ProbeResult
from safeedit.runs.record import RunRecord
from safeedit.triples.facts import Fact

if TYPE_CHECKING:
    from safeedit.patch import Patch


@dataclass(frozen=True, repr=False)
class Run:
    """A finished run."""

    path: Path
    record: RunRecord
    """The content of `run.json`."""
    report: ProbeReport
    facts: tuple[Fact, ...]
    """What the run was judged on, in plain text."""
    known: tuple[bool, ...]
    """For each of `facts`, whether the base model had the baseline that its operation needs."""
    resolved: tuple[Resolved, ...]
    """What came of asking the model about people, in plain text."""
    patch: Patch | None
    """What the edit changed; None where nothing was edited."""
    warnings: tuple[str, ...] = ()
    """What could not be checked beforehand, in one line each."""

    def __repr__(self) -> str:
        return f"<Run {self.record.id} {self.verdict}>"

    @property
    def verdict(self) -> str:
        """PASS, FAIL, INCONCLUSIVE, NO_BASELINE or ERROR."""
        return self.record.verdict or "ERROR"

    @property
    def grade(self) -> str | None:
        """The evidence grade that was reached; None where none was."""
        return self.record.grade

    @property
    def probes(self) -> tuple[ProbeResult, ...]:
        """Every probe's figures and verdict."""
        return self.report.results

    @property
    def exit_code(self) -> int:
        """As the command line gives it."""
        return EXIT_CODES[self.report.verdict]

    def model(self, *, device: str = "auto") -> tuple[Any, Any]:
        """The edited model and its tokenizer, loaded anew."""
        from safeedit.runs.loading import load

        return load(self.path, device=device)
