"""What a run was found to be last, and on what evidence: what an approval and a statement make of it."""

from __future__ import annotations

import hashlib
import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from signed_runs import ALICE, BOB, RING, Clock, approve, make_run, probe_again, reseal

from safeedit.errors import UsageError
from safeedit.evidence.attestation import ATTESTATION, Attestation
from safeedit.evidence.dsse import IN_TOTO, sign
from safeedit.evidence.measured import last_measured
from safeedit.evidence.predicates import Approval, Measurement
from safeedit.evidence.signoff import decide, preview, standing_of
from safeedit.evidence.statements import record_of_run, record_statement
from safeedit.evidence.statements import test_result_statement as result_statement
from safeedit.runs.audit import iso_time
from safeedit.runs.folder import RunFolder
from safeedit.runs.verify import verify_run

RISK = "residual-leak-mitigated-elsewhere"
WEAK = "suite-is-no-evidence"


@pytest.fixture
def clock() -> Clock:
    return Clock()


def result(run: Path) -> str:
    kept = Attestation.load(run).results
    assert kept is not None
    return str(json.loads(kept.payload)["predicate"]["result"])


def predicate(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Attestation.load(run).decisions[-1].payload)["predicate"]
    return found


@pytest.mark.parametrize("verdict", ["FAIL", "INCONCLUSIVE", "NO_BASELINE", "SKIPPED"])
def test_what_was_found_last_is_what_is_approved(tmp_path: Path, clock: Clock, verdict: str) -> None:
    run = make_run(tmp_path / "runs" / "one", clock, approvers=1)
    probe_again(run, clock, verdict)
    with pytest.raises(UsageError, match="--accept-risk"):
        approve(run, ALICE, clock)
    assert not (run / ATTESTATION).exists()
    done = approve(run, ALICE, clock, accept_risk=RISK)
    assert (done.status, done.accepted_risks) == ("approved", (RISK,))
    assert result(run) == "FAILED"
    told = "INCONCLUSIVE" if verdict == "SKIPPED" else verdict
    assert predicate(run)["measured"]["verdict"] == told
    assert predicate(run)["verdict"] == "PASS"
    assert verify_run(run, RING).ok


def test_a_measurement_that_broke_is_never_approved(tmp_path: Path, clock: Clock) -> None:
    run = make_run(tmp_path / "runs" / "one", clock, approvers=1)
    probe_again(run, clock, "ERROR")
    for risk in (None, RISK):
        with pytest.raises(UsageError, match="ended in an error"):
            approve(run, ALICE, clock, accept_risk=risk)
    rejected = decide(run, ALICE, "reject", reason="evidence-incomplete", trusted=RING, clock=clock)
    assert rejected.status == "rejected"
    probe_again(run, clock, "PASS")
    assert approve(run, ALICE, clock).status == "approved"
    assert result(run) == "PASSED"


def test_another_suite_settles_nothing(tmp_path: Path, clock: Clock) -> None:
    run = make_run(tmp_path / "runs" / "one", clock, approvers=1)
    probe_again(run, clock, "FAIL", as_registered=False)
    assert approve(run, ALICE, clock).status == "approved"
    assert result(run) == "PASSED"
    other = make_run(tmp_path / "runs" / "two", clock, approvers=1)
    probe_again(other, clock, "FAIL")
    probe_again(other, clock, "PASS", as_registered=False)
    with pytest.raises(UsageError, match="--accept-risk"):
        approve(other, ALICE, clock)


def test_what_a_blind_measurement_finds_is_there_and_what_it_does_not_find_shows_nothing(
    tmp_path: Path, clock: Clock
) -> None:
    run = make_run(tmp_path / "runs" / "one", clock, approvers=1)

    def asked_blindly(leaks: int, verdict: str) -> None:
        RunFolder.open(run, clock=clock).update("probes.blind", {"leaks": leaks, "verdict": verdict})

    for leaks, verdict in ((0, "INCONCLUSIVE"), (0, "PASS")):
        asked_blindly(leaks, verdict)
    folder = RunFolder.open(run)
    assert last_measured(folder.record, folder.log.entries()).entry is None
    for leaks, verdict in ((1, "FAIL"), (0, "PASS")):
        asked_blindly(leaks, verdict)
    with pytest.raises(UsageError, match=r"came to FAIL.*--accept-risk"):
        approve(run, ALICE, clock)
    approve(run, ALICE, clock, accept_risk=RISK)
    assert result(run) == "FAILED"


def test_an_approval_from_before_keeps_its_worth_and_its_words(tmp_path: Path, clock: Clock) -> None:
    run = make_run(tmp_path / "runs" / "one", clock)
    approve(run, ALICE, clock)
    probe_again(run, clock, "FAIL")
    assert [one.state for one in standing_of(run, RING, clock).decisions] == ["valid"]
    assert verify_run(run, RING).ok
    done = approve(run, BOB, clock, accept_risk=RISK)
    assert (done.status, result(run)) == ("approved", "FAILED")
    results = Attestation.load(run).results
    assert results is not None
    assert results.verified_by([ALICE.public, BOB.public]) == {BOB.public.key_id}
    assert verify_run(run, RING).ok


def test_the_same_result_again_is_the_same_statement(tmp_path: Path, clock: Clock) -> None:
    run = make_run(tmp_path / "runs" / "one", clock)
    approve(run, ALICE, clock)
    probe_again(run, clock, "PASS")
    assert approve(run, BOB, clock).status == "approved"
    results = Attestation.load(run).results
    assert results is not None
    assert results.verified_by([ALICE.public, BOB.public]) == {ALICE.public.key_id, BOB.public.key_id}
    assert verify_run(run, RING).ok


