"""What every report of a run is written from: numbers, digests, times and identifiers.

Gathered once (`gather`), so that no two formats can differ in what they say. Nothing here is personal: it
comes from files that hold nothing personal, and is checked once more before anything is written.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from safeedit.probes.base import Family, Grade, Number, Verdict
from safeedit.probes.gates import Shown

FORMAT: Literal["safeedit.report/1"] = "safeedit.report/1"

SignOffStatus = Literal["none", "pending", "approved", "rejected", "expired", "void", "unknown"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class GatePart(_Part):
    """The condition that decided a probe."""

    on: Number
    op: Literal["<=", ">="]
    value: float


class ProbePart(_Part):
    """One probe: what it measured before and after the edit, and what its gate made of it."""

    id: str
    family: Family
    grade: Grade | None
    """The rung of the evidence ladder that it belongs to."""
    metric: str
    unit: str
    protocol: str
    required: bool
    verdict: Verdict
    n: int
    """Units that the figures rest on."""
    before: float | None = None
    after: float | None = None
    placebo: float | None = None
    """The same for invented subjects: what chance alone gives."""
    leaks: int | None = None
    losses: int | None = None
    lower95: float | None = None
    upper95: float | None = None
    excess95: float | None = None
    worst95: float | None = None
    gate: GatePart | None = None
    error: str | None = None
    """The class of the exception, where there was one."""
    detail: dict[str, float | None] = Field(default_factory=dict)

    @property
    def is_rate(self) -> bool:
        """Whether before and after are shares of units."""
        return self.metric.endswith("_rate")

    @property
    def figure(self) -> float | None:
        """The figure that the gate stood on."""
        return None if self.gate is None else getattr(self, self.gate.on)


class ArtefactPart(_Part):
    """Something that was made of the model before, and may still say what was erased."""

    role: str
    place: str
    state: str
    digest: str | None = None


class RequestPart(_Part):
    """What was asked for, counted."""

    regime: str | None = None
    received: str | None = None
    due: str | None = None
    operations: tuple[str, ...] = ()
    subjects: int = 0
    """People named in the request, of whom the model was asked."""
    subjects_known: int | None = None
    """Those of them of whom it said something before the edit; None where that was not told."""
    facts: int = 0
    """Facts that the run was judged on."""
    known: int = 0
    """Those of them that the model stated before the edit."""
    behaviours: int = 0
    """Examples of what a detoxification was to take away."""
    due_last: str | None = None
    """The last lawful day, where `due` falls on a week-end that the regime does not count."""
    extended: bool = False
    steps: dict[str, str] = Field(default_factory=dict)
    """What was noted of the request, and the day of it: received, acknowledged, answered …"""
    outcome: str | None = None
    ground: str | None = None
    """The code of the exception, where it was refused."""
    recipients: dict[str, str] = Field(default_factory=dict)
    """Who was given the model or the data, by code, and how far each has been told (GDPR Art. 19)."""
    artefacts: tuple[ArtefactPart, ...] = ()
    """What was made of the model before the edit."""
    lines: dict[str, int] = Field(default_factory=dict)
    """Where in the policy file its parts stand: `erase`, `probes`, … and the line of each."""


class EditPart(_Part):
    """What was changed, and how."""

    editor: str | None = None
    params: dict[str, object] = Field(default_factory=dict)
    tensors: int = 0
    figures: dict[str, float] = Field(default_factory=dict)
    """What the editor told of its work."""


class RepeatPart(_Part):
    """A later measurement of the same run."""

    time: str
    verdict: Verdict
    grade: Grade
    as_registered: bool
    """Whether the probes were those that the run registered."""


class DecisionPart(_Part):
    """One signed decision; a key's fingerprint stands for the person."""

    decision: Literal["approve", "reject", "withdraw"] | None = None
    key_id: str | None = None
    time: str | None = None
    reason: str | None = None
    """The code of a rejection's reason."""
    accepted_risk: str | None = None
    """The code of the risk that the approver takes."""
    expires: str | None = None
    state: str
    """What it is worth now: `valid`, or why it counts for nothing."""


class SignOffPart(_Part):
    """Whether people have agreed, as the signatures show."""

    status: SignOffStatus = "none"
    needed: int = 0
    decisions: tuple[DecisionPart, ...] = ()


class EventPart(_Part):
    """One entry of the run's log, without its data."""

    seq: int
    time: str
    event: str


class Report(_Part):
    """All that any report of a run says."""

    format: Literal["safeedit.report/1"] = FORMAT
    safeedit: str
    """The version that wrote the report."""
    id: str
    """The policy's id."""
    uuid: str
    status: Literal["finished", "rolled_back", "failed"]
    verdict: Verdict
    grade: Grade | None
    exit_code: int
    started: str
    finished: str | None
    model: str
    parent: str | None = None
    """The uuid of the run that this one stands on."""
    position: int = 1
    replaces: str | None = None
    replaced_by: str | None = None
    device: str | None = None
    dtype: str | None = None
    seed: int | None = None
    request: RequestPart
    edit: EditPart
    suite: str | None = None
    evidence: bool = False
    """Whether the suite's results are evidence for a grade at all."""
    next_grade: Grade | None = None
    wanting: dict[str, Shown] = Field(default_factory=dict)
    """What keeps the run from the next grade: its probes that did not pass."""
    not_tested: tuple[str, ...] = ()
    prompts: int = 0
    """Prompts that were put to the model before and after."""
    probes: tuple[ProbePart, ...] = ()
    sign_off: SignOffPart = SignOffPart()
    repeats: tuple[RepeatPart, ...] = ()
    vault_shredded: bool = False
    digests: dict[str, str] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    seconds: dict[str, float] = Field(default_factory=dict)
    peak_memory_bytes: int | None = None
    files: int = 0
    """Files that the record lists with their digests."""
    log_length: int
    """Entries of the run's log that this report is about."""
    log_head: str
    """The hash of the last of them."""
    history: tuple[EventPart, ...] = ()

    def of(self, *families: Family) -> tuple[ProbePart, ...]:
        """The probes of these families, in the suite's order."""
        return tuple(probe for probe in self.probes if probe.family in families)

    @property
    def judged(self) -> tuple[ProbePart, ...]:
        """The probes that found something to test."""
        return tuple(probe for probe in self.probes if probe.verdict != "SKIPPED")
