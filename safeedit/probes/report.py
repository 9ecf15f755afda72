"""What came out of a run of probes: results, verdict and grade, as numbers that anybody may see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from safeedit.probes.base import Family, Figures, Grade, Verdict
from safeedit.probes.gates import Gate

EXIT_CODES: Mapping[Verdict, int] = {
    "PASS": 0,
    "FAIL": 1,
    "INCONCLUSIVE": 3,
    "NO_BASELINE": 3,
    "SKIPPED": 3,
    "ERROR": 4,
}


@dataclass(frozen=True)
class ProbeResult:
    """One probe's figures and verdict; numbers and fixed words alone."""

    id: str
    family: Family
    grade: Grade | None
    metric: str
    unit: str
    protocol: str
    required: bool
    verdict: Verdict
    figures: Figures
    gate: Gate | None = None
    error: str | None = None
    """The class of the exception, where the verdict is ERROR because of one."""

    @property
    def before(self) -> float | None:
        """The metric on the base model."""
        return self.figures.before

    @property
    def after(self) -> float | None:
        """The metric on the edited model."""
        return self.figures.after

    @property
    def n(self) -> int:
        """How many units the figures rest on."""
        return self.figures.n

    @property
    def leaks(self) -> int | None:
        """Units in which something was said that should not be."""
        return self.figures.leaks

    @property
    def upper95(self) -> float | None:
        """One-sided 95 % upper bound."""
        return self.figures.upper95

    @property
    def placebo(self) -> float | None:
        """The metric for invented subjects."""
        return self.figures.placebo

    def to_json(self) -> dict[str, Any]:
        """The entry in ``probes.json``."""
        figures = self.figures
        optional = {
            "losses": figures.losses,
            "lower95": _short(figures.lower95),
            "excess95": _short(figures.excess95),
            "worst95": _short(figures.worst95),
            "error": self.error,
        }
        return {
            "id": self.id,
            "family": self.family,
            "grade": self.grade,
            "metric": self.metric,
            "unit": self.unit,
            "before": _short(figures.before),
            "after": _short(figures.after),
            "n": figures.n,
            "leaks": figures.leaks,
            "upper95": _short(figures.upper95),
            "placebo": _short(figures.placebo),
            "gate": self.gate and {"op": self.gate.op, "value": self.gate.value, "on": self.gate.on},
            "verdict": self.verdict,
            "protocol": self.protocol,
            "required": self.required,
            "detail": {name: _short(value) for name, value in sorted(figures.detail.items())},
            **{name: value for name, value in optional.items() if value is not None},
        }


@dataclass(frozen=True)
class ProbeReport:
    """The outcome of a suite on a base model and an edited one."""

    suite: str
    note: str
    evidence: bool
    results: tuple[ProbeResult, ...]
    verdict: Verdict
    grade: Grade
    facts: int
    known: int
    """How many of the facts the base model had the needed baseline for."""
    above: Grade | None = None
    """The next rung of the ladder, if probes could grant it ..."""
    wanting: Mapping[str, str] = field(default_factory=dict)
    """... and what keeps the run from it: the verdicts of its probes that did not pass, or NOT_RUN."""
    untested: tuple[str, ...] = ()
    """Probes of the ladder that were not run or found nothing to test."""
    _texts: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def exit_code(self) -> int:
        """As the command line gives it."""
        return EXIT_CODES[self.verdict]

    def to_json(self) -> dict[str, Any]:
        """The content of ``probes.json``: no text of the request, of a prompt or of an answer."""
        return {
            "suite": self.suite,
            "evidence": self.evidence,
            "verdict": self.verdict,
            "grade": self.grade,
            "facts": {"n": self.facts, "known": self.known},
            "next": {"grade": self.above, "wanting": dict(self.wanting)} if self.above else None,
            "not_tested": list(self.untested),
            "results": [result.to_json() for result in self.results],
        }

    def transcripts(self) -> dict[str, Any]:
        """Prompts and answers as JSON values; personal data, for the encrypted vault alone."""
        return dict(self._texts)


def _short(value: float | None) -> float | None:
    """Six significant digits: what differs beyond them is the machine."""
    if value is None or isinstance(value, int):
        return value
    return float(f"{value:.6g}")
