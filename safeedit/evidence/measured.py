"""What a run was found to be last: its own verdict, or that of a later measurement with the same probes.

Only a measurement with the registered probes counts: another suite may have asked less. What a blind one
finds of a shredded run counts as well: it asks least of all, but what it finds is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from safeedit.runs.chain import Entry
from safeedit.runs.folder import RunFolder
from safeedit.runs.listing import RunSummary
from safeedit.runs.record import RunRecord, Verdict

_VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


@dataclass(frozen=True)
class Measured:
    """When a run was measured last, and what came of it."""

    time: str | None
    verdict: Verdict | None
    """None where a run has none."""
    entry: int | None = None
    """The entry of the run's log that tells of it; None for the measurement of the run itself."""


def last_measured(run: RunRecord | RunSummary, entries: Sequence[Entry]) -> Measured:
    """The last measurement of a run that its log tells of in `entries`."""
    found = Measured(run.finished, _verdict(run.verdict) if run.verdict else None)
    for entry in entries:
        if entry.event == "probes.repeated" and entry.data.get("as_registered"):
            found = Measured(entry.time, _verdict(entry.data.get("verdict")), entry.seq)
        if entry.event == "probes.blind" and entry.data.get("leaks"):
            found = Measured(entry.time, "FAIL", entry.seq)
    return found


def last_probing(run: RunSummary) -> Measured:
    """The last measurement of a run, by its log as it is now."""
    return last_measured(run, RunFolder.open(run.path).log.entries())


def _verdict(told: object) -> Verdict:
    """As a run itself would be judged: to find nothing to test decides nothing."""
    if told == "SKIPPED":
        return "INCONCLUSIVE"
    return next((verdict for verdict in _VERDICTS if verdict == told), "ERROR")
