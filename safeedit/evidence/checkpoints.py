"""Signed heads of a workspace's ledger: `checkpoints.jsonl`, one DSSE envelope a line.

A chain shows every change but that of its end, and but that of everything at once. A checkpoint ends
that: it signs the Merkle root over the first `size` entries, and names the checkpoint before it. Who
keeps a copy of one elsewhere can tell for good that nothing before it was changed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from safeedit.canonical import canonical_json
from safeedit.errors import IntegrityError, UsageError
from safeedit.evidence.dsse import Envelope, sign, strict_json
from safeedit.evidence.ledger import Ledger
from safeedit.evidence.merkle import TreeHead
from safeedit.evidence.signing import SigningKey
from safeedit.runs.chainfile import Clock, iso_time, utc_now, write_whole
from safeedit.tensors.atomic import flush_folder

if TYPE_CHECKING:
    from safeedit.evidence.timestamps import Stamper

CHECKPOINTS = "checkpoints.jsonl"
PAYLOAD_TYPE = "application/vnd.safeedit.checkpoint+json"
STATEMENT = "statement"
"""Where a ledger's entry holds the digest of the checkpoint that it tells of."""

_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Checkpoint(BaseModel):
    """What is signed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    format: Literal["safeedit.checkpoint/1"] = "safeedit.checkpoint/1"
    ledger: str = Field(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
    """The ledger's own id."""
    size: int = Field(ge=1)
    root: _Digest
    """The Merkle root over the first `size` entries."""
    head: _Digest
    """The hash of the last of them."""
    time: str
    previous: _Digest | None
    """SHA-256 of the line of the checkpoint before this one."""

    def to_bytes(self) -> bytes:
        """The payload of the envelope."""
        return canonical_json(self.model_dump(mode="json"))

    @property
    def tree_head(self) -> TreeHead:
        """Size and root, as proofs want them."""
        return TreeHead(self.size, self.root)


@dataclass(frozen=True)
class Kept:
    """A checkpoint as it stands in the file."""

    line: int
    """Counted from 1."""
    checkpoint: Checkpoint
    envelope: Envelope
    stamp: bytes | None
    """The token of a timestamping authority (RFC 3161), over the envelope."""

    @property
    def digest(self) -> str:
        """What names it: SHA-256 of the whole line, its signatures and its timestamp with it."""
        return hashlib.sha256(canonical_json(self.to_json())).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """The line as JSON values."""
        return line_json(self.envelope, self.stamp)


def stamped_bytes(envelope: Envelope) -> bytes:
    """What a timestamp is over: payload and signatures, so that it also shows when they were made."""
    return canonical_json(envelope.to_json())


def line_json(envelope: Envelope, stamp: bytes | None) -> dict[str, Any]:
    """A line of the file as JSON values."""
    return {"envelope": envelope.to_json(), "timestamp": stamp.hex() if stamp is not None else None}


def parse_kept(text: bytes, line: int, where: str) -> Kept:
    """The checkpoint in a line; its signature is not checked.

    Raises:
        IntegrityError: it is none.
    """
    value = strict_json(text, where)
    if not isinstance(value, dict) or value.keys() != {"envelope", "timestamp"}:
        raise IntegrityError(f"{where} is no checkpoint: it has an envelope and a timestamp")
    envelope = Envelope.from_json(value["envelope"], where)
    token = value["timestamp"]
    try:
        checkpoint = Checkpoint.model_validate_json(envelope.payload)
        stamp = bytes.fromhex(token) if token is not None else None
    except (ValidationError, TypeError, ValueError):
        raise IntegrityError(f"{where} is no checkpoint of a ledger") from None
    if envelope.payload_type != PAYLOAD_TYPE or checkpoint.to_bytes() != envelope.payload:
        raise IntegrityError(f"{where} is no checkpoint in its canonical form")
    return Kept(line, checkpoint, envelope, stamp)


