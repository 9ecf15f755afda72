"""`safeedit runs`: the runs in a folder, one line each."""

from __future__ import annotations

from pathlib import Path

from .options import Json, RunsFolder
from .output import write_json


def runs(folder: RunsFolder = Path("runs"), as_json: Json = False) -> None:
    """List the runs in FOLDER."""
    from safeedit.runs.listing import list_runs

    # No run was made here yet, which is no mistake; a folder that was asked for and is not there is one.
    found = () if folder == Path("runs") and not folder.exists() else list_runs(folder)
    if as_json:
        write_json({"runs": [run.to_json() for run in found]})
        return
    from .render import Screen
    from .views import show_runs

    show_runs(Screen(), folder, found)
