"""Which run stands on which: a run whose base is the model that another run left.

A run records its parent's uuid, the digest of the model that the parent left, and the head of the
parent's log; the parent's log gets an entry with the child's uuid. Folders are named in the vaults
alone, because a folder's name may tell of the request. So a relative is looked for where the vault
says, and beside the run; only the uuid decides whether it is the one.

A run can stand on finished runs alone, and a finished run is never run again: there are no cycles.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from safeedit.errors import IntegrityError, UsageError
from safeedit.runs import stored
from safeedit.runs.folder import RunFolder
from safeedit.runs.keys import KeyMissingError
from safeedit.runs.lock import is_locked
from safeedit.runs.manifest import LOG
from safeedit.runs.record import FINAL, RECORD, LogRecord, ParentRecord, RunRecord

CHILDREN = "children"
"""The vault's entry with the folders of the runs that stand on this one, by uuid."""


def is_run(source: object) -> bool:
    """Whether `source` is the folder of a run."""
    if not isinstance(source, str | os.PathLike):
        return False
    return any((Path(source) / name).is_file() for name in (RECORD, LOG))


def left_by(record: RunRecord) -> str:
    """The digest of the model that a run left: the edited one, or its base where nothing was edited."""
    edited = record.status != "rolled_back" and stored.PATCH in record.digests
    return record.digests[stored.EDITED if edited else stored.BASE]


def parent_record(parent: RunFolder) -> ParentRecord:
    """What a new run on `parent` records of it."""
    entries, record = parent.log.entries(), parent.record
    log = LogRecord(length=len(entries), head=entries[-1].hash)
    return ParentRecord(id=record.id, uuid=record.uuid, model=left_by(record), log=log)


def check_place(path: Path, parent: RunFolder) -> None:
    """Return only if a new run in `path` would leave the folder of its parent as it is.

    Raises:
        UsageError: `path` is that folder, or in it.
    """
    own, other = path.resolve(), parent.path.resolve()
    if own == other or other in own.parents:
        raise UsageError(f"{path} is in the folder of the run that it shall stand on; give a new folder")


def beside_weights(run: RunFolder) -> bool:
    """Whether memories are at the model that a run left, its own or those of a run below it."""
    headers = (one.path / "patch" / "patch.json" for one in (*ancestors(run), run))
    return any("memories" in json.loads(header.read_bytes()) for header in headers if header.is_file())


def begin_on(parent: RunFolder, child: RunFolder) -> None:
    """Tell the parent's log that a run was begun on it, and its vault where.

    Raises:
        IntegrityError: the parent does not verify.
    """
    about = {"child": {"id": child.record.id, "uuid": child.record.uuid}}
    if parent.vault.shredded:
        parent.update("run.continued", about)
        return
    places = {**_children(parent), child.record.uuid: str(child.path.resolve())}
    entry = parent.vault.encrypt(CHILDREN, places)
    parent.update("run.continued", about, files={f"vault/{CHILDREN}.bin": entry})


def ancestors(run: RunFolder, parent: str | os.PathLike[str] | None = None) -> tuple[RunFolder, ...]:
    """The runs that `run` stands on, the oldest first.

    Args:
        run: the newest; not itself among them.
        parent: where its parent's folder is now, if that is neither where it was nor beside it.

    Raises:
        UsageError: one is not to be found, or was rolled back.
        IntegrityError: one left another model than the run on it started from.
    """
    found: list[RunFolder] = []
    seen = {run.record.uuid}
    child = run
    while child.record.parent is not None:
        known = child.record.parent
        one = parent_of(child, parent if child is run else None)
        if one is None:
            raise UsageError(_missing(child, known))
        if one.record.uuid in seen:
            raise IntegrityError(
                f"{child.path}: the run would stand on itself; its {RECORD} was tampered with"
            )
        if one.record.status == "rolled_back":
            raise UsageError(
                f"{child.path}: the run stands on {one.path}, which was rolled back since; take that one"
            )
        if one.record.status not in FINAL or left_by(one.record) != known.model:
            raise IntegrityError(f"{child.path}: {one.path} did not leave the model that the run stands on")
        if child.record.digests.get(stored.BASE, known.model) != known.model:
            raise IntegrityError(f"{child.path}: the run did not start from the model of its parent")
        seen.add(one.record.uuid)
        found.append(one)
        child = one
    return tuple(reversed(found))


