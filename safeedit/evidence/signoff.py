"""Signing off a run: a person's decision, signed, put into the run and told by its log.

What may be decided: a finished run that verifies. One that passed can be approved; one that failed, could
not be decided, did not pass when it was measured last, or rests on a suite that is no evidence, only together
with a named risk that the approver takes; one that ended in an error, or whose last measurement did, never. A
rejection weighs more than every approval until its key withdraws it or approves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import get_args

from pydantic import ValidationError

from safeedit.errors import IntegrityError, UsageError
from safeedit.evidence.attestation import ATTESTATION, Attestation
from safeedit.evidence.dsse import pae
from safeedit.evidence.keyring import Keyring
from safeedit.evidence.measured import last_measured
from safeedit.evidence.predicates import Approval, DecisionWord, Record, RejectReason, RiskCode
from safeedit.evidence.signing import SigningKey
from safeedit.evidence.standing import EVENTS, Decision, SignOff, State
from safeedit.evidence.standing import standing_of as standing_of
from safeedit.evidence.statements import (
    is_evidence,
    own_entries,
    record_of_run,
    record_statement,
    results_of,
    test_result_statement,
)
from safeedit.runs.audit import Clock, iso_time, utc_now
from safeedit.runs.checks import Check
from safeedit.runs.findings import Finding, FindingCode
from safeedit.runs.folder import RunFolder
from safeedit.runs.lock import RunLock
from safeedit.runs.verify import VerifyReport, inspect_run, verify_run

REASONS: tuple[RejectReason, ...] = get_args(RejectReason)
RISKS: tuple[RiskCode, ...] = get_args(RiskCode)
_PATIENCE = timedelta(minutes=1)
"""How far the clocks of two honest machines may differ."""

_CODES: dict[State, FindingCode] = {
    "wrong-signature": "signature-wrong",
    "replayed": "signature-replayed",
    "void": "signature-void",
    "duplicated": "signature-duplicated",
    "missing": "signature-missing",
    "unreadable": "attestation-invalid",
}


def decide(
    folder: Path,
    key: SigningKey,
    decision: DecisionWord,
    *,
    reason: str | None = None,
    expires: date | None = None,
    accept_risk: str | None = None,
    trusted: Keyring | None = None,
    clock: Clock = utc_now,
) -> SignOff:
    """Decide on a run; the run's log and `attestation.json` tell of it afterwards.

    Args:
        folder: the run folder.
        key: who decides; `trusted` must have it as an approver.
        decision: `approve`, `reject`, or `withdraw` for taking back what the key decided before.
        reason: with `reject`: one of `REASONS`.
        expires: with `approve`: the first day (UTC) on which it no longer counts.
        accept_risk: with `approve`: one of `RISKS`, for a run that did not pass, or rests on no evidence.
        trusted: whose decisions count; the user's keyring by default.
        clock: gives the time.

    Returns:
        what the decisions on the run now amount to.

    Raises:
        UsageError: the run may not be decided on in this way, or the key is not trusted.
        IntegrityError: the run does not verify, or the clock was set back.
    """
    ring = Keyring.load() if trusted is None else trusted
    _refuse_codes(decision, reason, expires, accept_risk)
    report = verify_run(folder, ring)
    if report.status == "running":
        raise UsageError(f"{folder}: a process is writing this run now; decide when that has ended")
    _refuse_unsound(folder, report)
    lock = RunLock(folder)
    try:
        run = RunFolder(folder, RunFolder.open(folder).record, clock, lock)
        run.recover()
        _refuse_unsound(folder, inspect_run(folder))
        now = clock()
        _refuse_run(run, decision, accept_risk)
        _refuse_key(key, ring, now)
        _refuse_clock(folder, run, now)
        approval = _approval(key, decision, now, reason, expires, accept_risk)
        before = standing_of(folder, ring, clock)
        _refuse_repetition(before, approval)
        record = record_of_run(folder, run.record, approval)
        payload, results = record_statement(record), test_result_statement(record)
        kept = Attestation.load(folder).with_decision(payload, results, key, decision == "approve")
        run.update(EVENTS[decision], _told(record, payload), files={ATTESTATION: kept.to_bytes()})
    finally:
        lock.release()
    return standing_of(folder, ring, clock)


def preview(
    folder: Path,
    key: SigningKey,
    decision: DecisionWord,
    *,
    reason: str | None = None,
    expires: date | None = None,
    accept_risk: str | None = None,
    clock: Clock = utc_now,
) -> bytes:
    """The statement that `decide` would sign now; whether it may be signed is not asked."""
    _refuse_codes(decision, reason, expires, accept_risk)
    run = RunFolder.open(folder)
    approval = _approval(key, decision, clock(), reason, expires, accept_risk)
    return record_statement(record_of_run(folder, run.record, approval))


def sign_off_findings(folder: Path, trusted: Keyring, clock: Clock = utc_now) -> Iterator[Finding]:
    """Everything that is wrong with the signatures of a run, one finding each."""
    for check in sign_off_checks(folder, trusted, clock):
        yield from check.findings


def sign_off_checks(
    folder: Path, trusted: Keyring, clock: Clock = utc_now, inspected: VerifyReport | None = None
) -> list[Check]:
    """One check for every signature, and one for what they amount to; none where nobody has to sign.

    A key that is not trusted is something wrong only where somebody has said whom to trust. Without any
    approver there is nothing to hold a signature against, so that it is not checked.

    Args:
        folder: the run folder.
        trusted: whose decisions count.
        clock: gives the time.
        inspected: what `inspect_run` found, where the caller has that already.
    """
    found = standing_of(folder, trusted, clock, inspected)
    known = bool(trusted.with_role("approver"))
    checks: list[Check] = []
    for one in found.decisions:
        code = _CODES.get(one.state)
        if one.state == "unknown-key":
            code = "signature-unknown-key" if known else None
        if code is not None:
            checks.append(Check(ATTESTATION, "", (Finding(code, ATTESTATION, str(one)),)))
        elif one.state in ("valid", "superseded"):
            checks.append(Check(ATTESTATION, str(one)))
        else:
            checks.append(Check(ATTESTATION, "", (), (str(one),), False))
    if found.status == "approved":
        checks.append(Check("sign-off", found.line()))
    elif found.status != "none":
        # Nothing is wrong with the run, but a tick would say that it was approved.
        checks.append(Check("sign-off", "", (), (f"not signed off: {found.line()}",), False))
    return checks


def _refuse_codes(
    decision: DecisionWord, reason: str | None, expires: date | None, accept_risk: str | None
) -> None:
    if decision not in EVENTS:
        raise UsageError(f"a decision is one of {', '.join(EVENTS)}")
    if decision == "reject" and reason not in REASONS:
        raise UsageError(f"a rejection needs a reason, one of: {', '.join(REASONS)}")
    if decision != "reject" and reason is not None:
        raise UsageError("a reason goes with a rejection; leave it out")
    if decision != "approve" and (expires is not None or accept_risk is not None):
        raise UsageError("only an approval expires or accepts a risk; leave that out")
    if accept_risk is not None and accept_risk not in RISKS:
        raise UsageError(f"there is no such risk to accept; one of: {', '.join(RISKS)}")


def _refuse_unsound(folder: Path, report: VerifyReport) -> None:
    # The signature of somebody who is not trusted must not keep those who are from deciding.
    passed_over = ("sealing-interrupted", "log-half-line", "signature-unknown-key", "signature-duplicated")
    findings = [found for found in report.findings if found.code not in passed_over]
    if findings and all(found.code == "interrupted" for found in findings):
        raise UsageError(f"{folder}: the run has not come to its end; start it again with the same command")
    if findings:
        more = f" (and {len(findings) - 1} more: safeedit verify)" if len(findings) > 1 else ""
        raise IntegrityError(f"{folder}: the run does not verify, so it is not signed; {findings[0]}{more}")


def _refuse_run(of: RunFolder, decision: DecisionWord, accept_risk: str | None) -> None:
    folder, run = of.path, of.record
    if run.status == "rolled_back":
        raise UsageError(f"{folder}: the run was rolled back, so there is nothing to decide on")
    if run.status != "finished":
        raise UsageError(f"{folder}: the run {run.status}; only one that came to its end can be signed off")
    if decision != "approve":
        return
    if run.verdict == "ERROR":
        raise UsageError(f"{folder}: the run ended in an error and cannot be approved; run it again")
    last = last_measured(run, own_entries(of.log.entries(), run))
    if last.verdict == "ERROR":
        raise UsageError(
            f"{folder}: its last measurement ({str(last.time)[:10]}) ended in an error, so it cannot be "
            "approved; probe it again"
        )
    doubts = [f"the verdict is {run.verdict}"] * (run.verdict != "PASS")
    if last.entry is not None and last.verdict != "PASS":
        doubts.append(f"the last measurement ({str(last.time)[:10]}) came to {last.verdict}")
    if not is_evidence(results_of(folder, run)):
        doubts.append("its suite is no evidence")
    if doubts and accept_risk is None:
        raise UsageError(
            f"{folder}: {' and '.join(doubts)}; it can be rejected, or approved with --accept-risk and one "
            f"of: {', '.join(RISKS)}"
        )
    if not doubts and accept_risk is not None:
        raise UsageError(f"{folder}: every required gate passed, so there is no risk to accept; leave it out")


def _refuse_key(key: SigningKey, ring: Keyring, now: datetime) -> None:
    known = ring.find(key.public.key_id)
    if known is None or "approver" not in known.roles:
        raise UsageError(
            f"the key {key.public.key_id} is not trusted as an approver here; whoever answers for this "
            "workspace does that with: safeedit keys trust NAME FILE.pub --role approver"
        )
    if not known.counts_at(now):
        raise UsageError(f"the key {key.public.key_id} was revoked from {known.revoked} on; make a new one")
    # A key file could hold a public half that is not its own.
    if not known.key.verify(key.sign(pae("probe", b"")), pae("probe", b"")):
        raise IntegrityError("the key does not make signatures that its public half verifies")


def _refuse_clock(folder: Path, run: RunFolder, now: datetime) -> None:
    entries = run.log.entries()
    last = entries[-1].time if entries else None
    if last is not None and iso_time(now + _PATIENCE) < last:
        raise IntegrityError(
            f"{folder}: this machine's clock is behind the run's log, which ends at {last}; set it first"
        )


def _approval(
    key: SigningKey,
    decision: DecisionWord,
    now: datetime,
    reason: str | None,
    expires: date | None,
    accept_risk: str | None,
) -> Approval:
    if expires is not None and expires <= now.astimezone(UTC).date():
        raise UsageError(f"an approval that expires on {expires} never counts; give a later day")
    try:
        return Approval.model_validate(
            {
                "decision": decision,
                "key": key.public.key_id,
                "at": iso_time(now),
                "expires": expires.isoformat() if expires else None,
                "reason": reason,
                "accepted_risk": accept_risk,
            }
        )
    except ValidationError:
        raise UsageError("the decision does not fit together") from None


def _refuse_repetition(before: SignOff, approval: Approval) -> None:
    mine = [one for one in before.decisions if one.key_id == approval.key and one.state == "valid"]
    last: Decision | None = mine[-1] if mine else None
    if approval.decision == "withdraw":
        if last is None or last.decision == "withdraw":
            raise UsageError("this key has decided nothing that counts, so there is nothing to withdraw")
        return
    same = (approval.decision, approval.expires, approval.reason, approval.accepted_risk)
    if last is not None and same == (last.decision, last.expires, last.reason, last.accepted_risk):
        raise UsageError("this key has decided just that already, and counts once; nothing was added")


def _told(record: Record, payload: bytes) -> dict[str, object]:
    """What the log says of a decision."""
    approval = record.approval
    return {
        "key": approval.key,
        "statement": hashlib.sha256(payload).hexdigest(),
        "needed": record.approvers_needed,
        "verdict": record.verdict,
        "grade": record.grade,
        "expires": approval.expires,
        "reason": approval.reason,
        "accepted_risk": approval.accepted_risk,
    }
