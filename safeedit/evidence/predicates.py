"""The predicate of our own statements: the record of one erasure (or other edit) and of one decision on it.

Numbers, digests, times and fixed words alone; what is missing here is missing on purpose: names, prompts,
answers and free text, for a signed statement outlives the request. The published JSON Schema is made from
these classes (`schema_text`), and a statement that is read is held to them.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from safeedit.runs.plain import check_plain
from safeedit.runs.record import Verdict

ERASURE_TYPE = "urn:safeedit:predicate:erasure:v1"
EDIT_TYPE = "urn:safeedit:predicate:edit:v1"
"""The same record of a run that erased nothing: it must not be taken for the proof of an erasure."""
SCHEMA_FILE = "erasure-v1.schema.json"

Grade = Literal["G0", "G1", "G2", "G3", "G4", "G5"]
DecisionWord = Literal["approve", "reject", "withdraw"]
RejectReason = Literal[
    "gate-not-met",
    "grade-too-low",
    "too-few-facts",
    "side-effects",
    "wrong-scope",
    "identity-not-verified",
    "legal-hold",
    "method-not-accepted",
    "evidence-incomplete",
]
RiskCode = Literal[
    "too-few-facts-for-a-bound",
    "model-knew-nothing",
    "advisory-limits-only",
    "side-effects-accepted",
    "residual-leak-mitigated-elsewhere",
    "interim-until-retraining",
    "suite-is-no-evidence",
]
Limitation = Literal[
    "registered-facts-only",
    "registered-probes-only",
    "not-proof-against-every-attack",
    "copies-elsewhere-not-covered",
    "fewer-facts-than-a-bound-needs",
    "facts-unknown-to-the-model",
    "people-unknown-to-the-model",
    "probes-of-the-ladder-not-run",
    "suite-is-no-evidence",
    "required-gate-failed",
    "required-gate-undecided",
    "required-grade-not-reached",
    "stands-on-an-earlier-edit",
]
LIMITATIONS: dict[Limitation, str] = {
    "registered-facts-only": "It speaks of the facts that were registered, and of no others.",
    "registered-probes-only": "It speaks of the probes that were registered and run, and of no others.",
    "not-proof-against-every-attack": "A model can hold what these attacks do not find.",
    "copies-elsewhere-not-covered": "Quantised, merged, fine-tuned and cached copies were not examined.",
    "fewer-facts-than-a-bound-needs": "Fewer than 149 facts were known: each was tested, no rate is bounded.",
    "facts-unknown-to-the-model": "Some facts were not known to the model beforehand; they count nowhere.",
    "people-unknown-to-the-model": "Of some people the model said nothing beforehand; nothing was tested of "
    "them.",
    "probes-of-the-ladder-not-run": "Some probes of the grades were not run, or found nothing to test.",
    "suite-is-no-evidence": "The suite is a quick check and grants no evidence.",
    "required-gate-failed": "A required gate failed.",
    "required-gate-undecided": "A required gate could not be decided.",
    "required-grade-not-reached": "The grade that the policy asks for was not reached.",
    "stands-on-an-earlier-edit": "The run stands on an earlier edit, whose own record applies too.",
}

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
KeyId = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:+/-]{1,128}$")]
Time = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")]
Date = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d$")]
Count = Annotated[int, Field(ge=0)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class Part(BaseModel):
    """A piece of the predicate: closed, and spelt as in-toto's predicates are."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        hide_input_in_errors=True,
        alias_generator=to_camel,
        populate_by_name=True,
        validate_by_alias=True,
    )


class Case(Part):
    """Whose record it is: the policy's id and the run's own."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    run: Annotated[str, Field(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
    regime: Word | None = None
    received: Date | None = None
    due: Date | None = None
    started_at: Time
    finished_at: Time
    operations: tuple[Word, ...] = ()


class Method(Part):
    """How it was done, so that it can be done again."""

    tool: Literal["safeedit"] = "safeedit"
    versions: dict[str, Word] = {}
    editor: Word | None = None
    settings_digest: Digest | None = None
    """SHA-256 of the canonical JSON (RFC 8785) of every hyperparameter."""
    seed: int | None = None
    device: Word | None = None
    dtype: Word | None = None


class Models(Part):
    """safeedit's digests: over names, types, shapes and bytes of all tensors."""

    base: Digest | None = None
    edited: Digest | None = None
    patch: Digest | None = None
    stands_on: Annotated[str, Field(pattern=r"^[0-9a-f-]{36}$")] | None = None
    """The run whose model was edited, where that was one."""


