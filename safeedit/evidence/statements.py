"""in-toto Statements v1 about a finished run: test-result v0.1, and our own record (`predicates`).

Both are made of what the run holds in the open, so that they can be made, and compared, after its vault was
shredded. The subject is the edited model and its patch, never the base model: whoever asks for statements
about the base model must not be told that it passed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from safeedit.canonical import canonical_json
from safeedit.errors import IntegrityError, UsageError
from safeedit.evidence.dsse import strict_json
from safeedit.evidence.measured import last_measured
from safeedit.evidence.predicates import (
    EDIT_TYPE,
    ERASURE_TYPE,
    Approval,
    Baseline,
    Case,
    Commitments,
    Evidence,
    GateRecord,
    Limit,
    Limitation,
    LogState,
    Measurement,
    Method,
    Models,
    Record,
)
from safeedit.runs.chain import Entry
from safeedit.runs.manifest import LOG
from safeedit.runs.record import RunRecord
from safeedit.runs.seal import sound_entries

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
TEST_RESULT_TYPE = "https://in-toto.io/attestation/test-result/v0.1"
MODEL_DIGEST = "safeedit_model_v1"
"""The name of our digest of a model's tensors; it is no digest of a file, so it is not called sha256."""
_COMMITMENT = "safeedit_hmac_sha256"
_PROBES = "probes.json"
_RESULT = ("probes.json", "patch/", "model/")
"""The files that hold what is decided on. Others (reports, the vault) may come and change afterwards."""
_BOUNDS = {"upper95": 0.05, "lower95": 0.05, "excess95": 0.05, "worst95": 0.05}
_FACTS_FOR_A_BOUND = 149


def bound_files(record: RunRecord) -> dict[str, str]:
    """The files that hold a run's result, with their SHA-256: what a decision is about."""
    return {name: file.sha256 for name, file in record.files.items() if name.startswith(_RESULT)}


def record_of_run(folder: Path, record: RunRecord, approval: Approval) -> Record:
    """The predicate for a finished run and a decision on it; nothing is verified here.

    Raises:
        UsageError: the run has no results.
        IntegrityError: its results cannot be read.
    """
    entries = sound_entries((folder / LOG).read_bytes())
    report = results_of(folder, record)
    registered = _last(entries, "policy.registered")
    kinds = tuple(registered.get("kinds", ()))
    grade = record.grade or "G0"
    needed = registered.get("assurance")
    last = last_measured(record, own_entries(entries, record))
    try:
        return Record(
            case=Case(
                id=record.id,
                run=record.uuid,
                regime=registered.get("regime"),
                received=registered.get("received"),
                due=registered.get("due"),
                started_at=record.started,
                finished_at=record.finished or "",
                operations=kinds,
            ),
            method=Method(
                versions=record.versions,
                editor=record.editor.name if record.editor else None,
                settings_digest=_settings_digest(record),
                seed=record.seed,
                device=record.device,
                dtype=record.dtype,
            ),
            models=Models(
                base=record.digests.get("base_model"),
                edited=record.digests.get("edited_model"),
                patch=record.digests.get("patch"),
                stands_on=record.parent.uuid if record.parent else None,
            ),
            commitments=Commitments(
                policy=record.digests.get("policy"),
                probe_pack=record.digests.get("probes"),
                facts=record.digests.get("facts"),
            ),
            suite=_last(entries, "probes.registered").get("suite"),
            baseline=_baseline(report),
            gates=tuple(_gate(result) for result in report.get("results", ())),
            verdict=record.verdict or "ERROR",
            grade=grade,
            required_grade=needed,
            measured=Measurement(
                at=last.time or "",
                verdict=last.verdict or "ERROR",
                suite_is_evidence=is_evidence(report),
            ),
            not_tested=tuple(report.get("not_tested", ())),
            limitations=_limitations(report, record, needed),
            approvers_needed=approvers_needed(entries),
            approval=approval,
            evidence=Evidence(
                log=LogState(length=entries[-1].seq + 1, head=entries[-1].hash), files=bound_files(record)
            ),
        )
    except (ValidationError, TypeError, KeyError, AttributeError, IndexError):
        raise IntegrityError(
            f"{folder}: its {_PROBES}, run.json or log lack what a statement needs, or hold it otherwise"
        ) from None


