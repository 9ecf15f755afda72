"""`safeedit verify`: whether a run, or a whole workspace, is still what was left."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .keys import KeyringFile
from .options import Json, Quiet
from .output import write_json

if TYPE_CHECKING:
    from safeedit.evidence.keyring import Keyring

INTEGRITY = 5

RunOrWorkspace = Annotated[
    Path,
    typer.Argument(
        metavar="RUN", help="The folder of a run, or the one that holds runs.", show_default=False
    ),
]


def verify(
    run: RunOrWorkspace, keyring: KeyringFile = None, as_json: Json = False, quiet: Quiet = False
) -> None:
    """Check log, digests, vault, ledger and signatures of RUN, offline; reads only.

    Of a folder that holds runs, all of them are checked. Exit code 5 where something does not match.
    """
    from safeedit.evidence.keyring import Keyring
    from safeedit.evidence.workspace import is_workspace

    trusted = Keyring.load(keyring)
    raise typer.Exit(
        _workspace(run, trusted, as_json, quiet) if is_workspace(run) else _run(run, trusted, as_json, quiet)
    )


def _run(run: Path, trusted: Keyring, as_json: bool, quiet: bool) -> int:
    from safeedit.runs.verify import verify_run

    from .checks import checks_json, findings_json, show_checks, show_outcome
    from .render import Screen

    report = verify_run(run, trusted)
    code = 0 if report.ok else INTEGRITY
    if as_json:
        counts = {"status": report.status, "entries": report.entries, "files": report.files}
        shown = {"findings": findings_json(report.findings), "not_checked": list(report.notes)}
        checks = checks_json(report.checks)
        write_json({"run": str(run), "ok": report.ok, **counts, **shown, "checks": checks, "exit_code": code})
        return code
    screen = Screen()
    show_checks(screen, report.checks, quiet=quiet)
    told = f"{report.status}; {report.entries} log entries, {report.files} files; all as recorded"
    show_outcome(screen, run, report.findings, told)
    return code


def _workspace(folder: Path, trusted: Keyring, as_json: bool, quiet: bool) -> int:
    from safeedit.evidence.workspace import verify_workspace

    from .checks import checks_json, findings_json, show_checks, show_outcome
    from .render import Screen

    report = verify_workspace(folder, trusted)
    code = 0 if report.ok else INTEGRITY
    if as_json:
        runs = {path.name: checks_json(one.checks) for path, one in report.runs}
        shown = {"checks": checks_json(report.checks), "findings": findings_json(report.findings)}
        write_json({"workspace": str(folder), "ok": report.ok, **shown, "runs": runs, "exit_code": code})
        return code
    screen = Screen()
    for path, one in report.runs:
        show_checks(screen, one.checks, quiet=quiet, prefix=f"{path.name}/")
    show_checks(screen, report.checks, quiet=quiet)
    show_outcome(screen, folder, report.findings, f"{len(report.runs)} runs; all as recorded")
    return code