class Commitments(Part):
    """HMAC-SHA-256 under the run's key: without it nobody can guess the texts back, or compare them."""

    policy: Digest | None = None
    probe_pack: Digest | None = None
    facts: Digest | None = None


class Limit(Part):
    """The condition that decided a gate."""

    on: Word
    op: Literal["<=", ">="]
    value: Number


class GateRecord(Part):
    """One probe and what became of it."""

    id: Word
    family: Word
    grade: Grade | None = None
    metric: Word
    unit: Word
    protocol: Word
    required: bool
    n: Count
    """Units that it rests on."""
    x: Count | None = None
    """Units that failed: leaks, or losses."""
    before: Number | None = None
    after: Number | None = None
    placebo: Number | None = None
    bound: Number | None = None
    """One-sided bound of the rate, where one was computed."""
    alpha: Number | None = None
    """The bound's error probability."""
    limit: Limit | None = None
    verdict: Literal["PASS", "FAIL", "INCONCLUSIVE", "NO_BASELINE", "ERROR", "SKIPPED"]


class Baseline(Part):
    """What there was to change."""

    facts: Count
    known: Count
    people: Count | None = None
    """People whom the model was asked about; None where the request names none."""
    people_known: Count | None = None
    """Those of them of whom it said something."""


class Measurement(Part):
    """The last measurement with the registered probes before the decision: the run's own, or a later one."""

    at: Time
    verdict: Verdict
    suite_is_evidence: bool
    """Whether a grade may rest on the suite at all."""


class Approval(Part):
    """What one person decided, and which key stands for that person."""

    decision: DecisionWord
    key: KeyId
    at: Time
    expires: Date | None = None
    """The first day (UTC) on which it no longer counts."""
    reason: RejectReason | None = None
    accepted_risk: RiskCode | None = None

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if (self.reason is not None) != (self.decision == "reject"):
            raise ValueError("a reason goes with a rejection, and a rejection with a reason")
        if self.decision != "approve" and (self.expires or self.accepted_risk):
            raise ValueError("only an approval expires, and only an approval accepts a risk")
        return self


class LogState(Part):
    """The run's log as it was when the statement was made."""

    length: Annotated[int, Field(ge=1)]
    head: Digest


class Evidence(Part):
    """What the statement stands or falls with."""

    log: LogState
    files: dict[str, Digest]
    """SHA-256 of the files of the run that hold its result."""


class Record(Part):
    """The predicate."""

    case: Case
    method: Method
    models: Models
    commitments: Commitments
    suite: Word | None = None
    baseline: Baseline
    gates: tuple[GateRecord, ...]
    verdict: Verdict
    grade: Grade
    required_grade: Grade | None = None
    measured: Measurement | None = None
    """None in a statement that does not tell of it."""
    not_tested: tuple[Word, ...] = ()
    limitations: tuple[Limitation, ...]
    approvers_needed: Count
    approval: Approval
    evidence: Evidence

    @model_validator(mode="after")
    def _no_free_text(self) -> Self:
        # Neither a comparison sign nor a file of the run can be a text of the request.
        left_out: Any = {"evidence": True, "gates": {"__all__": {"limit": {"op"}}}}
        check_plain(self.model_dump(mode="json", exclude=left_out), "predicate")
        return self

    def to_json(self) -> dict[str, Any]:
        """As JSON values; what is not known is left out."""
        found: dict[str, Any] = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return found


def record_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of the predicate."""
    schema = Record.model_json_schema(by_alias=True)
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": ERASURE_TYPE}
    return {**head, **schema, "title": "safeedit erasure record"}


def schema_text() -> str:
    """The schema as the text of the file that ships."""
    return json.dumps(record_schema(), indent=2, ensure_ascii=False) + "\n"


def published_schema() -> str:
    """The file that ships with the package."""
    return (files("safeedit.evidence") / "schemas" / SCHEMA_FILE).read_text(encoding="utf-8")