def record_statement(record: Record) -> bytes:
    """The canonical bytes of the statement with our own predicate."""
    erased = "erase" in record.case.operations
    return _statement(record, ERASURE_TYPE if erased else EDIT_TYPE, record.to_json())


def test_result_statement(record: Record) -> bytes:
    """The canonical bytes of the test-result statement: the same for everyone who signs it.

    Only PASS is PASSED, of the run and of what was measured last, by a suite that is evidence. What could
    not be decided is FAILED: a tool that reads nothing but this word must not let it through.
    """
    last = record.measured
    sound = last is None or (last.verdict == "PASS" and last.suite_is_evidence)
    required = [gate for gate in record.gates if gate.required and gate.verdict != "SKIPPED"]
    advice = [gate for gate in record.gates if not gate.required and gate.verdict != "SKIPPED"]
    files = record.evidence.files
    configuration: list[dict[str, object]] = [
        {"name": "run", "uri": f"urn:uuid:{record.case.run}"},
        {"name": _PROBES, "digest": {"sha256": files[_PROBES]}},
    ]
    for name, digest in (
        ("policy", record.commitments.policy),
        ("probe-pack", record.commitments.probe_pack),
    ):
        if digest is not None:
            configuration.append({"name": name, "digest": {_COMMITMENT: digest}})
    if record.models.base is not None:
        configuration.append({"name": "base-model", "digest": {MODEL_DIGEST: record.models.base}})
    predicate = {
        "result": "PASSED" if record.verdict == "PASS" and sound else "FAILED",
        "configuration": configuration,
        "passedTests": [gate.id for gate in (*required, *advice) if gate.verdict == "PASS"],
        "warnedTests": [gate.id for gate in advice if gate.verdict != "PASS"],
        "failedTests": [gate.id for gate in required if gate.verdict != "PASS"],
    }
    return _statement(record, TEST_RESULT_TYPE, predicate)


def read_record(payload: bytes, where: str) -> Record:
    """The predicate in a verified payload.

    Raises:
        IntegrityError: the payload is no such statement.
    """
    statement = strict_json(payload, where)
    fields = {"_type", "subject", "predicateType", "predicate"}
    if not isinstance(statement, dict) or statement.keys() != fields or statement["_type"] != STATEMENT_TYPE:
        raise IntegrityError(f"{where} is no in-toto Statement v1")
    if statement["predicateType"] not in (ERASURE_TYPE, EDIT_TYPE):
        raise IntegrityError(f"{where} has a predicate of another type")
    try:
        record = Record.model_validate_json(json.dumps(statement["predicate"]))
    except ValidationError:
        raise IntegrityError(f"{where} has a predicate that does not fit its schema") from None
    if record_statement(record) != payload:
        raise IntegrityError(f"{where} names a subject or a type that does not fit its predicate")
    return record


def predicate_type(payload: bytes, where: str) -> str:
    """What a payload says that it is a statement of."""
    statement = strict_json(payload, where)
    found = statement.get("predicateType") if isinstance(statement, dict) else None
    if not isinstance(found, str):
        raise IntegrityError(f"{where} is no in-toto Statement v1")
    return found


def approvers_needed(entries: list[Entry]) -> int:
    """How many distinct keys the policy asks for, as the run's log has it; 0 where it asks for none.

    Raises:
        IntegrityError: the log holds something else in its place.
    """
    needed = _last(entries, "policy.registered").get("approvers", 0)
    if type(needed) is not int or needed < 0:
        raise IntegrityError(f"{LOG}: the number of approvers is no number")
    return needed


def own_entries(entries: Sequence[Entry], record: RunRecord) -> list[Entry]:
    """The entries of this run: those of an attempt that it replaced stand before them in the log."""
    starts = [entry.seq for entry in entries if entry.data.get("uuid") == record.uuid]
    first = min(starts, default=0)
    return [entry for entry in entries if entry.seq >= first]


def is_evidence(report: Mapping[str, Any]) -> bool:
    """Whether a run's results, the content of its `probes.json`, are evidence for a grade at all."""
    return report.get("evidence", False) is True


