"""What can be wrong with a run folder, in a fixed vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FindingCode = Literal[
    "record-missing",
    "record-invalid",
    "record-changed",
    "log-missing",
    "log-bad-json",
    "log-half-line",
    "log-edited",
    "log-broken",
    "log-dropped",
    "log-reordered",
    "log-duplicated",
    "log-truncated",
    "log-extended",
    "log-rewritten",
    "log-foreign",
    "file-changed",
    "file-missing",
    "file-extra",
    "file-renamed",
    "file-link",
    "file-leftover",
    "parent-changed",
    "parent-rolled-back",
    "parent-unsound",
    "running",
    "interrupted",
    "sealing-interrupted",
]


@dataclass(frozen=True)
class Finding:
    """One thing that does not match what was recorded."""

    code: FindingCode
    file: str
    """Where, as a path inside the run folder."""
    message: str
    """One line for a person; never a value of the run."""

    def __str__(self) -> str:
        return f"{self.file}: {self.message}"
