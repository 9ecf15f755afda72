"""What decisions are worth later: when the run, the file, a key or the clock is no longer what it was."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from datetime import date
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from signed_runs import ALICE, BOB, RING, Clock, approve, make_run, reseal, states

from safeedit.errors import IntegrityError
from safeedit.evidence.attestation import ATTESTATION, Attestation
from safeedit.evidence.dsse import IN_TOTO, sign
from safeedit.evidence.keyring import Keyring, revoke, trust
from safeedit.evidence.predicates import Approval, Evidence, LogState
from safeedit.evidence.shred import shred
from safeedit.evidence.signing import SigningKey
from safeedit.evidence.signoff import decide, sign_off_checks, sign_off_findings, standing_of
from safeedit.evidence.statements import bound_files, record_of_run, record_statement
from safeedit.evidence.statements import test_result_statement as result_statement
from safeedit.runs.audit import iso_time
from safeedit.runs.folder import RunFolder
from safeedit.runs.verify import inspect_run, verify_run


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def run(tmp_path: Path, clock: Clock) -> Path:
    return make_run(tmp_path / "runs" / "one", clock)


def test_what_a_key_signed_before_it_was_revoked_still_counts(
    run: Path, clock: Clock, tmp_path: Path
) -> None:
    ring = tmp_path / "keyring.json"
    for name, key in (("alice", ALICE), ("bob", BOB)):
        trust(key.public, name, ("approver",), date(2026, 11, 1), ring)
        approve(run, key, clock, Keyring.load(ring))
    revoke("alice", date(2026, 11, 3), ring)
    assert standing_of(run, Keyring.load(ring), clock).status == "approved"
    revoke("alice", date(2026, 11, 2), ring)
    assert standing_of(run, Keyring.load(ring), clock).status == "pending"
    assert states(run, clock, Keyring.load(ring)) == ["revoked", "valid"]


def test_an_approval_expires_and_no_clock_brings_it_back(run: Path, clock: Clock) -> None:
    approve(run, ALICE, clock, expires=date(2026, 12, 1))
    approve(run, BOB, clock)
    assert standing_of(run, RING, clock.shifted(days=28)).status == "approved"
    late = clock.shifted(days=29)
    assert standing_of(run, RING, late).status == "expired"
    # Something is logged after the expiry; a clock that is set back does not undo that.
    RunFolder.open(run, late).update("report.written", {})
    assert standing_of(run, RING, clock).status == "expired"
    with pytest.raises(IntegrityError, match="clock"):
        approve(run, ALICE, clock)
    renewed = approve(run, ALICE, clock.shifted(days=30), expires=date(2027, 12, 1))
    assert renewed.status == "approved"


def test_later_events_leave_signatures_valid(run: Path, clock: Clock) -> None:
    approve(run, ALICE, clock)
    folder = RunFolder.open(run, clock)
    folder.update("report.written", {}, files={"report.html": b"<!doctype html>"})
    approve(run, BOB, clock)
    folder.update("model.exported", {"format": "hf"})
    shred(run, clock=clock)
    assert standing_of(run, RING, clock).status == "approved"
    assert not list(sign_off_findings(run, RING, clock))


def test_changed_files_make_signatures_void(run: Path, clock: Clock) -> None:
    approve(run, ALICE, clock)
    approve(run, BOB, clock)
    file = run / "patch" / "patch.safetensors"
    file.write_bytes(file.read_bytes()[::-1])
    assert standing_of(run, RING, clock).status == "void"
    assert states(run, clock) == ["void", "void"]


def test_sealing_the_change_anew_does_not_help(run: Path, clock: Clock) -> None:
    """Whoever can write the folder can seal it again; the signature is over what was there before."""
    approve(run, ALICE, clock)
    approve(run, BOB, clock)
    other = b'{"format": "safeedit.patch/2"}\n'
    RunFolder.open(run, clock).update("report.written", {}, files={"patch/patch.json": other})
    assert states(run, clock) == ["void", "void"]
    codes = {found.code for found in verify_run(run, RING).findings}
    assert codes == {"signature-void"}


@pytest.mark.parametrize("name", ["patch/more.safetensors", "model/modeling_x.py"])
def test_nothing_is_slipped_into_what_was_signed(run: Path, clock: Clock, name: str) -> None:
    approve(run, ALICE, clock)
    RunFolder.open(run, clock).update("report.written", {}, files={name: b"x"})
    assert states(run, clock) == ["void"]


def test_a_signature_is_not_carried_to_another_run(run: Path, clock: Clock) -> None:
    other = make_run(run.parent / "two", clock, approvers=1)
    approve(run, ALICE, clock)
    content = (run / ATTESTATION).read_bytes()
    told = RunFolder.open(run).log.entries()[-1].data
    about = {name: value for name, value in told.items() if name != "run_json"}
    RunFolder.open(other, clock).update("sign_off.given", about, files={ATTESTATION: content})
    assert states(other, clock) == ["replayed"]
    assert standing_of(other, RING, clock).status == "void"
    assert {found.code for found in verify_run(other, RING).findings} == {"signature-replayed"}


def test_a_rejection_cannot_be_left_out(run: Path, clock: Clock) -> None:
    third = SigningKey.generate()
    ring = Keyring.of(ALICE.public, BOB.public, third.public)
    for key in (ALICE, BOB):
        approve(run, key, clock, ring)
    approved = Attestation.load(run)
    decide(run, third, "reject", reason="legal-hold", trusted=ring, clock=clock)
    reseal(run, clock, approved)
    assert standing_of(run, ring, clock).status == "void"
    assert {found.code for found in verify_run(run, ring).findings} == {"signature-missing"}


def test_decisions_out_of_order_are_put_in_order(run: Path, clock: Clock) -> None:
    approve(run, ALICE, clock)
    decide(run, ALICE, "reject", reason="legal-hold", trusted=RING, clock=clock)
    kept = Attestation.load(run)
    reseal(run, clock, Attestation(kept.results, kept.decisions[::-1]))
    assert standing_of(run, RING, clock).status == "rejected"


def test_a_statement_twice_counts_once(tmp_path: Path, clock: Clock) -> None:
    run = make_run(tmp_path / "runs" / "one", clock)
    approve(run, ALICE, clock)
    kept = Attestation.load(run)
    reseal(run, clock, Attestation(kept.results, kept.decisions * 2))
    assert sorted(states(run, clock)) == ["duplicated", "valid"]
    assert standing_of(run, RING, clock).status == "pending"


def test_another_key_s_signature_is_not_taken_for_the_named_one(run: Path, clock: Clock) -> None:
    approve(run, ALICE, clock)
    kept = Attestation.load(run)
    payload = kept.decisions[0].payload
    reseal(run, clock, Attestation(kept.results, (sign(payload, IN_TOTO, [BOB]),)))
    assert states(run, clock) == ["wrong-signature"]
    # A trusted key that signs a statement which names another key approves nothing.
    renamed = payload.replace(ALICE.public.key_id.encode(), BOB.public.key_id.encode())
    reseal(run, clock, Attestation(kept.results, (sign(renamed, IN_TOTO, [BOB]),)))
    assert standing_of(run, RING, clock).status == "void"
    assert "valid" not in states(run, clock)


def test_a_statement_that_claims_more_than_the_run_is_void(tmp_path: Path, clock: Clock) -> None:
    """Even a trusted approver cannot sign a failed run into a passed one."""
    run = make_run(tmp_path / "runs" / "one", clock, verdict="FAIL", approvers=1)
    approve(run, ALICE, clock, accept_risk="side-effects-accepted")
    kept = Attestation.load(run)
    statement = json.loads(kept.decisions[0].payload)
    for change in ({"verdict": "PASS"}, {"approversNeeded": 0}, {"grade": "G4"}):
        from safeedit.canonical import canonical_json

        changed = {**statement, "predicate": {**statement["predicate"], **change}}
        forged = sign(canonical_json(changed), IN_TOTO, [ALICE])
        reseal(run, clock, Attestation(kept.results, (forged,)))
        assert "valid" not in states(run, clock)
        assert standing_of(run, RING, clock).status == "void"


def forge(run: Path, clock: Clock, change: dict[str, Any]) -> None:
    """A trusted approver signs what is not so, and logs it in its place; no rule of `decide` is asked."""
    folder = RunFolder.open(run, clock)
    at = iso_time(clock.now)
    honest = record_of_run(run, folder.record, Approval(decision="approve", key=ALICE.public.key_id, at=at))
    record = honest.model_copy(update=change)
    payload = record_statement(record)
    kept = Attestation().with_decision(payload, result_statement(record), ALICE, True)
    told = {"key": ALICE.public.key_id, "statement": hashlib.sha256(payload).hexdigest()}
    folder.update("sign_off.given", told, files={ATTESTATION: kept.to_bytes()})


@pytest.mark.parametrize(
    ("verdict", "change", "why"),
    [
        ("PASS", {}, None),
        ("PASS", {"grade": "G4"}, "result"),
        ("FAIL", {"verdict": "PASS"}, "result"),
        ("FAIL", {}, "without naming the risk"),
        ("ERROR", {}, "error"),
        ("PASS", {"approvers_needed": 0}, "number of approvers"),
        ("PASS", {"evidence": "head"}, "log is not the one"),
        ("PASS", {"evidence": "place"}, "log"),
        ("PASS", {"approval": "early"}, "time"),
    ],
)
def test_an_approver_cannot_sign_what_is_not_so(
    tmp_path: Path, clock: Clock, verdict: str, change: Any, why: str | None
) -> None:
    run = make_run(tmp_path / "runs" / "one", clock, verdict=verdict, approvers=1)
    last = RunFolder.open(run).log.entries()[-1]
    files = bound_files(RunFolder.open(run).record)
    if "evidence" in change:
        wrong = {"head": (last.seq + 1, "0" * 64), "place": (last.seq, last.hash)}[change["evidence"]]
        change = {"evidence": Evidence(log=LogState(length=wrong[0], head=wrong[1]), files=files)}
    if "approval" in change:
        at = "2026-10-01T12:00:00.000Z"
        change = {"approval": Approval(decision="approve", key=ALICE.public.key_id, at=at)}
    forge(run, clock, change)
    found = standing_of(run, RING, clock)
    if why is None:
        assert found.status == "approved"
        return
    assert found.status == "void"
    assert [one.state for one in found.decisions] == ["void"]
    assert why in found.decisions[0].why


def test_unknown_keys_are_told_apart_from_none(run: Path, clock: Clock) -> None:
    approve(run, ALICE, clock)
    nobody = sign_off_checks(run, Keyring(), clock)
    assert [check.outcome for check in nobody] == ["not checked", "not checked"]
    assert "not trusted here" in nobody[0].notes[0]
    assert nobody[1].notes == ("not signed off: pending, 0 of 2 approvals",)
    assert standing_of(run, Keyring(), clock).status == "pending"
    others = [found.code for found in sign_off_findings(run, Keyring.of(BOB.public), clock)]
    assert others == ["signature-unknown-key"]
    assert states(run, clock, Keyring.of(ALICE.public, role="evaluator")) == ["unknown-key"]


@pytest.fixture(scope="module")
def approved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    clock = Clock()
    run = make_run(tmp_path_factory.mktemp("runs") / "approved", clock)
    decide(run, ALICE, "approve", trusted=RING, clock=clock)
    decide(run, ALICE, "reject", reason="legal-hold", trusted=RING, clock=clock)
    for key in (ALICE, BOB):
        decide(run, key, "approve", trusted=RING, clock=clock)
    return run


def contents(kept: Attestation) -> list[Any]:
    """All of a file that proves something; the ids beside signatures are hints."""
    envelopes = [kept.results, *kept.decisions]
    return [(one.payload, one.payload_type, [s for _, s in one.signatures]) for one in envelopes if one]


@settings(max_examples=80, deadline=None)
@given(place=st.integers(0, 10**7))
def test_no_flipped_bit_leaves_another_approval(approved: Path, place: int) -> None:
    """As whoever seals the run anew afterwards would have it: the manifest finds nothing."""
    sound, whole = inspect_run(approved), (approved / ATTESTATION).read_bytes()
    genuine = contents(Attestation.load(approved))
    broken = bytearray(whole)
    place %= 8 * len(whole)
    broken[place // 8] ^= 1 << (place % 8)
    try:
        (approved / ATTESTATION).write_bytes(broken)
        found = standing_of(approved, RING, Clock(), sound)
        noticed = any(check.findings for check in sign_off_checks(approved, RING, Clock(), sound))
        assert noticed == (found.status != "approved")
        assert noticed or contents(Attestation.load(approved)) == genuine
    finally:
        (approved / ATTESTATION).write_bytes(whole)
    assert standing_of(approved, RING, Clock()).status == "approved"


def test_every_subset_and_order_of_statements_is_noticed(approved: Path) -> None:
    kept, sound = Attestation.load(approved), inspect_run(approved)
    whole = (approved / ATTESTATION).read_bytes()
    try:
        for size in range(len(kept.decisions) + 1):
            for chosen in permutations(kept.decisions, size):
                (approved / ATTESTATION).write_bytes(Attestation(kept.results, chosen).to_bytes())
                found = standing_of(approved, RING, Clock(), sound)
                assert found.status == ("approved" if size == len(kept.decisions) else "void")
    finally:
        (approved / ATTESTATION).write_bytes(whole)


def test_the_results_carry_the_signatures_of_approvers_alone(run: Path, clock: Clock) -> None:
    approve(run, ALICE, clock)
    early = Attestation.load(run).results
    approve(run, BOB, clock)
    both = Attestation.load(run)
    assert both.results is not None
    assert early is not None
    decide(run, ALICE, "withdraw", trusted=RING, clock=clock)
    reseal(run, clock, Attestation(both.results, Attestation.load(run).decisions))
    assert "attestation-invalid" in {found.code for found in sign_off_findings(run, RING, clock)}
    swapped = tuple((name, early.signatures[0][1]) for name, _ in both.results.signatures[1:])
    forged = replace(both.results, signatures=swapped)
    reseal(run, clock, Attestation(forged, Attestation.load(run).decisions))
    assert "attestation-invalid" in {found.code for found in sign_off_findings(run, RING, clock)}


@pytest.mark.parametrize("content", [b"", b"{}", b'{"format": "x", "envelopes": []}', b"\xff", b"[1]"])
def test_an_unreadable_file_is_never_an_approval(run: Path, clock: Clock, content: bytes) -> None:
    approve(run, ALICE, clock)
    RunFolder.open(run, clock).update("report.written", {}, files={ATTESTATION: content})
    assert standing_of(run, RING, clock).status == "void"
    assert "attestation-invalid" in {found.code for found in sign_off_findings(run, RING, clock)}
    with pytest.raises(IntegrityError):
        approve(run, BOB, clock)


def test_a_copy_is_the_same_run(run: Path, clock: Clock, tmp_path: Path) -> None:
    approve(run, ALICE, clock)
    copy = shutil.copytree(run, tmp_path / "elsewhere" / "one")
    assert states(copy, clock) == ["valid"]
