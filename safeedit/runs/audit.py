"""Writing the log of a run: `audit.jsonl`, append only, one entry of the chain (`chain`) a line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, get_args

from safeedit.errors import IntegrityError
from safeedit.runs.chain import Entry
from safeedit.runs.chainfile import ChainFile
from safeedit.runs.chainfile import Clock as Clock
from safeedit.runs.chainfile import iso_time as iso_time
from safeedit.runs.chainfile import utc_now as utc_now

Event = Literal[
    "run.started",
    "run.restarted",
    "policy.registered",
    "model.loaded",
    "conflicts.checked",
    "subjects.resolved",
    "probes.registered",
    "statistics.ready",
    "baseline.measured",
    "edit.started",
    "edit.made",
    "edit.refused",
    "probes.measured",
    "probes.repeated",
    "verdict.reached",
    "run.finished",
    "run.failed",
    "run.interrupted",
    "run.continued",
    "run.recovered",
    "rollback.done",
    "vault.shredded",
    "report.written",
    "model.exported",
    "sensitive.shown",
    "sign_off.given",
    "sign_off.refused",
    "sign_off.withdrawn",
    "matcher.shredded",
    "probes.blind",
    "ledger.begun",
    "checkpoint.signed",
    "request.received",
    "request.identified",
    "request.acknowledged",
    "request.extended",
    "request.answered",
    "request.refused",
    "request.notified",
    "request.derived",
]
EVENTS = frozenset(get_args(Event))


class AuditLog(ChainFile):
    """The log of one run; every append is on the disk when it returns."""

    @classmethod
    def create(cls, path: str | os.PathLike[str], clock: Clock = utc_now) -> AuditLog:
        """An empty log at `path`, where nothing may be yet."""
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
        return cls(Path(path), clock)

    @classmethod
    def open(cls, path: str | os.PathLike[str], clock: Clock = utc_now) -> AuditLog:
        """The log at `path`."""
        log = cls(Path(path), clock)
        if not log.path.is_file():
            raise IntegrityError(f"{log.path.name} is missing")
        return log

    def append(self, event: Event, /, **data: object) -> Entry:
        """Write one more entry and return it; on any error the log is as it was.

        What a kill had left of a half-written line stays, and this entry tells of it.

        Raises:
            FreeTextError: `data` holds something that could be personal.
            IntegrityError: the log's last entry was edited.
        """
        if event not in EVENTS:
            raise ValueError("unknown event; the vocabulary is safeedit.runs.audit.Event")
        with self._locked() as handle:
            return self._append(handle, event, data)
