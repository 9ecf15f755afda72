"""Statements: what a run says of itself in in-toto's words, and in ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import google.protobuf.json_format as protobuf_json
import jsonschema
import pytest
from in_toto_attestation.predicates.test_result.v0 import test_result_pb2
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement
from signed_runs import Clock, make_run

from safeedit.canonical import canonical_json
from safeedit.errors import IntegrityError, UsageError
from safeedit.evidence.predicates import (
    EDIT_TYPE,
    ERASURE_TYPE,
    LIMITATIONS,
    Approval,
    Limitation,
    published_schema,
    schema_text,
)
from safeedit.evidence.statements import (
    MODEL_DIGEST,
    TEST_RESULT_TYPE,
    read_record,
    record_of_run,
    record_statement,
)
from safeedit.evidence.statements import test_result_statement as result_statement
from safeedit.runs.folder import RunFolder

AT = "2026-11-02T12:00:00.000Z"
APPROVAL = Approval(decision="approve", key=f"sha256:{'a' * 64}", at=AT, expires="2027-01-01")


def record_of(path: Path, approval: Approval = APPROVAL) -> Any:
    return record_of_run(path, RunFolder.open(path).record, approval)


@pytest.fixture(scope="module")
def passed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "passed", Clock())


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "failed", Clock(), verdict="FAIL")


def test_the_schema_that_ships_is_the_one_that_holds() -> None:
    assert published_schema() == schema_text()
    jsonschema.Draft202012Validator.check_schema(json.loads(published_schema()))
    assert set(LIMITATIONS) == set(Limitation.__args__)  # type: ignore[attr-defined]


@pytest.mark.parametrize("which", ["passed", "failed"])
def test_both_statements_are_in_toto_s(which: str, request: pytest.FixtureRequest) -> None:
    record = record_of(request.getfixturevalue(which))
    for payload in (record_statement(record), result_statement(record)):
        parsed = protobuf_json.Parse(payload, statement_pb2.Statement())
        Statement.copy_from_pb(parsed).validate()
        assert payload == canonical_json(json.loads(payload))
    predicate = json.loads(result_statement(record))["predicate"]
    told = protobuf_json.ParseDict(predicate, test_result_pb2.TestResult())
    assert told.result == ("PASSED" if which == "passed" else "FAILED")
    assert list(told.failed_tests) == ([] if which == "passed" else ["forgetting.paraphrase"])
    assert list(told.warned_tests) == ["membership.scores"]
    assert len(told.configuration) == 4


def test_our_record_fits_its_schema_and_says_what_was_found(passed: Path) -> None:
    record = record_of(passed)
    statement = json.loads(record_statement(record))
    found = statement["predicate"]
    jsonschema.validate(found, json.loads(published_schema()))
    assert statement["predicateType"] == ERASURE_TYPE
    gate = found["gates"][0]
    assert (gate["n"], gate["x"], gate["bound"], gate["alpha"]) == (149, 0, 0.0199, 0.05)
    assert found["baseline"] == {"facts": 150, "known": 149}
    assert found["requiredGrade"] == found["grade"] == "G1"
    assert found["notTested"] == ["attack.relearning"]
    assert found["approversNeeded"] == 2
    assert set(found["limitations"]) == {
        "registered-facts-only",
        "registered-probes-only",
        "not-proof-against-every-attack",
        "copies-elsewhere-not-covered",
        "facts-unknown-to-the-model",
        "probes-of-the-ladder-not-run",
    }
    assert read_record(record_statement(record), "it") == record


def test_people_of_whom_the_model_said_nothing_are_told(tmp_path: Path, passed: Path) -> None:
    for known in (1, 2):
        record = record_of(make_run(tmp_path / "runs" / str(known), Clock(), people=(2, known)))
        found = json.loads(record_statement(record))["predicate"]
        jsonschema.validate(found, json.loads(published_schema()))
        assert found["baseline"] == {"facts": 150, "known": 149, "people": 2, "peopleKnown": known}
        assert ("people-unknown-to-the-model" in found["limitations"]) == (known < 2)
        assert read_record(record_statement(record), "it") == record
    assert "people" not in json.loads(record_statement(record_of(passed)))["predicate"]["baseline"]


@pytest.mark.parametrize(
    "change",
    [
        {"subject": "Zebulon Quackenbush"},
        {"approval": {"decision": "approve", "key": "alice@example.org", "at": AT}},
        {"notTested": ["Zebulon Quackenbush"]},
        {"grade": "G9"},
        {"baseline": {"facts": -1, "known": 0}},
    ],
)
def test_free_text_fits_neither_schema_nor_reader(passed: Path, change: dict[str, Any]) -> None:
    statement = json.loads(record_statement(record_of(passed)))
    statement["predicate"] |= change
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(statement["predicate"], json.loads(published_schema()))
    with pytest.raises(IntegrityError) as told:
        read_record(canonical_json(statement), "it")
    assert "Zebulon" not in str(told.value)


def test_the_base_model_is_no_subject(passed: Path) -> None:
    """Nobody who looks a base model up may be told that it passed."""
    record = record_of(passed)
    for payload in (record_statement(record), result_statement(record)):
        subjects = json.loads(payload)["subject"]
        assert subjects[0] == {"name": "edited-model", "digest": {MODEL_DIGEST: "2" * 64}}
        assert "0" * 64 not in json.dumps(subjects)
        assert {one["name"] for one in subjects[1:]} == {"patch/patch.json", "patch/patch.safetensors"}


def test_a_run_that_erased_nothing_is_no_erasure(tmp_path: Path) -> None:
    record = record_of(make_run(tmp_path / "runs" / "taught", Clock(), op="insert"))
    statement = json.loads(record_statement(record))
    assert statement["predicateType"] == EDIT_TYPE
    renamed = canonical_json({**statement, "predicateType": ERASURE_TYPE})
    with pytest.raises(IntegrityError):
        read_record(renamed, "it")


def test_the_result_is_the_same_for_everybody(passed: Path) -> None:
    other = Approval(decision="approve", key=f"sha256:{'b' * 64}", at="2026-11-05T12:00:00.000Z")
    assert result_statement(record_of(passed)) == result_statement(record_of(passed, other))
    assert json.loads(result_statement(record_of(passed)))["predicateType"] == TEST_RESULT_TYPE


def test_subjects_cannot_be_swapped_under_a_predicate(passed: Path) -> None:
    statement = json.loads(record_statement(record_of(passed)))
    statement["subject"][0]["digest"][MODEL_DIGEST] = "3" * 64
    with pytest.raises(IntegrityError, match="subject"):
        read_record(canonical_json(statement), "it")


def test_a_run_without_results_has_no_statement(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "runs" / "empty", "case-1", clock=Clock()) as run:
        run.finish("PASS", "G1", 0)
    with pytest.raises(UsageError, match=r"probes\.json"):
        record_of(run.path)


def test_results_that_are_not_the_sealed_ones_are_not_signed(tmp_path: Path) -> None:
    path = make_run(tmp_path / "runs" / "one", Clock())
    (path / "probes.json").write_text('{"results": []}')
    with pytest.raises(IntegrityError, match="sealed"):
        record_of(path)


@pytest.mark.parametrize(
    "change", [{"verdict": "Zebulon"}, {"n": "149"}, {"n": -1}, {"id": "Zebulon Quackenbush"}, {"gate": {}}]
)
def test_results_in_another_form_are_not_signed(tmp_path: Path, change: dict[str, Any]) -> None:
    path = make_run(tmp_path / "runs" / "one", Clock())
    content = json.loads((path / "probes.json").read_bytes())
    content["results"][0] |= change
    new = json.dumps(content).encode()
    RunFolder.open(path, Clock()).update("report.written", {}, files={"vault/x.bin": b"", "report.html": new})
    record = RunFolder.open(path).record
    (path / "probes.json").write_bytes(new)
    files = {**record.files, "probes.json": record.files["report.html"]}
    with pytest.raises(IntegrityError) as told:
        record_of_run(path, record.model_copy(update={"files": files}), APPROVAL)
    assert "Zebulon" not in str(told.value)
