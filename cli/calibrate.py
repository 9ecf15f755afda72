"""`safeedit calibrate`: an editor's settings for a model, found on facts that the model knows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from .options import Device, Dtype, Json, ModelSource, NumberFormat, Quiet, Seed, StatsDataset, SuiteName
from .output import write_json

Editor = Annotated[str, typer.Argument(metavar="EDITOR", help="Its name; `safeedit editors` lists them.")]
Facts = Annotated[int, typer.Option("--facts", metavar="N", min=4, help="Facts to edit, at most.")]


def calibrate(
    editor: Editor,
    model: ModelSource = None,
    device: Device = "auto",
    dtype: NumberFormat = Dtype.AUTO,
    facts: Facts = 12,
    suite: SuiteName = None,
    stats_dataset: StatsDataset = None,
    seed: Seed = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Try EDITOR's settings on common facts that a model knows, and say which serve best; change nothing."""
    from safeedit.calibration import calibrate as find

    from .render import Column, Screen, Words, progress

    with progress(quiet=quiet) as tell:
        found = find(
            editor,
            model,
            facts=facts,
            suite=suite or "standard",
            statistics=stats_dataset,
            seed=seed,
            device=device,
            dtype=dtype.value,
            progress=tell,
        )
    if as_json:
        trials = [
            {
                "params": dict(t.params),
                "reliability": t.reliability,
                "generalisation": t.generalisation,
                "locality": t.locality,
                "score": t.score,
                "seconds": t.seconds,
                "failed": t.failed,
            }
            for t in found.trials
        ]
        write_json(
            {
                "editor": found.editor,
                "operation": found.op,
                "known": found.known,
                "edited": found.edited,
                "kept": found.kept,
                "params": found.params,
                "trials": trials,
            }
        )
        return
    screen = Screen()
    screen.table(
        (
            Column("settings", wraps=True),
            Column("holds"),
            Column("unseen phrasings"),
            Column("others kept"),
            Column("s an edit"),
        ),
        [
            (
                Words(_told(t.params) or "defaults", "bold" if t is found.best else "plain"),
                *(f"{share:.0%}" for share in (t.reliability, t.generalisation, t.locality)),
                "failed" if t.failed else f"{t.seconds:.2f}",
            )
            for t in found.trials
        ],
    )
    screen.line(f"{found.op} of {found.edited} known facts, {found.kept} others looked at")
    screen.line(
        Words("use", "dim"),
        f"params: {json.dumps(found.params)}" if found.params else "the defaults; nothing else was better",
    )


def _told(params: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {json.dumps(value)}" for name, value in params.items())
