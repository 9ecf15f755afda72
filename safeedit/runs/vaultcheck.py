"""Whether a run's vault is what the log says of it: readable with the run's key, or shredded for good."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safeedit.errors import IntegrityError, SafeEditError
from safeedit.runs.audit import Event
from safeedit.runs.chain import Entry
from safeedit.runs.checks import Check
from safeedit.runs.findings import Finding
from safeedit.runs.keys import RunKey
from safeedit.runs.record import RunRecord
from safeedit.runs.vault import FOLDER, Vault

SHREDDED: Event = "vault.shredded"
KEY = "key"
"""Where the log holds the commitment to the key: at the run's start, and when it was destroyed."""


def check_vault(folder: Path, record: RunRecord, entries: Sequence[Entry]) -> Check:
    """Open every entry where the key is here; where the log says that it was destroyed, none may open."""
    vault = Vault.open(folder, record.uuid)
    names = vault.names()
    starts = [entry for entry in entries if entry.data.get("uuid") == record.uuid]
    own = [entry for entry in entries if not starts or entry.seq >= starts[0].seq]
    destroyed = next((entry for entry in own if entry.event == SHREDDED), None)
    count = f"{len(names)} entries"
    if destroyed is not None:
        if RunKey.exists(record.uuid):
            message = f"entry {destroyed.seq} of the log says that the key was destroyed, but it is here"
            return Check(FOLDER, "", (Finding("vault-not-shredded", FOLDER, message),))
        said = f"shredded at {destroyed.time} (log entry {destroyed.seq}): {count} that nobody can open"
        return Check(FOLDER, said)
    if not RunKey.exists(record.uuid):
        note = f"the vault's key is not on this machine: that its {count} can be opened was not checked"
        return Check(FOLDER, "", notes=(note,), checked=False)
    findings = []
    told = starts[0].data.get(KEY) if starts else None
    try:
        wrong = told is not None and RunKey.load(record.uuid).commitment != told
    except IntegrityError:
        wrong = True
    if wrong:
        message = "the key on this machine is not the one that the run was begun with"
        return Check(FOLDER, "", (Finding("vault-wrong-key", FOLDER, message),))
    for name in names:
        try:
            vault.get_bytes(name)
        except SafeEditError:
            message = "cannot be opened with the run's key: it was changed, or belongs to another run"
            findings.append(Finding("vault-unreadable", f"{FOLDER}/{name}.bin", message))
    return Check(FOLDER, f"{count}, all of which the run's key opens", tuple(findings))
