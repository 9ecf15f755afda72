"""The other runs that may hold what a run holds of a request, looked for before its vault is closed for good.

Those are the runs of the same request, those that took the place of one another, and all that stand on any
of them, however far up: they were asked about what was done below them. Where they are is told by the vaults,
and by the folder that a run is in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safeedit.errors import IntegrityError, UsageError
from safeedit.runs.folder import RunFolder
from safeedit.runs.keys import KeyMissingError, RunKey
from safeedit.runs.lineage import CHILDREN, parent_of
from safeedit.runs.listing import list_runs


@dataclass(frozen=True)
class Relative:
    """Another run with a vault whose key is on this machine, or may be."""

    path: Path
    what: str
    """What makes it one, as the end of a sentence."""

    def __str__(self) -> str:
        return f"{self.path}: a run {self.what}"


def relatives_of(run: RunFolder) -> tuple[Relative, ...]:
    """Every other run that may hold the request of `run` and can be read here, the nearest first.

    Runs beside it that do not tell whose they are come last.
    """
    family, found, places = {run.record.uuid: run}, dict[str, Relative](), dict[str, str]()
    # Of a run that took the place of this one, the run that both stand on tells where it is.
    near = [*_beside(run.path), *_there(_places(below) if (below := parent_of(run)) is not None else {})]
    while True:
        for one in family.values():
            places |= _places(one)
        new = {one.record.uuid: one for one in (*near, *_there(places)) if one.record.uuid not in family}
        more = {uuid: what for uuid, one in new.items() if (what := _relation(one, run, family))}
        if not more:
            break
        family |= {uuid: new[uuid] for uuid in more}
        found |= {uuid: Relative(new[uuid].path, what) for uuid, what in more.items()}
    gone = "that stands on this one, which is not there now; the key of its vault is on this machine"
    found |= {uuid: Relative(Path(path), gone) for uuid, path in places.items() if uuid not in family}
    return (*(one for uuid, one in found.items() if RunKey.exists(uuid)), *_unreadable(run.path))


def _relation(one: RunFolder, run: RunFolder, family: Mapping[str, RunFolder]) -> str:
    """What makes a run one of the family; empty where nothing does."""
    taken = {uuid for other in family.values() for uuid in _exchanged(other)}
    if one.record.id == run.record.id or one.record.uuid in taken or _exchanged(one) & family.keys():
        return "of the same request, with a vault of its own"
    parent = one.record.parent
    stands = parent is not None and parent.uuid in family
    return "that stands on this one, with a vault of its own" if stands else ""


def _exchanged(run: RunFolder) -> set[str]:
    """The runs that took its place, or whose place it took."""
    return {uuid for uuid in (run.record.replaces, run.record.replaced_by) if uuid is not None}


def _there(places: Mapping[str, str]) -> list[RunFolder]:
    """The runs that are where they were said to be."""
    opened = ((uuid, _open(path)) for uuid, path in places.items())
    return [one for uuid, one in opened if one is not None and one.record.uuid == uuid]


def _places(run: RunFolder) -> dict[str, str]:
    """Where the runs on a run are, by uuid, as far as its vault can be read."""
    if CHILDREN not in run.vault.names():
        return {}
    try:
        found = run.vault.get(CHILDREN)
    except (KeyMissingError, IntegrityError):
        return {}
    return found if isinstance(found, dict) else {}


def _beside(path: Path) -> list[RunFolder]:
    opened = (_open(one.path) for one in list_runs(path.resolve().parent))
    return [one for one in opened if one is not None]


def _unreadable(path: Path) -> list[Relative]:
    what = "whose record cannot be read, so that it may be one of the same request"
    return [Relative(one.path, what) for one in list_runs(path.resolve().parent) if one.uuid is None]


def _open(path: str | Path) -> RunFolder | None:
    try:
        return RunFolder.open(path)
    except (UsageError, IntegrityError, OSError):
        return None
