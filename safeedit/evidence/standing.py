"""What the decisions on a run are worth now: each signature held against the run as it is.

A decision counts only if its signature is that of a trusted approver, it is about this very run in the state
in which it was sealed, the run's log tells of it in the very place that it names, and it has not expired.
Where one is broken, or the log tells of one that is not there, all are void: it may have been a rejection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from safeedit.errors import IntegrityError, SafeEditError
from safeedit.evidence.attestation import ATTESTATION, Attestation, statement_digest
from safeedit.evidence.dsse import Envelope
from safeedit.evidence.keyring import Keyring
from safeedit.evidence.measured import last_measured
from safeedit.evidence.predicates import DecisionWord, Record
from safeedit.evidence.statements import (
    approvers_needed,
    bound_files,
    is_evidence,
    own_entries,
    read_record,
    results_of,
    test_result_statement,
)
from safeedit.runs.audit import Clock, utc_now
from safeedit.runs.chain import Entry
from safeedit.runs.manifest import LOG
from safeedit.runs.record import RunRecord
from safeedit.runs.seal import sound_entries
from safeedit.runs.verify import VerifyReport, inspect_run

Standing = Literal["none", "pending", "approved", "rejected", "expired", "void"]
State = Literal[
    "valid",
    "superseded",
    "expired",
    "revoked",
    "lapsed",
    "unknown-key",
    "wrong-signature",
    "replayed",
    "void",
    "unreadable",
    "duplicated",
    "missing",
]
EVENTS: dict[DecisionWord, Literal["sign_off.given", "sign_off.refused", "sign_off.withdrawn"]] = {
    "approve": "sign_off.given",
    "reject": "sign_off.refused",
    "withdraw": "sign_off.withdrawn",
}
_GENUINE: frozenset[State] = frozenset({"valid", "superseded", "expired", "revoked", "lapsed", "unknown-key"})
_BROKEN: frozenset[State] = frozenset({"wrong-signature", "replayed", "void", "unreadable", "missing"})
"""What makes everything void: a rejection could be made to look like this."""
_SLACK = timedelta(minutes=1)
_UNFINISHED = frozenset({"running", "interrupted", "sealing-interrupted", "log-half-line", "file-leftover"})
"""Findings that a later command clears up; nothing that was signed has changed by them."""


@dataclass(frozen=True)
class Decision:
    """One decision in `attestation.json`, and what it is worth."""

    state: State
    why: str
    """One line for a person."""
    statement: str | None = None
    """SHA-256 of its statement."""
    key_id: str | None = None
    """The key that it says decided; verified unless the state says otherwise."""
    decision: DecisionWord | None = None
    at: str | None = None
    expires: str | None = None
    reason: str | None = None
    accepted_risk: str | None = None
    entry: int | None = None
    """The entry of the run's log that tells of it, by what the statement says."""

    def __str__(self) -> str:
        who = f"{self.key_id}: {self.decision}" if self.key_id else "a statement"
        return f"{who}{f' at {self.at}' if self.at else ''}: {self.state.replace('-', ' ')}, {self.why}"


@dataclass(frozen=True)
class SignOff:
    """Whether a run counts as signed off, and every decision on it."""

    status: Standing
    needed: int
    """How many distinct keys the policy asks for."""
    decisions: tuple[Decision, ...] = ()

    @property
    def approvals(self) -> int:
        """How many distinct keys approve now."""
        return sum(one.state == "valid" and one.decision == "approve" for one in self.decisions)

    @property
    def accepted_risks(self) -> tuple[str, ...]:
        """The codes of the risks that approvals which count have accepted."""
        found = (one.accepted_risk for one in self.decisions if one.state == "valid")
        return tuple(sorted({code for code in found if code}))

    def approved_since(self, entry: int) -> bool:
        """Whether enough keys have approved after an entry of the run's log."""
        approvals = [one for one in self.decisions if one.state == "valid" and one.decision == "approve"]
        later = sum(one.entry is not None and one.entry > entry for one in approvals)
        return self.status == "approved" and later >= max(1, self.needed)

    def line(self) -> str:
        """Where it stands, in one line."""
        if self.status == "none":
            return "the policy asks for nobody's signature"
        count = f"{self.approvals} of {max(1, self.needed)} approvals"
        risks = f", accepting: {', '.join(self.accepted_risks)}" if self.accepted_risks else ""
        return f"{self.status}, {count}{risks}"

    def to_json(self) -> dict[str, object]:
        """As JSON values: codes, digests and times."""
        decisions = [one.__dict__ for one in self.decisions]
        return {
            "sign_off": self.status,
            "needed": self.needed,
            "approvals": self.approvals,
            "accepted_risks": list(self.accepted_risks),
            "decisions": decisions,
        }


