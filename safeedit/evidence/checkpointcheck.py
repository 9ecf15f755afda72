"""Whether a ledger still is what its checkpoints signed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from safeedit.errors import IntegrityError
from safeedit.evidence.checkpoints import CHECKPOINTS, STATEMENT, Kept, read_checkpoints, stamped_bytes
from safeedit.evidence.keyring import Keyring
from safeedit.evidence.merkle import MerkleTree
from safeedit.evidence.pointers import LedgerView
from safeedit.evidence.timestamps import Authorities, check_stamp, stamp_time
from safeedit.runs.chain import CLOCK_TOLERANCE_S
from safeedit.runs.checks import Check
from safeedit.runs.findings import Finding

_SIGNED = "checkpoint.signed"


def check_checkpoints(
    workspace: Path,
    ledger: LedgerView,
    trusted: Keyring,
    prefix: str = "",
    authorities: Authorities | None = None,
) -> list[Check]:
    """A check of every checkpoint of a workspace, and one of what the ledger tells of them.

    Args:
        workspace: the folder that holds the run folders.
        ledger: its ledger.
        trusted: whose signatures count; with an empty keyring none is checked, and a note says so.
        prefix: what comes before a file's name in findings.
        authorities: whose timestamps count; those of the user's state folder by default.
    """
    file = f"{prefix}{CHECKPOINTS}"
    tree = MerkleTree()
    tree.extend(line.content for line in ledger.lines if line.sound)
    checks: list[Check] = []
    kept: list[Kept] = []
    for one in read_checkpoints(workspace):
        if isinstance(one, IntegrityError):
            checks.append(Check(file, "", (Finding("checkpoint-unreadable", file, str(one)),)))
            continue
        findings = [*_order(one, kept, file), *_signature(one, trusted, file)]
        if not ledger.check.findings:
            findings += _rewritten(one, ledger, tree, file)
        said = f"line {one.line}: {one.checkpoint.size} entries, signed at {one.checkpoint.time}"
        known = bool(one.envelope.verified_by(each.key for each in trusted.keys))
        note = f"{file}: line {one.line} is signed by keys that are not trusted here: safeedit keys trust"
        checks.append(Check(file, said, tuple(findings), () if known or findings else (note,), known))
        if one.stamp is not None:
            checks += _stamp(one, one.stamp, file, authorities)
        kept.append(one)
    there = {one.digest for one in kept}
    gone = [
        Finding("checkpoint-missing", file, f"does not hold the checkpoint that entry {entry.seq} tells of")
        for entry in ledger.entries
        if entry.event == _SIGNED and entry.data.get(STATEMENT) not in there
    ]
    if gone:
        checks.append(Check(file, "", tuple(gone)))
    return checks


def _stamp(one: Kept, token: bytes, file: str, authorities: Authorities | None) -> list[Check]:
    data = stamped_bytes(one.envelope)
    check = check_stamp(token, data, file, one.line, authorities)
    if check.outcome != "ok":
        return [check]
    stamped, signed = stamp_time(token, data), _moment(one.checkpoint.time)
    if stamped and signed and abs((stamped - signed).total_seconds()) > 2 * CLOCK_TOLERANCE_S:
        message = (
            f"line {one.line} was signed at {one.checkpoint.time} by its own account, and stamped at "
            f"{stamped.isoformat()}: the clock of the machine was wrong, or was set"
        )
        return [check, Check(check.what, "", (Finding("clock-back", file, message),))]
    return [check]


def _order(one: Kept, before: list[Kept], file: str) -> Iterator[Finding]:
    last = before[-1] if before else None
    if one.checkpoint.previous != (last.digest if last else None):
        message = f"line {one.line} does not continue the checkpoint before it: one was taken away or moved"
        yield Finding("checkpoint-order", file, message)
    elif last is not None and one.checkpoint.size < last.checkpoint.size:
        message = f"line {one.line} is over fewer entries than the checkpoint before it"
        yield Finding("checkpoint-order", file, message)


def _rewritten(one: Kept, ledger: LedgerView, tree: MerkleTree, file: str) -> Iterator[Finding]:
    signed = one.checkpoint
    if signed.ledger != ledger.uuid:
        yield Finding("checkpoint-rewritten", ledger.file, f"is not the ledger that {file} is about")
    elif signed.size > len(tree):
        message = (
            f"has {len(tree)} entries, but line {one.line} of {file} signs {signed.size}: its end is gone"
        )
        yield Finding("log-truncated", ledger.file, message)
    elif tree.head(signed.size).root != signed.root or ledger.entries[signed.size - 1].hash != signed.head:
        message = (
            f"its first {signed.size} entries are not those that line {one.line} of {file} signs: it was "
            "written anew"
        )
        yield Finding("checkpoint-rewritten", ledger.file, message)


def _signature(one: Kept, trusted: Keyring, file: str) -> Iterator[Finding]:
    """Nothing where a trusted key signed it, or where nobody said whom to trust."""
    if not trusted.keys:
        return
    signers = one.envelope.verified_by(each.key for each in trusted.keys)
    if not signers:
        stated = {key_id for key_id, _ in one.envelope.signatures}
        known = stated & {each.key.key_id for each in trusted.keys}
        why = "is not the signature of the key that it names" if known else "is signed by no trusted key"
        yield Finding("checkpoint-signature", file, f"line {one.line} {why}")
        return
    moment = _moment(one.checkpoint.time)
    if moment is None:
        yield Finding("checkpoint-unreadable", file, f"line {one.line} has no time that can be read")
        return
    if not any((key := trusted.find(key_id)) and key.counts_at(moment) for key_id in signers):
        yield Finding("checkpoint-signature", file, f"line {one.line} is signed by a key that was revoked")


def _moment(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else None
