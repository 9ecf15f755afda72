"""The runs in a folder, one line each; nothing is verified and torch is not needed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from safeedit.errors import IntegrityError, UsageError
from safeedit.runs.folder import RunFolder
from safeedit.runs.lock import is_locked
from safeedit.runs.manifest import LOG, next_path
from safeedit.runs.record import RECORD, RunRecord


@dataclass(frozen=True)
class RunSummary:
    """What a list shows of one run."""

    path: Path
    id: str | None
    """The policy's id; None where the record cannot be read."""
    status: str
    """The run's status; `running` while a process writes it, `unreadable` without a sound record."""
    verdict: str | None = None
    grade: str | None = None
    exit_code: int | None = None
    started: str | None = None
    finished: str | None = None
    model: str | None = None
    editor: str | None = None
    uuid: str | None = None
    parent: str | None = None
    """The uuid of the run that it stands on."""
    position: int = 1
    """Its place in the order of the edits."""
    recorded: str | None = None
    """The status that its record tells, whoever is writing the run now."""

    def to_json(self) -> dict[str, str | int | None]:
        """As JSON values."""
        return {**self.__dict__, "path": str(self.path)}


def list_runs(folder: str | os.PathLike[str] = "runs") -> tuple[RunSummary, ...]:
    """Every run in `folder`, or the one that `folder` is, by the time of its start.

    Raises:
        UsageError: there is no such folder.
    """
    top = Path(folder)
    if not top.is_dir():
        raise UsageError(f"there is no folder {top}; give the folder that runs were written to")
    places = [top] if is_run(top) else sorted(path for path in top.iterdir() if is_run(path))
    return tuple(sorted(map(_summary, places), key=lambda run: (run.started or "", str(run.path))))


def is_run(path: Path) -> bool:
    """Whether there is a run in the folder `path`, or what is left of one."""
    return any((path / name).is_file() for name in (RECORD, LOG, next_path(Path(RECORD)).name))


def _summary(path: Path) -> RunSummary:
    running = is_locked(path)
    try:
        record: RunRecord | None = RunFolder.open(path).record
    except (IntegrityError, UsageError):
        record = None
    if record is None:
        return RunSummary(path, None, "running" if running else "unreadable")
    return RunSummary(
        path=path,
        id=record.id,
        status="running" if running else record.status,
        verdict=record.verdict,
        grade=record.grade,
        exit_code=record.exit_code,
        started=record.started,
        finished=record.finished,
        model=record.model,
        editor=record.editor.name if record.editor else None,
        uuid=record.uuid,
        parent=record.parent.uuid if record.parent else None,
        position=record.position,
        recorded=record.status,
    )
