"""Sign-off: who may decide what, and what the decisions amount to."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from signed_runs import ALICE, BOB, EVE, RING, Clock, approve, make_run, states

from safeedit.errors import IntegrityError, UsageError
from safeedit.evidence.attestation import ATTESTATION, Attestation
from safeedit.evidence.keyring import Keyring, revoke, trust
from safeedit.evidence.signing import SigningKey
from safeedit.evidence.signoff import decide, sign_off_checks, standing_of
from safeedit.runs.folder import RunFolder
from safeedit.runs.verify import verify_run


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def run(tmp_path: Path, clock: Clock) -> Path:
    return make_run(tmp_path / "runs" / "one", clock)


def test_two_of_two_approve(run: Path, clock: Clock) -> None:
    assert standing_of(run, RING, clock).status == "pending"
    first = approve(run, ALICE, clock)
    assert (first.status, first.approvals, first.needed) == ("pending", 1, 2)
    second = approve(run, BOB, clock)
    assert (second.status, second.approvals) == ("approved", 2)
    report = verify_run(run, RING)
    assert report.ok, report.findings
    said = [f"{check.what}: {check.said}" for check in report.checks]
    for key in (ALICE, BOB):
        assert sum(key.public.key_id in line and "valid" in line for line in said) == 1
    assert "sign-off: approved, 2 of 2 approvals" in said
    results = Attestation.load(run).results
    assert results is not None
    assert results.verified_by([ALICE.public, BOB.public, EVE.public]) == {
        ALICE.public.key_id,
        BOB.public.key_id,
    }


def test_nobody_has_to_sign_without_a_rule(tmp_path: Path, clock: Clock) -> None:
    run = make_run(tmp_path / "runs" / "free", clock, approvers=0)
    assert standing_of(run, RING, clock).status == "none"
    assert sign_off_checks(run, RING, clock) == []
    assert approve(run, ALICE, clock).status == "approved"


def test_one_key_counts_once(run: Path, clock: Clock) -> None:
    approve(run, ALICE, clock)
    with pytest.raises(UsageError, match="already"):
        approve(run, ALICE, clock)
    again = approve(run, ALICE, clock, expires=date(2027, 1, 1))
    assert (again.status, again.approvals) == ("pending", 1)
    assert states(run, clock) == ["superseded", "valid"]


def test_a_rejection_beats_approvals_until_it_is_withdrawn(run: Path, clock: Clock) -> None:
    third = SigningKey.generate("ecdsa-p384")
    ring = Keyring.of(ALICE.public, BOB.public, third.public)
    approve(run, ALICE, clock, ring)
    approve(run, BOB, clock, ring)
    rejected = decide(run, third, "reject", reason="side-effects", trusted=ring, clock=clock)
    assert rejected.status == "rejected"
    withdrawn = decide(run, third, "withdraw", trusted=ring, clock=clock)
    assert withdrawn.status == "approved"
    with pytest.raises(UsageError, match="nothing to withdraw"):
        decide(run, third, "withdraw", trusted=ring, clock=clock)


def test_who_withdraws_takes_the_signature_on_the_results_back(run: Path, clock: Clock) -> None:
    approve(run, ALICE, clock)
    approve(run, BOB, clock)
    decide(run, ALICE, "reject", reason="grade-too-low", trusted=RING, clock=clock)
    results = Attestation.load(run).results
    assert results is not None
    assert results.verified_by([ALICE.public, BOB.public]) == {BOB.public.key_id}
    decide(run, BOB, "withdraw", trusted=RING, clock=clock)
    assert Attestation.load(run).results is None
    assert verify_run(run, RING).ok


@pytest.mark.parametrize("verdict", ["FAIL", "INCONCLUSIVE", "NO_BASELINE"])
def test_what_did_not_pass_is_only_a_risk_taken(tmp_path: Path, clock: Clock, verdict: str) -> None:
    run = make_run(tmp_path / "runs" / "other", clock, verdict=verdict, approvers=1)
    with pytest.raises(UsageError, match="--accept-risk"):
        approve(run, ALICE, clock)
    with pytest.raises(UsageError, match="no such risk"):
        approve(run, ALICE, clock, accept_risk="whatever")
    assert not (run / ATTESTATION).exists()
    done = approve(run, ALICE, clock, accept_risk="interim-until-retraining")
    assert done.status == "approved"
    assert done.accepted_risks == ("interim-until-retraining",)
    assert "interim-until-retraining" in done.line()
    assert verify_run(run, RING).ok


def test_an_error_is_never_approved(tmp_path: Path, clock: Clock) -> None:
    run = make_run(tmp_path / "runs" / "other", clock, verdict="ERROR", approvers=1)
    for risk in (None, "interim-until-retraining"):
        with pytest.raises(UsageError, match="error"):
            approve(run, ALICE, clock, accept_risk=risk)
    rejected = decide(run, ALICE, "reject", reason="gate-not-met", trusted=RING, clock=clock)
    assert rejected.status == "rejected"


@pytest.mark.parametrize(
    ("decision", "more", "told"),
    [
        ("reject", {}, "needs a reason"),
        ("reject", {"reason": "Zebulon said so"}, "needs a reason"),
        ("approve", {"reason": "side-effects"}, "goes with a rejection"),
        ("approve", {"accept_risk": "side-effects-accepted"}, "no risk to accept"),
        ("approve", {"expires": date(2026, 11, 2)}, "never counts"),
        ("reject", {"reason": "side-effects", "expires": date(2027, 1, 1)}, "only an approval"),
        ("withdraw", {}, "nothing to withdraw"),
        ("bless", {}, "one of"),
    ],
)
def test_decisions_that_make_no_sense(run: Path, clock: Clock, decision: Any, more: Any, told: str) -> None:
    before = (run / "audit.jsonl").read_bytes()
    with pytest.raises(UsageError, match=told) as error:
        decide(run, ALICE, decision, trusted=RING, clock=clock, **more)
    assert "Zebulon" not in str(error.value)
    assert (run / "audit.jsonl").read_bytes() == before
    assert not (run / ATTESTATION).exists()


def test_only_trusted_approvers_decide(run: Path, clock: Clock, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="keys trust"):
        approve(run, EVE, clock)
    with pytest.raises(UsageError, match="keys trust"):
        approve(run, EVE, clock, Keyring())
    with pytest.raises(UsageError, match="not trusted as an approver"):
        approve(run, EVE, clock, Keyring.of(EVE.public, role="evaluator"))
    ring = tmp_path / "keyring.json"
    trust(EVE.public, "eve", ("approver",), date(2026, 11, 1), ring)
    revoke("eve", date(2026, 11, 2), ring)
    with pytest.raises(UsageError, match="revoked"):
        approve(run, EVE, clock, Keyring.load(ring))
    assert not (run / ATTESTATION).exists()


def test_a_run_that_does_not_verify_is_not_signed(run: Path, clock: Clock) -> None:
    (run / "patch" / "patch.json").write_text("{}")
    with pytest.raises(IntegrityError, match="does not verify"):
        approve(run, ALICE, clock)
    assert not (run / ATTESTATION).exists()


def test_only_a_run_that_came_to_its_end(tmp_path: Path, clock: Clock) -> None:
    half = RunFolder.create(tmp_path / "runs" / "half", "case-1", clock=clock)
    with half, pytest.raises(UsageError, match="writing this run"):
        approve(half.path, ALICE, clock)
    with pytest.raises(UsageError, match="come to its end"):
        approve(half.path, ALICE, clock)
    with pytest.raises(UsageError, match="no run"):
        approve(tmp_path, ALICE, clock)
    run = make_run(tmp_path / "runs" / "taken-back", clock)
    approve(run, ALICE, clock)
    RunFolder.open(run, clock).update("rollback.done", {}, status="rolled_back")
    assert states(run, clock) == ["lapsed"]
    assert standing_of(run, RING, clock).status == "void"
    assert verify_run(run, RING).ok
    with pytest.raises(UsageError, match="rolled back"):
        approve(run, BOB, clock)


def test_two_at_once_do_not_lose_a_decision(run: Path, clock: Clock) -> None:

    keys = [SigningKey.generate() for _ in range(4)]
    ring = Keyring.of(*(key.public for key in keys))

    def attempt(key: SigningKey) -> None:
        until = time.monotonic() + 60  # However slow the machine is, each gets its turn.
        while True:
            try:
                approve(run, key, clock, ring)
            except UsageError as busy:
                if "writing this run" not in str(busy) or time.monotonic() > until:
                    raise
                time.sleep(0.01)
            else:
                return

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(attempt, keys))
    found = standing_of(run, ring, clock)
    assert (found.status, found.approvals) == ("approved", 4)
    assert verify_run(run, ring).ok


def test_nothing_personal_is_signed(run: Path, clock: Clock) -> None:
    approve(run, ALICE, clock)
    shown = (run / ATTESTATION).read_bytes() + b"".join(
        envelope.payload for envelope in Attestation.load(run).decisions
    )
    assert b"Zebulon" not in shown
    assert b"Quackenbush" not in shown
    assert repr(standing_of(run, RING, clock)).find("Zebulon") == -1
