"""`safeedit rollback`: the base model in its place again, or one fact taken out of a run."""

from __future__ import annotations

from pathlib import Path

import typer

from safeedit.errors import UsageError

from .options import (
    BaseSource,
    Device,
    FactsOut,
    Json,
    Quiet,
    RunOut,
    RunPath,
    ShowSensitive,
    Stack,
)
from .output import write_json


def rollback(
    run: RunPath,
    base: BaseSource = None,
    stack: Stack = False,
    fact: FactsOut = None,
    out: RunOut = None,
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
    show_sensitive: ShowSensitive = False,
) -> None:
    """Make RUN's model the base model again, bit for bit, and log it.

    With --fact a new run takes RUN's place, whose model never had that edit.
    """
    if fact:
        if stack:
            raise UsageError("--fact goes with one run; roll back what stands on it first, without --fact")
        _take_out(run, fact, out, base, device, as_json, quiet, show_sensitive)
    if out is not None:
        raise UsageError("--out is for the new run that --fact makes; leave it out")
    from safeedit.runs.rollback import rollback_all

    from .render import Screen
    from .views import show_rollback

    done = rollback_all(run, base=base, stack=stack)
    record = done[-1][1]
    if as_json:
        also = [{"run": str(path), "base_model": one.digests["base_model"]} for path, one in done[:-1]]
        digest = record.digests["base_model"]
        shown = {"run": str(run), "status": record.status, "base_model": digest, "rolled_back_before": also}
        write_json({**shown, "exit_code": 0})
    else:
        show_rollback(Screen(), done)


def _take_out(
    run: Path,
    facts: list[str],
    out: Path | None,
    base: str | None,
    device: str,
    as_json: bool,
    quiet: bool,
    show_sensitive: bool,
) -> None:
    from safeedit.runs.folder import RunFolder
    from safeedit.runs.stored import kept_request
    from safeedit.runs.takeout import take_out

    from .render import Screen, progress
    from .views import run_json, show_run

    with progress(quiet=quiet) as tell:
        done = take_out(run, facts, out, base=base, device=device, progress=tell)
    policy, _ = kept_request(RunFolder.open(done.path))
    if as_json:
        write_json({**run_json(done, policy, show_sensitive=show_sensitive), "replaces": str(run)})
    else:
        show_run(Screen(), done, policy, show_sensitive=show_sensitive)
    raise typer.Exit(done.exit_code)