def _statement(record: Record, kind: str, predicate: Mapping[str, object]) -> bytes:
    models = record.models
    subject: list[dict[str, object]] = []
    if models.edited is not None:
        subject.append({"name": "edited-model", "digest": {MODEL_DIGEST: models.edited}})
    elif models.base is not None:
        subject.append({"name": "unedited-model", "digest": {MODEL_DIGEST: models.base}})
    for name, digest in record.evidence.files.items():
        if name.startswith("patch/"):
            subject.append({"name": name, "digest": {"sha256": digest}})
    if not subject:
        subject.append({"name": _PROBES, "digest": {"sha256": record.evidence.files[_PROBES]}})
    content = {"_type": STATEMENT_TYPE, "subject": subject, "predicateType": kind, "predicate": predicate}
    return canonical_json(content)


def results_of(folder: Path, record: RunRecord) -> dict[str, Any]:
    """The content of a run's `probes.json`.

    Raises:
        UsageError: the run has none.
        IntegrityError: it is not the one that the run was sealed with.
    """
    try:
        content = (folder / _PROBES).read_bytes()
    except OSError:
        raise UsageError(
            f"{folder} has no {_PROBES}, so there is no result to sign; finish the run"
        ) from None
    listed = record.files.get(_PROBES)
    if listed is None or hashlib.sha256(content).hexdigest() != listed.sha256:
        raise IntegrityError(f"{folder}: {_PROBES} is not the one that the run was sealed with")
    found = strict_json(content, _PROBES)
    if not isinstance(found, dict):
        raise IntegrityError(f"{folder}: {_PROBES} holds no results")
    return found


def _last(entries: list[Entry], event: str) -> dict[str, Any]:
    """What the run's last entry of that kind tells; a restart begins anew, so later entries count."""
    return next((entry.data for entry in reversed(entries) if entry.event == event), {})


def _baseline(report: Mapping[str, Any]) -> Baseline:
    facts, people = report.get("facts", {}), report.get("subjects", {})
    return Baseline(
        facts=facts.get("n", 0),
        known=facts.get("known", 0),
        people=people.get("n"),
        people_known=people.get("known"),
    )


def _settings_digest(record: RunRecord) -> str | None:
    if record.editor is None:
        return None
    return hashlib.sha256(canonical_json(record.editor.params)).hexdigest()


def _gate(result: Mapping[str, Any]) -> GateRecord:
    gate = result.get("gate")
    on = "upper95" if gate is None else gate["on"]
    bound = result.get(on) if on in _BOUNDS else result.get("upper95")
    failed = result.get("leaks") if result.get("leaks") is not None else result.get("losses")
    return GateRecord(
        id=result["id"],
        family=result["family"],
        grade=result.get("grade"),
        metric=result["metric"],
        unit=_word(result["unit"]),
        protocol=_word(result["protocol"]),
        required=result.get("required", True),
        n=result["n"],
        x=failed,
        before=result.get("before"),
        after=result.get("after"),
        placebo=result.get("placebo"),
        bound=bound,
        alpha=None if bound is None else _BOUNDS.get(on, 0.05),
        limit=None if gate is None else Limit(on=gate["on"], op=gate["op"], value=gate["value"]),
        verdict=result["verdict"],
    )


def _word(text: str) -> str:
    """A probe's own word for something, which may be several, as the statement spells it."""
    return re.sub(r"[^A-Za-z0-9._:+/-]+", "-", text)[:128]


def _limitations(report: Mapping[str, Any], record: RunRecord, needed: str | None) -> tuple[Limitation, ...]:
    results = [result for result in report.get("results", ()) if result.get("required", True)]
    verdicts = {result["verdict"] for result in results}
    there = _baseline(report)
    holds: dict[Limitation, bool] = {
        "registered-facts-only": True,
        "registered-probes-only": True,
        "not-proof-against-every-attack": True,
        "copies-elsewhere-not-covered": True,
        "fewer-facts-than-a-bound-needs": there.known < _FACTS_FOR_A_BOUND,
        "facts-unknown-to-the-model": there.known < there.facts,
        "people-unknown-to-the-model": (there.people_known or 0) < (there.people or 0),
        "probes-of-the-ladder-not-run": bool(report.get("not_tested")),
        "suite-is-no-evidence": not is_evidence(report),
        "required-gate-failed": "FAIL" in verdicts,
        "required-gate-undecided": not verdicts <= {"PASS", "FAIL", "SKIPPED"},
        "required-grade-not-reached": needed is not None and (record.grade or "G0") < needed,
        "stands-on-an-earlier-edit": record.parent is not None,
    }
    return tuple(code for code, is_so in holds.items() if is_so)
