"""`safeedit shred`: what a run holds of a request is destroyed, and the log can prove it."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from safeedit.errors import UsageError

from .options import Json, RunPath
from .output import write_json

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask: it cannot be undone.")]
KeepMatcher = Annotated[
    bool,
    typer.Option(
        "--keep-matcher",
        help="Keep keyed digests of the answers, to probe RUN again with --policy; still personal data.",
    ),
]
MatcherOnly = Annotated[
    bool, typer.Option("--matcher", help="Destroy the key of the matcher that an earlier shred kept.")
]


def shred(
    run: RunPath,
    yes: Yes = False,
    keep_matcher: KeepMatcher = False,
    matcher: MatcherOnly = False,
    as_json: Json = False,
) -> None:
    """Destroy the key of RUN's vault, so that the request in it cannot be read again, and log the proof.

    Everything else of the run stays, and verifies as before.
    """
    from safeedit.evidence import shred as shredding
    from safeedit.runs.folder import RunFolder

    if matcher and keep_matcher:
        raise UsageError("--matcher destroys what --keep-matcher keeps; give one of them")
    RunFolder.open(run)
    if not yes:
        _ask(f"Destroy the key of {'the matcher' if matcher else 'the vault'} of {run} for good?")
    from .render import Screen, Words

    if matcher:
        shredding.destroy_matcher(run)
        if as_json:
            write_json({"run": str(run), "matcher_key": "destroyed", "exit_code": 0})
        else:
            Screen().line(Words("shredded", "bold"), f"{run}: the matcher's key is destroyed")
        return
    done = shredding.shred(run, keep_matcher=keep_matcher)
    if as_json:
        about = {"key": done.key, "key_was_here": done.key_was_here, "entries": done.entries}
        more = {"matcher": done.matcher, "copies": list(done.copies)}
        write_json({"run": str(run), **about, **more, "exit_code": 0})
        return
    screen = Screen()
    if done.key_was_here:
        screen.line(Words("shredded", "bold"), f"{run}: nobody can open its {done.entries} entries any more")
    else:
        screen.line(Words("logged  ", "bold"), f"{run}: its key was not on this machine, and is not now")
    for copy in done.copies:
        screen.line(Words("not here", "doubtful"), copy)
    if done.matcher:
        screen.line(Words("kept    ", "doubtful"), "a blind matcher; safeedit shred RUN --matcher ends it")
    screen.line(Words("next    ", "dim"), f"safeedit verify {run}")


def _ask(question: str) -> None:
    if not sys.stdin.isatty():
        raise UsageError("shredding cannot be undone: say --yes where nobody can be asked")
    if not typer.confirm(question, err=True):
        raise UsageError("nothing was destroyed")
