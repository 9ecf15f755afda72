"""`safeedit lint`: whether policies could be carried out, without any model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Json, Quiet
from .output import tell, visible, write_json

Policies = Annotated[list[Path], typer.Argument(metavar="FILE...", help="Policy files.", show_default=False)]
BAD_POLICY = 2


def lint(files: Policies, as_json: Json = False, quiet: Quiet = False) -> None:
    """Check policies without a model: words, facts, files, editor, suite. Exit code 2 where one is wrong."""
    from safeedit.runs.lint import lint as check

    found = check(files)
    code = 0 if all(one.ok for one in found) else BAD_POLICY
    if as_json:
        write_json({"policies": [one.to_json() for one in found], "exit_code": code})
        raise typer.Exit(code)
    for one in found:
        for problem in one.problems:
            tell(visible(str(problem)) + "\n")
    if not quiet:
        from .render import Screen, Words

        screen = Screen()
        for one in found:
            if one.ok and one.about is not None:
                about = one.about
                due = f", answer due {about['due']}" if about["due"] else ""
                kinds = " and ".join(about["kinds"])
                told = f"{kinds}, {about['regime']}{due}, editor {about['editor']}, suite {about['suite']}"
                screen.line(Words(str(one.path), "bold"), told)
    raise typer.Exit(code)
