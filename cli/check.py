"""`safeedit check`: whether a workspace is in order now, for CI."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Json, RunsFolder
from .output import write_json

MaxAge = Annotated[
    str | None,
    typer.Option(
        "--max-age", metavar="AGE", help="How long ago a run may have been probed last: 12h, 30d, 4w."
    ),
]


def check(folder: RunsFolder = Path("runs"), max_age: MaxAge = None, as_json: Json = False) -> None:
    """Check every run and request in FOLDER: intact, passed, signed, probed lately, answered in time."""
    from safeedit.evidence.check import age
    from safeedit.evidence.check import check as look

    report = look(folder, age(max_age) if max_age else None)
    if as_json:
        write_json(
            {
                "folder": str(folder),
                "ok": report.ok,
                "runs": report.runs,
                "requests": report.requests,
                "problems": [
                    {"code": one.code, "where": one.where, "message": one.message} for one in report.problems
                ],
                "exit_code": report.exit_code,
            }
        )
    else:
        from .render import Screen
        from .workspace import show_check

        show_check(Screen(), folder, report)
    raise typer.Exit(report.exit_code)
