"""What a workspace's ledger says of a run, held against the run's own log.

The two logs are written by one command, so that nobody can take a run back to an earlier state, cut
its end off or write its log anew without changing the ledger too; and the ledger is over all runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safeedit.evidence.ledger import BEGUN, HEAD, LEDGER, LENGTH, PREVIOUS, RUN, Ledger
from safeedit.evidence.witness import remembered
from safeedit.runs.chain import Entry, Line, read_lines, verify_lines
from safeedit.runs.checks import Check
from safeedit.runs.findings import Finding
from safeedit.runs.manifest import LOG

_BEGINNING = b'{"data":{'
_STARTS = ("run.started", "run.restarted")


@dataclass(frozen=True)
class LedgerView:
    """A ledger that was read and checked once, for any number of runs."""

    file: str
    """What it is called in findings."""
    lines: tuple[Line, ...]
    check: Check

    @property
    def entries(self) -> list[Entry]:
        """The entries whose own hash is right."""
        return [line.entry for line in self.lines if line.entry and line.sound]

    @property
    def uuid(self) -> object:
        """The id that its first entry tells."""
        return self._begun.get("uuid")

    @property
    def previous(self) -> object:
        """The id of the ledger that was here before, and was gone when this one was begun."""
        before = self._begun.get(PREVIOUS)
        return before.get("ledger") if isinstance(before, dict) else None

    @property
    def _begun(self) -> dict[str, Any]:
        first = self.entries[:1]
        return first[0].data if first and first[0].event == BEGUN else {}


def view_ledger(workspace: Path, file: str = LEDGER) -> LedgerView | None:
    """The ledger of a workspace, its chain checked; None where there is none."""
    path = workspace / LEDGER
    if not path.is_file():
        return None
    lines, rest = read_lines(path.read_bytes())
    findings = verify_lines(lines, b"", file, genesis=Ledger.genesis)
    first = next((line.entry for line in lines if line.entry), None)
    if first is None:
        findings.append(Finding("ledger-emptied", file, "holds no entry, as no ledger ever does"))
    elif not findings and first.event != BEGUN:
        findings.append(Finding("ledger-foreign", file, "does not begin as a ledger does"))
    if not findings:
        findings += _forgotten(path, lines, file)
    if not all(_begins_an_entry(piece) for piece in rest.split(b"\n")):
        findings.append(Finding("log-bad-json", file, "ends in something that is no beginning of an entry"))
    # A kill leaves this beside runs that have nothing to do with it; the next entry tells of it.
    notes = ("the last line of the ledger is cut off, as a kill leaves it",) if rest else ()
    said = f"{len(lines)} entries, each bound to the one before"
    return LedgerView(file, tuple(lines), Check(file, said, tuple(findings), notes))


def _begins_an_entry(piece: bytes) -> bool:
    return piece.startswith(_BEGINNING) or _BEGINNING.startswith(piece)


def _forgotten(path: Path, lines: Sequence[Line], file: str) -> list[Finding]:
    """What this machine remembers of the ledger, and what the ledger no longer has."""
    known = remembered(path)
    entries = [line.entry for line in lines if line.entry]
    if known is None or not entries:
        return []
    if entries[0].data.get("uuid") != known.ledger:
        message = "is not the ledger that was last written here: another one was put in its place"
        return [Finding("ledger-foreign", file, message)]
    if len(entries) < known.size:
        gone = known.size - len(entries)
        message = f"its last {gone} {'entry is' if gone == 1 else 'entries are'} gone: it was truncated"
        return [Finding("log-truncated", file, message)]
    if entries[known.size - 1].hash != known.head:
        message = f"entry {known.size - 1} is not the one that was written here: it was written anew"
        return [Finding("log-rewritten", file, message)]
    return []


def check_pointers(
    ledger: LedgerView | None, entries: Sequence[Entry], *, sealed: bool, settled: bool
) -> Check:
    """Whether the ledger tells of the run whose log has these entries, and of all of them.

    Args:
        ledger: the ledger of the folder that the run is in; None where there is none.
        entries: the sound entries of the run's log, in order.
        sealed: whether the run is: only then the ledger has to know of the last entry.
        settled: whether no kill left anything to complete, which may be what the ledger lacks.
    """
    what = "in the ledger"
    starts = [entry for entry in entries if entry.event in _STARTS]
    named = starts[-1].data.get("ledger") if starts else None
    if ledger is None:
        note = (
            "the ledger that the run tells of is not in the folder around it (the run was moved, or copied): "
            "it was checked by itself"
            if named
            else "the run tells of no ledger: it was checked by itself"
        )
        return Check(what, "", notes=(note,), checked=False)
    uuids = {entry.data.get("uuid") for entry in starts} - {None}
    if named is not None and named == ledger.previous:
        message = "was begun after the ledger that this run was begun in had been taken away"
        return Check(what, "", (Finding("ledger-replaced", ledger.file, message),))
    pointers = [entry for entry in ledger.entries if entry.data.get(RUN) in uuids and HEAD in entry.data]
    if not pointers:
        if settled and named is not None and named == ledger.uuid:
            message = "does not tell of this run, which was begun in it: its entries were taken away"
            return Check(what, "", (Finding("ledger-unaware", ledger.file, message),))
        note = "the ledger here does not tell of this run"
        if named != ledger.uuid:
            note = "the ledger here is another workspace's, and does not tell of this run"
        return Check(what, "", notes=(note,), checked=False)
    findings = _differences(pointers, entries, ledger.file)
    told = max((_length(pointer) for pointer in pointers), default=0)
    if not findings and told < len(entries) and sealed and settled:
        gone = len(entries) - told
        message = (
            f"does not tell of the last {gone} of the run's {len(entries)} entries: its end was taken away"
        )
        findings.append(Finding("ledger-behind", ledger.file, message))
    last = pointers[-1].seq
    said = f"{len(pointers)} pointers to this run; the last, entry {last}, has the head of its log"
    return Check(what, said, tuple(findings))


def _differences(pointers: Sequence[Entry], entries: Sequence[Entry], file: str) -> list[Finding]:
    heads = {entry.seq: entry.hash for entry in entries}
    findings: list[Finding] = []
    for pointer in pointers:
        length = _length(pointer)
        if length > len(entries):
            message = (
                f"has {len(entries)} entries, but entry {pointer.seq} of {file} tells of {length}: the run "
                "was put back to an earlier state, or its log was truncated"
            )
            findings.append(Finding("run-put-back", LOG, message))
            break
        if length < 1 or heads.get(length - 1) != pointer.data[HEAD]:
            message = (
                f"entry {length - 1} is not the one that entry {pointer.seq} of {file} tells of: the run's "
                "log was written anew, or is another run's"
            )
            findings.append(Finding("log-rewritten", LOG, message))
            break
    return findings


def _length(pointer: Entry) -> int:
    length = pointer.data.get(LENGTH)
    return length if type(length) is int else 0