def standing_of(
    folder: Path, trusted: Keyring, clock: Clock = utc_now, inspected: VerifyReport | None = None
) -> SignOff:
    """What the decisions on the run in `folder` amount to; reads only.

    Args:
        folder: the run folder.
        trusted: whose decisions count.
        clock: gives the time; where it is behind the run's log, the log's time counts, so that an expired
            approval does not come back to life on a machine whose clock was set back.
        inspected: what `inspect_run` found, where the caller has that already.

    Raises:
        UsageError: there is no run.
        IntegrityError: its record cannot be read.
    """
    report = inspect_run(folder) if inspected is None else inspected
    if report.record is None:
        raise IntegrityError(f"{folder}: run.json is not the one that the log tells of; safeedit verify")
    unsound = [found for found in report.findings if found.code not in _UNFINISHED]
    entries = own_entries(sound_entries((folder / LOG).read_bytes()), report.record)
    needed = approvers_needed(entries)
    try:
        kept = Attestation.load(folder)
    except IntegrityError as error:
        return SignOff("void", needed, (Decision("unreadable", str(error)),))
    now = max([clock(), *(_moment(entry.time) for entry in entries)])
    wrong = str(unsound[0]) if unsound else None
    check = _Check(report.record, entries, trusted, now, wrong, _on_evidence(folder, report.record))
    decisions = _unique([check.examine(envelope) for envelope in kept.decisions])
    decisions += _missing(entries, decisions)
    decisions = _last_of_each_key(decisions)
    problem = _results_problem(kept, decisions, trusted)
    if problem is not None:
        decisions.append(Decision("unreadable", problem))
    return SignOff(_status(decisions, needed), needed, tuple(decisions))


@dataclass(frozen=True)
class _Check:
    """The run that decisions are held against."""

    run: RunRecord
    entries: Sequence[Entry]
    trusted: Keyring
    now: datetime
    unsound: str | None
    evidence: bool
    """Whether the run's suite is evidence for a grade."""

    def examine(self, envelope: Envelope) -> Decision:
        digest = statement_digest(envelope)
        try:
            record = read_record(envelope.payload, f"statement {digest[:12]}")
        except IntegrityError as error:
            return Decision("unreadable", str(error), digest)
        approval = record.approval
        draft = Decision(
            "valid",
            "",
            digest,
            approval.key,
            approval.decision,
            approval.at,
            approval.expires,
            approval.reason,
            approval.accepted_risk,
            record.evidence.log.length,
        )
        state, why = self._judge(envelope, record, digest)
        return replace(draft, state=state, why=why)

    def _judge(self, envelope: Envelope, record: Record, digest: str) -> tuple[State, str]:
        approval = record.approval
        known = self.trusted.find(approval.key)
        if known is not None and approval.key not in envelope.verified_by([known.key]):
            return "wrong-signature", "the signature is not that of the key which the statement names"
        if record.case.run != self.run.uuid:
            return "replayed", "it is about another run"
        wrong = self.unsound or self._differs(record, digest)
        if wrong is not None:
            return "void", wrong
        if self.run.status != "finished":
            return "lapsed", "the run was rolled back since"
        if known is None:
            return "unknown-key", "the key is not trusted here: safeedit keys trust"
        if "approver" not in known.roles:
            return "unknown-key", "the key is not trusted as an approver: safeedit keys trust --role approver"
        if not known.counts_at(_moment(approval.at)):
            return "revoked", f"its key was revoked from {known.revoked} on"
        if approval.expires is not None and self.now.astimezone(UTC).date().isoformat() >= approval.expires:
            return "expired", f"it counted until {approval.expires}"
        return "valid", f"over the run as of log entry {record.evidence.log.length - 1}"

    def _differs(self, record: Record, digest: str) -> str | None:
        """What of the run is not as the statement has it."""
        run, log = self.run, record.evidence.log
        by_seq = {entry.seq: entry for entry in self.entries}
        before, told = by_seq.get(log.length - 1), by_seq.get(log.length)
        if before is None or before.hash != log.head:
            return "the run's log is not the one that was signed"
        approval = record.approval
        if (
            told is None
            or told.event != EVENTS[approval.decision]
            or (told.data.get("statement"), told.data.get("key")) != (digest, approval.key)
        ):
            return "the run's log does not tell of it in the place that it names"
        if abs(_moment(told.time) - _moment(approval.at)) > _SLACK:
            return "its time is not the one at which the log tells of it"
        if _result(record.evidence.files, run) != _result(bound_files(run), run):
            return "files of the run's result are not those that were signed"
        models = record.models
        signed = (models.base, models.edited, models.patch, record.verdict, record.grade, record.case.id)
        there = (
            run.digests.get("base_model"),
            run.digests.get("edited_model"),
            run.digests.get("patch"),
            run.verdict,
            run.grade or "G0",
            run.id,
        )
        if signed != there:
            return "the run's result is not the one that was signed"
        if record.approvers_needed != approvers_needed(list(self.entries)):
            return "it was signed under another number of approvers"
        return self._lacks(record)

    def _lacks(self, record: Record) -> str | None:
        """What keeps a decision from counting that lies in what was measured."""
        before = [entry for entry in self.entries if entry.seq < record.evidence.log.length]
        last, told, approval = last_measured(self.run, before), record.measured, record.approval
        if told is not None and (told.at, told.verdict, told.suite_is_evidence) != (
            last.time,
            last.verdict,
            self.evidence,
        ):
            return "the last measurement is not the one that was signed"
        if approval.decision != "approve":
            return None
        if record.verdict == "ERROR":
            return "a run that ended in an error cannot be approved"
        if last.verdict == "ERROR":
            return "a run whose last measurement ended in an error cannot be approved"
        if approval.accepted_risk is None:
            if record.verdict != "PASS":
                return "it approves a run that did not pass, without naming the risk"
            if last.verdict != "PASS":
                return "it approves a run that did not pass when measured last, without naming the risk"
            if told is not None and not told.suite_is_evidence:
                return "it approves a run whose suite is no evidence, without naming the risk"
        elif told is None and record.verdict == "PASS" and last.verdict != "PASS":
            return "it does not tell of the last measurement, which did not pass"
        return None


