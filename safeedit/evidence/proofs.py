"""A proof that a run's log is in a signed ledger, for somebody who has neither the ledger nor the runs.

It holds the ledger's last entry about the run, the Merkle path from it to a checkpoint, and that
checkpoint with its signature: a few hundred bytes that say nothing about any other run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from safeedit.errors import IntegrityError, UsageError
from safeedit.evidence.checkpoints import Kept, parse_kept, read_checkpoints
from safeedit.evidence.keyring import Keyring
from safeedit.evidence.ledger import HEAD, LENGTH, RUN, Ledger, workspace_of
from safeedit.evidence.merkle import leaf_hash, verify_inclusion
from safeedit.runs.chain import read_line
from safeedit.runs.folder import RunFolder


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    format: str = Field("safeedit.proof/1", pattern="^safeedit\\.proof/1$")
    entry: str
    index: int = Field(ge=0)
    path: list[str]
    checkpoint: dict[str, Any]


@dataclass(frozen=True)
class Proved:
    """What a proof shows."""

    run: str
    log_length: int
    log_head: str
    time: str
    """When the ledger was told."""
    signed: str
    """When the checkpoint was signed, by its own account."""
    keys: tuple[str, ...]
    """The trusted keys that signed it."""


def prove(run: Path) -> dict[str, Any]:
    """The proof for a run, as JSON values.

    Raises:
        UsageError: there is no ledger around the run that tells of it, or no checkpoint since.
        IntegrityError: the ledger cannot be read.
    """
    folder = RunFolder.open(run)
    workspace = workspace_of(run)
    ledger = Ledger.of(workspace)
    pointers = [entry for entry in ledger.entries() if entry.data.get(RUN) == folder.record.uuid]
    if not pointers:
        raise UsageError(f"{run}: no ledger around it tells of this run")
    last = pointers[-1]
    signed = [
        one for one in read_checkpoints(workspace) if isinstance(one, Kept) and one.checkpoint.size > last.seq
    ]
    if not signed:
        raise UsageError(
            f"{run}: no checkpoint was signed since its last entry; safeedit ledger checkpoint --key FILE"
        )
    first = signed[0]
    path = ledger.inclusion(last.seq, first.checkpoint.size)
    found = _File(entry=last.line().decode(), index=last.seq, path=path, checkpoint=first.to_json())
    return found.model_dump(mode="json")


def check_proof(content: bytes, trusted: Keyring, run: Path | None = None) -> Proved:
    """What a proof shows; needs neither ledger nor run.

    Args:
        content: the proof's bytes.
        trusted: whose signatures count.
        run: a run folder that the proof shall be about, where it is here.

    Raises:
        IntegrityError: it shows nothing: which step fails is said.
    """
    try:
        proof = _File.model_validate_json(content)
    except ValidationError:
        raise IntegrityError("the file is no proof that `safeedit ledger prove` wrote") from None
    line = read_line(proof.entry.encode(), 1)
    if line.entry is None or not line.sound:
        raise IntegrityError("the proof's entry was edited: its hash does not fit")
    kept = parse_kept(json.dumps(proof.checkpoint).encode(), 1, "the proof's checkpoint")
    if not verify_inclusion(leaf_hash(line.content), proof.index, kept.checkpoint.tree_head, proof.path):
        raise IntegrityError("the entry is not in the ledger that the checkpoint signs")
    signers = kept.envelope.verified_by(one.key for one in trusted.keys)
    if not signers:
        raise IntegrityError("the checkpoint is signed by no key that is trusted here: safeedit keys trust")
    data = line.entry.data
    if not isinstance(data.get(LENGTH), int) or not isinstance(data.get(HEAD), str):
        raise IntegrityError("the proof's entry is not about a run")
    if run is not None:
        _compare(run, data)
    about = (str(data.get(RUN)), data[LENGTH], data[HEAD], line.entry.time)
    return Proved(*about, kept.checkpoint.time, tuple(sorted(signers)))


def _compare(run: Path, data: dict[str, Any]) -> None:
    folder = RunFolder.open(run)
    if data.get(RUN) != folder.record.uuid:
        raise IntegrityError(f"{run}: the proof is about another run")
    heads = {entry.seq: entry.hash for entry in folder.log.entries()}
    if heads.get(data[LENGTH] - 1) != data[HEAD]:
        raise IntegrityError(f"{run}: its log is not the one that the proof is about")
