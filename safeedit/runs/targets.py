"""Where a verb may write what somebody asks for: in no run, and over no key or file of a workspace.

A run is sealed, and the ledger shows that it is; a target that was given by mistake must not destroy
either. A run's own verbs write into it by `RunFolder`, which seals it again, and ask nothing here.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from safeedit.errors import UsageError
from safeedit.evidence.checkpoints import CHECKPOINTS
from safeedit.evidence.ledger import LEDGER
from safeedit.evidence.workspace import is_workspace
from safeedit.runs.chain import parse_entry
from safeedit.runs.keys import keys_folder
from safeedit.runs.manifest import LOG, next_path
from safeedit.runs.record import RECORD
from safeedit.runs.seal import read_record
from safeedit.tensors.places import why_unwritable

_WORKSPACE = {LEDGER: "the ledger", CHECKPOINTS: "the list of checkpoints"}


def check_file(path: str | os.PathLike[str], *, link: bool = False) -> None:
    """Return only if a file may be written at `path`, in place of one that is there.

    Args:
        path: where what is written takes the place of a link, too, wherever that leads.
        link: whether there may be a link.

    Raises:
        UsageError: it is inside a run, among the keys of runs, a file of a workspace, no regular file, or in
            no folder.
    """
    target = Path(path)
    place = Path(os.path.realpath(target.parent)) / target.name
    _refuse_keys(path, place, "file")
    if any(map(_is_run, place.parents)):
        raise UsageError(f"{path} is inside a run, whose files are sealed; give another file")
    if target.name in _WORKSPACE and is_workspace(target.parent):
        raise UsageError(f"{target} is {_WORKSPACE[target.name]} of this workspace; give another file")
    try:
        mode = os.lstat(target).st_mode
        if not stat.S_ISREG(mode) and not (link and stat.S_ISLNK(mode)):
            raise UsageError(f"{target} is no plain file; give another file")
    except FileNotFoundError:
        if not target.parent.is_dir():
            raise UsageError(f"there is no folder {target.parent}; make it first") from None
    except OSError as error:
        raise UsageError(f"{target} cannot be written ({why_unwritable(error)}); give another file") from None


def check_folder(path: str | os.PathLike[str], *, run: bool = False) -> None:
    """Return only if files may be written into the folder `path`, which need not be there yet.

    Args:
        path: the folder.
        run: whether it may itself be a run, as for a run that is started again.

    Raises:
        UsageError: it is inside a run, or is one; or it is where the keys of runs are.
    """
    place = Path(os.path.realpath(path))
    _refuse_keys(path, place, "folder")
    if any(map(_is_run, place.parents)):
        raise UsageError(f"{path} is inside a run, whose files are sealed; give another folder")
    if not run and _is_run(place):
        raise UsageError(f"{path} is a run, whose files are sealed; give another folder")


def _refuse_keys(path: str | os.PathLike[str], place: Path, kind: str) -> None:
    keys = Path(os.path.realpath(keys_folder()))
    if keys in (place, *place.parents):
        raise UsageError(f"{path} is among the keys that open the vaults of runs; give another {kind}")


def _is_run(folder: Path) -> bool:
    """Whether `folder` is a run, or what is left of one.

    Other programs may have a file of either name, so that one alone has to be ours.
    """
    waiting = next_path(folder / RECORD).name
    found = [name for name in (RECORD, waiting, LOG) if os.path.isfile(folder / name)]
    if len(found) != 1:
        return bool(found)
    try:
        with (folder / found[0]).open("rb") as stream:
            if found[0] == LOG:
                return parse_entry(stream.readline().rstrip(b"\n")) is not None
            return read_record(stream.read()) is not None
    except OSError:
        return True