def _result(files: Mapping[str, str], run: RunRecord) -> dict[str, str]:
    """The files to compare: a rollback puts the base model's weights in the place of a saved checkpoint's."""
    rolled_back = run.status == "rolled_back"
    return {name: digest for name, digest in files.items() if not (rolled_back and name.startswith("model/"))}


def _on_evidence(folder: Path, record: RunRecord) -> bool:
    try:
        return is_evidence(results_of(folder, record))
    except SafeEditError:
        return False


def _unique(decisions: Sequence[Decision]) -> list[Decision]:
    seen: set[str | None] = set()
    found: list[Decision] = []
    for one in decisions:
        again = one.statement in seen
        found.append(replace(one, state="duplicated", why="it stands there already") if again else one)
        seen.add(one.statement)
    return found


def _missing(entries: Sequence[Entry], decisions: Sequence[Decision]) -> list[Decision]:
    there = {one.statement for one in decisions}
    return [
        Decision(
            "missing",
            f"the log tells of it in entry {entry.seq}, and {ATTESTATION} does not hold it",
            str(entry.data.get("statement")),
            str(entry.data.get("key")),
            next(word for word, event in EVENTS.items() if event == entry.event),
            entry.time,
            entry=entry.seq,
        )
        for entry in entries
        if entry.event in EVENTS.values() and entry.data.get("statement") not in there
    ]


def _results_problem(kept: Attestation, decisions: Sequence[Decision], trusted: Keyring) -> str | None:
    """What is wrong with the test-result statement, where nothing is with the decisions.

    It must say what the decision of each who signed it says, and be signed by those alone who approve:
    generic tools count just that.
    """
    if kept.results is None or not all(one.state in _GENUINE for one in decisions):
        return None
    records = {statement_digest(one): read_record(one.payload, ATTESTATION) for one in kept.decisions}
    results = {digest: test_result_statement(record) for digest, record in records.items()}
    if kept.results.payload not in results.values():
        return "the test-result statement does not say what the decisions say"
    final = {one.key_id: one for one in decisions if one.state != "superseded"}
    for key_id, signature in kept.results.signatures:
        own = final.get(key_id)
        if own is None or own.decision != "approve":
            return "the test-result statement has the signature of a key that does not approve"
        if results.get(own.statement or "") != kept.results.payload:
            return "the test-result statement does not say what the decision of a key that signed it says"
        known = trusted.find(key_id)
        one = Envelope(kept.results.payload, kept.results.payload_type, ((key_id, signature),))
        if known is not None and not one.verified_by([known.key]):
            return "a signature on the test-result statement is not that of the key which it names"
    return None


def _last_of_each_key(decisions: Sequence[Decision]) -> list[Decision]:
    """Of the decisions of one key only the last counts; those before it were replaced by it."""
    decisions = sorted(decisions, key=lambda one: -1 if one.entry is None else one.entry)
    final = {one.key_id: index for index, one in enumerate(decisions) if one.state in ("valid", "expired")}
    return [
        replace(one, state="superseded", why="the same key decided again later")
        if one.state in ("valid", "expired") and final[one.key_id] != index
        else one
        for index, one in enumerate(decisions)
    ]


def _status(decisions: Sequence[Decision], needed: int) -> Standing:
    states = [one.state for one in decisions]
    if _BROKEN & {*states}:
        return "void"
    if any(one.state == "valid" and one.decision == "reject" for one in decisions):
        return "rejected"
    quorum = max(1, needed)
    approvals = [one for one in decisions if one.decision == "approve"]
    valid = sum(one.state == "valid" for one in approvals)
    if valid >= quorum:
        return "approved"
    if "lapsed" in states:
        return "void"
    if valid + sum(one.state == "expired" for one in approvals) >= quorum:
        return "expired"
    return "pending" if needed or decisions else "none"


def _moment(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise IntegrityError(f"{LOG}: a time is none") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
