"""`safeedit verify`: whether a run folder is still what the run left."""

from __future__ import annotations

import typer

from .options import Json, RunPath
from .output import write_json

INTEGRITY = 5


def verify(run: RunPath, as_json: Json = False) -> None:
    """Check a run's log and every digest; reads only. Exit code 5 where something does not match."""
    from safeedit.runs.verify import verify_run

    report = verify_run(run)
    code = 0 if report.ok else INTEGRITY
    if as_json:
        findings = [{"code": f.code, "file": f.file, "message": f.message} for f in report.findings]
        write_json(
            {
                "run": str(run),
                "ok": report.ok,
                "status": report.status,
                "entries": report.entries,
                "files": report.files,
                "findings": findings,
                "not_checked": list(report.notes),
                "exit_code": code,
            }
        )
    else:
        from .render import Screen
        from .views import show_findings

        show_findings(Screen(), run, report)
    raise typer.Exit(code)