def test_a_suite_that_is_no_evidence_is_a_risk_taken(tmp_path: Path, clock: Clock) -> None:
    run = make_run(tmp_path / "runs" / "one", clock, approvers=1, evidence=False)
    with pytest.raises(UsageError, match=r"no evidence.*--accept-risk"):
        approve(run, ALICE, clock)
    shown = json.loads(preview(run, ALICE, "approve", clock=clock))["predicate"]
    assert shown["measured"] == {
        "at": RunFolder.open(run).record.finished,
        "verdict": "PASS",
        "suiteIsEvidence": False,
    }
    done = approve(run, ALICE, clock, accept_risk=WEAK)
    assert (done.status, done.accepted_risks) == ("approved", (WEAK,))
    assert result(run) == "FAILED"
    assert WEAK in predicate(run)["limitations"]
    assert verify_run(run, RING).ok


def put(run: Path, clock: Clock, change: dict[str, Any], decision: Any = "approve", **more: Any) -> None:
    """A trusted approver signs what they like, and logs it in its place; no rule of `decide` is asked."""
    folder = RunFolder.open(run, clock)
    at = iso_time(clock.now)
    approval = Approval(decision=decision, key=ALICE.public.key_id, at=at, **more)
    record = record_of_run(run, folder.record, approval).model_copy(update=change)
    payload = record_statement(record)
    approves = decision == "approve"
    kept = Attestation.load(run).with_decision(payload, result_statement(record), ALICE, approves)
    told = {"key": ALICE.public.key_id, "statement": hashlib.sha256(payload).hexdigest()}
    event = "sign_off.given" if approves else "sign_off.refused"
    folder.update(event, told, files={ATTESTATION: kept.to_bytes()})  # type: ignore[arg-type]


OTHERWISE = Measurement(at="2026-11-02T12:00:00.000Z", verdict="PASS", suite_is_evidence=True)


@pytest.mark.parametrize(
    ("repeated", "evidence", "change", "risk", "why"),
    [
        (None, True, {}, None, None),
        ("PASS", True, {}, None, None),
        ("FAIL", True, {}, None, "without naming the risk"),
        ("FAIL", True, {}, RISK, None),
        ("FAIL", True, {"measured": OTHERWISE}, RISK, "last measurement"),
        ("FAIL", True, {"measured": None}, None, "without naming the risk"),
        ("FAIL", True, {"measured": None}, RISK, "last measurement"),
        ("ERROR", True, {}, RISK, "error"),
        (None, False, {}, None, "without naming the risk"),
        (None, False, {"measured": OTHERWISE}, RISK, "last measurement"),
        (None, False, {}, WEAK, None),
        # Statements from before they told of the last measurement say nothing else that is not so.
        (None, True, {"measured": None}, None, None),
        ("PASS", True, {"measured": None}, None, None),
        (None, False, {"measured": None}, None, None),
    ],
)
def test_a_statement_is_held_against_the_last_measurement(
    tmp_path: Path,
    clock: Clock,
    repeated: str | None,
    evidence: bool,
    change: Any,
    risk: Any,
    why: str | None,
) -> None:
    run = make_run(tmp_path / "runs" / "one", clock, approvers=1, evidence=evidence)
    if repeated is not None:
        probe_again(run, clock, repeated)
    put(run, clock, change, accepted_risk=risk)
    found = standing_of(run, RING, clock)
    assert found.status == ("approved" if why is None else "void"), found.decisions
    if why is not None:
        assert why in found.decisions[0].why
    assert verify_run(run, RING).ok == (why is None)


def test_a_rejection_that_tells_of_no_measurement_still_counts(tmp_path: Path, clock: Clock) -> None:
    run = make_run(tmp_path / "runs" / "one", clock, approvers=1)
    probe_again(run, clock, "FAIL")
    put(run, clock, {"measured": None}, "reject", reason="gate-not-met")
    assert standing_of(run, RING, clock).status == "rejected"


def test_results_are_those_that_their_signers_approved(tmp_path: Path, clock: Clock) -> None:
    """Results of another decision than the signer's own are not lent to it."""
    run = make_run(tmp_path / "runs" / "one", clock)
    approve(run, ALICE, clock)
    early = Attestation.load(run).results
    assert early is not None
    probe_again(run, clock, "FAIL")
    approve(run, BOB, clock, accept_risk=RISK)
    lent = Attestation(sign(early.payload, IN_TOTO, [ALICE, BOB]), Attestation.load(run).decisions)
    reseal(run, clock, lent)
    found = standing_of(run, RING, clock)
    assert found.status == "void"
    assert "test-result" in found.decisions[-1].why


def test_an_approval_counts_for_a_measurement_that_it_came_after(tmp_path: Path, clock: Clock) -> None:
    run = make_run(tmp_path / "runs" / "one", clock)
    for key in (ALICE, BOB):
        approve(run, key, clock, expires=date(2027, 1, 1))
    entry = RunFolder.open(run).log.entries()[-1].seq + 1
    probe_again(run, clock, "FAIL")
    assert not standing_of(run, RING, clock).approved_since(entry)
    approve(run, ALICE, clock, accept_risk=RISK)
    assert not standing_of(run, RING, clock).approved_since(entry)
    approve(run, BOB, clock, accept_risk=RISK)
    assert standing_of(run, RING, clock).approved_since(entry)