def parent_of(run: RunFolder, told: str | os.PathLike[str] | None = None) -> RunFolder | None:
    """The run that `run` stands on; None where it stands on none, or that one is not to be found.

    Args:
        run: a run.
        told: where the parent's folder is, if the caller knows.
    """
    if run.record.parent is None:
        return None
    place = _place(run)
    # Where runs were copied together, the copy beside this one is meant, and not the original.
    likely = [told, place and _folder_of(run.path) / Path(place).name, place]
    for path in chain((path for path in likely if path), _beside(run.path)):
        found = _open(path)
        if found is not None and found.record.uuid == run.record.parent.uuid:
            return found
    return None


def standing_on(run: RunFolder) -> tuple[RunFolder, ...]:
    """The runs whose edits rest on the model of `run`, the newest first.

    A run that was rolled back, failed, or was interrupted rests on nothing; one that is being
    written does.
    """
    beside = [one for path in _beside(run.path) if (one := _open(path)) is not None]
    waiting, found = [run], dict[str, RunFolder]()
    while waiting:
        parent = waiting.pop()
        elsewhere = [one for path in _children(parent).values() if (one := _open(path)) is not None]
        for child in (*beside, *elsewhere):
            if child.record.uuid in found or not _stands_on(child, parent):
                continue
            if child.record.status == "finished" or is_locked(child.path):
                found[child.record.uuid] = child
                waiting.append(child)
    live = (one for one in found.values() if stored.PATCH in one.record.digests or is_locked(one.path))
    return tuple(sorted(live, key=lambda one: (one.record.position, one.record.started), reverse=True))


def _stands_on(child: RunFolder, parent: RunFolder) -> bool:
    known = child.record.parent
    if known is None or known.uuid != parent.record.uuid:
        return False
    # Of several copies of a run, a child stands on the one that it would find.
    own = parent_of(child)
    return own is None or own.path.resolve() == parent.path.resolve()


def _missing(child: RunFolder, known: ParentRecord) -> str:
    place = _place(child)
    where = f"neither at {place} nor beside it" if place else "not beside it"
    return (
        f"{child.path}: the run stands on a run of {known.id} ({known.uuid}), which is {where}; put that "
        "one beside it, or give its folder as the base"
    )


def _place(run: RunFolder) -> str | None:
    """Where the parent was when the run was made, as far as the vault can be read."""
    place = _entry(run, stored.MODEL).get("parent")
    return place if isinstance(place, str) else None


def _children(run: RunFolder) -> dict[str, str]:
    return _entry(run, CHILDREN)


def _entry(run: RunFolder, name: str) -> dict[str, Any]:
    if name not in run.vault.names():
        return {}
    try:
        found = run.vault.get(name)
    except KeyMissingError:
        return {}
    return found if isinstance(found, dict) else {}


def _beside(path: Path) -> Iterator[Path]:
    """The other runs in the folder that a run is in."""
    own = path.resolve()
    return (one for one in sorted(_folder_of(path).iterdir()) if is_run(one) and one.resolve() != own)


def _folder_of(path: Path) -> Path:
    """The folder that a run is in, as the caller would write it."""
    return path.parent if path.name not in ("", "..") else path.resolve().parent


def _open(path: str | os.PathLike[str]) -> RunFolder | None:
    try:
        return RunFolder.open(path)
    except (UsageError, IntegrityError, OSError):
        return None
