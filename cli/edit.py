"""`safeedit erase`, `modify`, `insert` and `apply`: a policy carried out and judged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer

from . import plan as planning
from .options import (
    ConflictChoice,
    Datasets,
    Device,
    DryRun,
    Dtype,
    EditorName,
    Json,
    ModelSource,
    NumberFormat,
    OnConflict,
    PolicyFile,
    Quiet,
    RunOut,
    SaveModel,
    Seed,
    ShowSensitive,
    StatsDataset,
    SuiteName,
)
from .output import write_json


def command(kinds: tuple[str, ...] | None) -> Callable[..., None]:
    """The verb for policies whose operations are all of these kinds; None for every kind."""

    def run(
        policy: PolicyFile,
        model: ModelSource = None,
        device: Device = "auto",
        dtype: NumberFormat = Dtype.AUTO,
        editor: EditorName = None,
        suite: SuiteName = None,
        seed: Seed = 0,
        dataset: Datasets = None,
        stats_dataset: StatsDataset = None,
        on_conflict: ConflictChoice = OnConflict.STOP,
        dry_run: DryRun = False,
        out: RunOut = None,
        save_model: SaveModel = False,
        as_json: Json = False,
        quiet: Quiet = False,
        show_sensitive: ShowSensitive = False,
    ) -> None:
        choices: dict[str, Any] = {"model": model, "editor": editor, "suite": suite, "seed": seed}
        choices |= {"device": device, "dtype": dtype.value, "on_conflict": on_conflict.value}
        choices |= {"datasets": dataset or []}
        if dry_run:
            planning.show(policy, kinds, as_json, quiet, show_sensitive, **choices)
            return
        from safeedit.policy import Policy

        asked = Policy.load(policy)
        from safeedit.runs.execute import apply

        from .render import Screen, progress
        from .views import run_json, show_run

        with progress(quiet=quiet) as tell:
            done = apply(
                policy,
                out=out,
                save_model=save_model,
                statistics=stats_dataset,
                progress=tell,
                kinds=kinds,
                **choices,
            )
        if as_json:
            write_json(run_json(done, asked, show_sensitive=show_sensitive))
        else:
            show_run(Screen(), done, asked, show_sensitive=show_sensitive)
        raise typer.Exit(done.exit_code)

    return run
