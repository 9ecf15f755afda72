"""`safeedit locate`: which layers and tokens carry the facts of a policy."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from .options import (
    Device,
    Dtype,
    Json,
    ModelSource,
    NumberFormat,
    PolicyFile,
    Quiet,
    Seed,
    ShowSensitive,
)
from .output import write_json


class Mode(StrEnum):
    """How a map is made."""

    EXACT = "exact"
    FAST = "fast"


class Restored(StrEnum):
    """Which states are restored."""

    HIDDEN = "hidden"
    MLP = "mlp"
    ATTENTION = "attention"
    ALL = "all"


class Object(StrEnum):
    """What of an object's probability is followed."""

    FIRST = "first"
    WHOLE = "whole"


_TRACE = "Trace"


def locate(
    policy: PolicyFile,
    model: ModelSource = None,
    device: Device = "auto",
    dtype: NumberFormat = Dtype.AUTO,
    mode: Annotated[
        Mode,
        typer.Option(
            "--mode",
            help="exact: restore every state. fast: to first order, from one backward pass.",
            rich_help_panel=_TRACE,
        ),
    ] = Mode.EXACT,
    kind: Annotated[
        Restored, typer.Option("--kind", help="Which states are restored.", rich_help_panel=_TRACE)
    ] = Restored.ALL,
    samples: Annotated[
        int,
        typer.Option("--samples", metavar="N", min=1, help="Noises for each prompt.", rich_help_panel=_TRACE),
    ] = 10,
    window: Annotated[
        int | None,
        typer.Option(
            "--window",
            metavar="N",
            min=1,
            help="Layers over which MLP and attention outputs are restored. Default: a fifth of all.",
            rich_help_panel=_TRACE,
        ),
    ] = None,
    part: Annotated[
        Object,
        typer.Option(
            "--object",
            help="The probability of the object's first token, or of the whole object.",
            rich_help_panel=_TRACE,
        ),
    ] = Object.FIRST,
    seed: Seed = 0,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE.svg|FILE.png|DIR",
            help="Write a picture; into a folder, one for each prompt too.",
            rich_help_panel="Output",
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    show_sensitive: ShowSensitive = False,
) -> None:
    """Trace which layers and tokens carry the facts of a policy; change nothing.

    States of the model's own run are put back, one at a time, into a run with noise on the subject.
    """
    from safeedit.locate.figures import FORMATS, check_target, write_pictures
    from safeedit.locate.request import locate as trace
    from safeedit.locate.sites import KINDS
    from safeedit.locate.trace import Settings
    from safeedit.runs.targets import check_file, check_folder
    from safeedit.tensors.places import writable

    from .heatmap import show_located
    from .render import Screen, progress

    if output is not None:
        with writable(output, "give a file or a folder where you can write"):
            check_target(output)
        if output.suffix.lower() in FORMATS:
            check_file(output)
        else:
            check_folder(output)
    kinds: Any = KINDS if kind is Restored.ALL else (kind.value,)
    settings = Settings(mode=mode.value, kinds=kinds, samples=samples, window=window, seed=seed)
    with progress(quiet=quiet) as tell:
        found = trace(
            policy,
            model,
            settings=settings,
            part=part.value,
            device=device,
            dtype=dtype.value,
            progress=tell,
        )
    pictures = (
        []
        if output is None or not found.facts
        else write_pictures(found, output, show_sensitive=show_sensitive)
    )
    if as_json:
        told = found.to_json(show_sensitive=show_sensitive)
        write_json({**told, "pictures": [str(path) for path in pictures]})
    else:
        show_located(Screen(), found, output if pictures else None, show_sensitive=show_sensitive)
    raise typer.Exit(found.exit_code)