def read_checkpoints(workspace: Path) -> list[Kept | IntegrityError]:
    """Every checkpoint, in the order of the file; what is none as the error that says so.

    What a kill left of a half-written line is passed over: it was never a checkpoint.
    """
    path = workspace / CHECKPOINTS
    if not path.is_file():
        return []
    found: list[Kept | IntegrityError] = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if line and not _torn(line):
            try:
                kept = parse_kept(line, number, f"line {number}")
                if canonical_json(kept.to_json()) != line:
                    raise IntegrityError(f"line {number} is not in its canonical form")
                found.append(kept)
            except IntegrityError as error:
                found.append(error)
    return found


def checkpoint(
    workspace: Path, keys: Sequence[SigningKey], stamper: Stamper | None = None, clock: Clock = utc_now
) -> Kept:
    """Sign the head of the workspace's ledger as it is now; the ledger tells of it afterwards.

    Args:
        workspace: the folder that holds the run folders.
        keys: who signs; one at least.
        stamper: a timestamping authority that is asked for a token; none by default.
        clock: gives the time.

    Raises:
        UsageError: there is no ledger.
        IntegrityError: the ledger or an earlier checkpoint does not verify, so nothing is signed.
    """
    ledger = Ledger.of(workspace, clock)
    if not ledger.exists:
        raise UsageError(f"{workspace} has no ledger; give the folder that runs were written to")
    with _locked(workspace):
        earlier = _sound_workspace(workspace)
        entries = ledger.entries()
        head = ledger.head()
        statement = Checkpoint(
            ledger=str(ledger.uuid),
            size=head.size,
            root=head.root,
            head=entries[head.size - 1].hash,
            time=iso_time(clock()),
            previous=earlier[-1].digest if earlier else None,
        )
        envelope = sign(statement.to_bytes(), PAYLOAD_TYPE, keys)
        stamp = stamper(stamped_bytes(envelope)) if stamper is not None else None
        line = _append_line(workspace / CHECKPOINTS, canonical_json(line_json(envelope, stamp)))
        # In this order a kill leaves a checkpoint of which nobody tells, and never the reverse.
        made = Kept(line, statement, envelope, stamp)
        about: dict[str, Any] = {"size": head.size, "root": head.root, STATEMENT: made.digest}
        about |= {"stamped": stamp is not None, "keys": [key.public.key_id for key in keys]}
        ledger.append("checkpoint.signed", **about)
    return made


def _sound_workspace(workspace: Path) -> list[Kept]:
    from safeedit.evidence.checkpointcheck import check_checkpoints
    from safeedit.evidence.keyring import Keyring
    from safeedit.evidence.pointers import view_ledger

    view = view_ledger(workspace)
    checks = [view.check, *check_checkpoints(workspace, view, Keyring())] if view else []
    findings = [found for check in checks for found in check.findings]
    if findings:
        raise IntegrityError(f"{workspace}: the ledger does not verify, so it is not signed; {findings[0]}")
    return [one for one in read_checkpoints(workspace) if isinstance(one, Kept)]


@contextmanager
def _locked(workspace: Path) -> Iterator[None]:
    """One signer at a time; the folder is locked, since the file may not be there yet."""
    handle = os.open(workspace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _append_line(path: Path, content: bytes) -> int:
    """Write one more line, on the disk when this returns; its number. On any error the file is as it was."""
    new = not path.exists()
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        size = os.fstat(handle).st_size
        before = os.pread(handle, size, 0)
        data = (b"\n" if before and not before.endswith(b"\n") else b"") + content + b"\n"
        try:
            write_whole(handle, data)
            os.fsync(handle)
        except BaseException:
            os.ftruncate(handle, size)
            if new:
                path.unlink()
            raise
    finally:
        os.close(handle)
    flush_folder(path.parent)
    return (before + data).count(b"\n")


def _torn(line: bytes) -> bool:
    try:
        strict_json(line, "")
    except IntegrityError:
        return True
    return False
