"""Destroying what a run holds of a request, with a proof that stays: the key goes, the evidence does not.

The proof is an entry of the run's log: the commitment to the key that was destroyed, which the run's
first entry holds too, and that no entry of the vault could be opened afterwards. What lies outside
of this machine's state folder cannot be reached from here, and is named (`Shredded.copies`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from safeedit.errors import IntegrityError, SafeEditError, UsageError
from safeedit.evidence import blind
from safeedit.evidence.relatives import relatives_of
from safeedit.runs.audit import Clock, utc_now
from safeedit.runs.chain import Entry
from safeedit.runs.folder import RunFolder
from safeedit.runs.guard import plainly
from safeedit.runs.keys import RunKey, key_path
from safeedit.runs.lock import RunLock
from safeedit.runs.record import FINAL, RunRecord
from safeedit.runs.vaultcheck import KEY, SHREDDED
from safeedit.runs.verify import inspect_run

_PASSED_OVER = frozenset({"interrupted", "log-half-line", "sealing-interrupted", "file-leftover"})


@dataclass(frozen=True)
class Shredded:
    """What was destroyed, and what could not be."""

    record: RunRecord
    key: str | None
    """The commitment to the key."""
    key_was_here: bool
    entries: int
    """How many entries of the vault nobody can open any more."""
    matcher: bool
    """Whether a blind matcher was kept."""
    copies: tuple[str, ...]
    """Where more may be, one line each."""


def shred(path: str | os.PathLike[str], *, keep_matcher: bool = False, clock: Clock = utc_now) -> Shredded:
    """Destroy the key of a run's vault; the run verifies as before, and its log has the proof.

    Args:
        path: the run folder.
        keep_matcher: keep a blind matcher (`blind`), so that the model can be probed again. Its key,
            which is another one, stays in the state folder; while it does, whoever has key and run
            can test a guess, so that what is kept is still personal data.
        clock: gives the time.

    Raises:
        UsageError: there is no run, or it is being written, or the matcher cannot be made.
        IntegrityError: the run does not verify, or an entry could still be opened afterwards.
    """

    def work() -> Shredded:
        with _held(Path(path), clock) as folder:
            return _shred(folder, keep_matcher)

    return plainly(lambda: "the shredding", work)


def destroy_matcher(path: str | os.PathLike[str], clock: Clock = utc_now) -> RunRecord:
    """Destroy the key of a run's blind matcher, which ends the last link to the request; logged.

    Raises:
        UsageError: there is no run, or it has no matcher here.
        IntegrityError: the run does not verify.
    """

    def work() -> RunRecord:
        with _held(Path(path), clock) as folder:
            if not blind.key_exists(folder):
                raise UsageError(f"{path}: there is no key of a matcher here, so there is nothing to destroy")
            blind.destroy_key(folder)
            return folder.update("matcher.shredded", {"key_is_here": blind.key_exists(folder)})

    return plainly(lambda: "the shredding", work)


@contextmanager
def _held(path: Path, clock: Clock) -> Iterator[RunFolder]:
    """The run, locked against every other process, and as it was sealed."""
    record = RunFolder.open(path, clock).record
    with RunFolder(path, record, clock, RunLock(path)) as folder:
        folder.recover()
        findings = [found for found in inspect_run(path).findings if found.code not in _PASSED_OVER]
        if findings:
            raise IntegrityError(f"{path}: the run does not verify, so nothing is destroyed; {findings[0]}")
        yield folder


def _shred(folder: RunFolder, keep_matcher: bool) -> Shredded:
    uuid, vault = folder.record.uuid, folder.vault
    here = RunKey.exists(uuid)
    if keep_matcher and (not here or folder.record.status not in FINAL):
        raise UsageError(
            f"{folder.path}: a matcher is made of a finished run whose vault can be read; leave it out"
        )
    key = _told_key(folder.log.entries(), uuid)
    own = _commitment(uuid) if here else key
    same, key = key in (None, own), key or own
    files = {blind.FILE: blind.make(folder)} if keep_matcher else {}
    # Only the vault knows where runs outside the workspace are.
    copies = tuple(_copies(folder))
    here = vault.shred() and same
    opened = sum(_opens(folder, name) for name in vault.names())
    if opened or RunKey.exists(uuid):
        raise IntegrityError(f"{folder.path}: {opened} entries of the vault can still be opened")
    about: dict[str, object] = {KEY: key, "key_was_here": here, "entries": len(vault.names())}
    about |= {"opened_afterwards": opened, "matcher": keep_matcher}
    record = folder.update(SHREDDED, about, files=files or None)
    return Shredded(record, key, here, len(vault.names()), keep_matcher, copies)


def _commitment(uuid: str) -> str | None:
    try:
        return RunKey.load(uuid).commitment
    except IntegrityError:
        return None


def _opens(folder: RunFolder, name: str) -> bool:
    try:
        folder.vault.get_bytes(name)
    except SafeEditError:
        return False
    return True


def _told_key(entries: tuple[Entry, ...], uuid: str) -> str | None:
    found = [entry.data.get(KEY) for entry in entries if entry.data.get("uuid") == uuid]
    return found[-1] if found else None


def _copies(folder: RunFolder) -> list[str]:
    """Where the request, or the key, may still be: nothing here can know that it is not."""
    found = [
        f"backups and snapshots of {key_path(folder.record.uuid).parent}: a key from there opens any copy of "
        "the vault",
        "the policy file and the facts file that the run was started with",
        "what was shown on a terminal with --show-sensitive, or with SAFEEDIT_DEBUG=1",
    ]
    return [*found, *map(str, relatives_of(folder))]
