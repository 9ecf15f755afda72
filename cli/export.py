"""`safeedit export`: a run's edited model as a standard checkpoint, or its change as a PEFT adapter."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .options import BaseSource, Json, RunPath
from .output import write_json


class ExportFormat(StrEnum):
    """What other software reads."""

    HF = "hf"
    PEFT = "peft"


Format = Annotated[
    ExportFormat,
    typer.Option(
        "--format",
        metavar="hf|peft",
        help="hf: a checkpoint and its tokenizer. peft: a LoRA adapter for the base model.",
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="A new folder for it.")]
Rank = Annotated[
    int | None,
    typer.Option(
        "--rank",
        metavar="N",
        min=1,
        help="For peft: the rank at most; what that leaves out is told. Default: nothing is left out.",
    ),
]


def export(
    run: RunPath, format: Format, out: Out, rank: Rank = None, base: BaseSource = None, as_json: Json = False
) -> None:
    """Write RUN's edited model, or its change, for other software; and log it."""
    from safeedit.runs.export import export as write

    done = write(run, format=format.value, out=out, rank=rank, base=base)
    if as_json:
        write_json({"run": str(run), **done.to_json(), "exit_code": 0})
        return
    from .render import Screen, Words

    screen = Screen()
    what = "checkpoint" if done.format == "hf" else f"adapter of rank {done.rank}"
    screen.line(Words("exported", "bold"), f"{out}: {what} ({done.digest[:16]}…)")
    if done.lost:
        worst = max(done.lost_by_module, key=lambda module: done.lost_by_module[module])
        screen.line(
            Words("lost    ", "dim"),
            f"{100 * done.lost:.3g} % of the change (Frobenius norm); most, "
            f"{100 * done.lost_by_module[worst]:.3g} %, in {worst}",
        )
