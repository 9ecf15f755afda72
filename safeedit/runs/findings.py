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
    "clock-back",
    "clock-unreadable",
    "file-changed",
    "file-missing",
    "file-extra",
    "file-renamed",
    "file-link",
    "file-leftover",
    "attestation-invalid",
    "signature-wrong",
    "signature-replayed",
    "signature-void",
    "signature-duplicated",
    "signature-missing",
    "signature-unknown-key",
    "vault-unreadable",
    "vault-wrong-key",
    "vault-not-shredded",
    "ledger-foreign",
    "ledger-emptied",
    "ledger-replaced",
    "ledger-missing",
    "ledger-unaware",
    "ledger-behind",
    "checkpoint-unreadable",
    "checkpoint-signature",
    "checkpoint-rewritten",
    "checkpoint-order",
    "checkpoint-missing",
    "timestamp-invalid",
    "run-put-back",
    "run-missing",
    "run-doubled",
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
