"""Every flag, defined once; a verb takes the ones it needs."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from safeedit.seeds import LAST


class Dtype(StrEnum):
    """Number formats that a model can be loaded in."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class OnConflict(StrEnum):
    """What to do where a policy contradicts the runs that it shall stand on."""

    STOP = "stop"
    REPLACE = "replace"


def day(text: str) -> datetime:
    """The beginning of the day that a flag names, in UTC.

    Raises:
        typer.BadParameter: it is none; what was typed is not repeated.
    """
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        pass
    raise typer.BadParameter("must be a day such as 2026-11-02")


_REQUEST, _MODEL, _EDIT, _OUTPUT, _DANGER = "Request", "Model", "Edit", "Output", "Danger"

PolicyFile = Annotated[
    Path,
    typer.Option("--policy", metavar="FILE", help="The policy: a YAML file.", rich_help_panel=_REQUEST),
]
OptionalPolicyFile = Annotated[
    Path | None,
    typer.Option(
        "--policy",
        metavar="FILE",
        help="Instead of RUN: the policy whose facts a model is asked for.",
        rich_help_panel=_REQUEST,
    ),
]
ModelSource = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="ID_OR_PATH",
        help="A Hugging Face id, a folder, or a RUN to go on from. Default: the embedded reference model.",
        rich_help_panel=_MODEL,
    ),
]
BaseSource = Annotated[
    str | None,
    typer.Option(
        "--base",
        metavar="ID_OR_PATH",
        help="The model before the edit; for RUN only where it, or the run below, has moved since.",
        rich_help_panel=_MODEL,
    ),
]
Device = Annotated[
    str,
    typer.Option("--device", metavar="auto|cpu|cuda[:i]", help="Where to compute.", rich_help_panel=_MODEL),
]
NumberFormat = Annotated[
    Dtype,
    typer.Option(
        "--dtype",
        metavar="|".join(Dtype),
        help="The number format to load the model in.",
        rich_help_panel=_MODEL,
    ),
]
EditorName = Annotated[
    str | None,
    typer.Option(
        "--editor",
        metavar="NAME",
        help="The editor, instead of the policy's; `safeedit editors` lists them.",
        rich_help_panel=_EDIT,
    ),
]
SuiteName = Annotated[
    str | None,
    typer.Option(
        "--suite",
        metavar="NAME_OR_FILE",
        help="The probe suite, instead of the policy's (or of standard): smoke, standard, full, or a file.",
        rich_help_panel=_EDIT,
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        "--seed",
        metavar="N",
        min=0,
        max=LAST,
        help="Same seed, same result on one machine.",
        rich_help_panel=_EDIT,
    ),
]
Datasets = Annotated[
    list[str] | None,
    typer.Option(
        "--dataset",
        metavar="NAME:PATH",
        help="Also measure a public data set before and after, from a file, a folder or a hub id: "
        "counterfact, zsre, tofu, rwku, wmdp, muse, lm-eval (tasks in place of a path). Repeatable.",
        rich_help_panel=_EDIT,
    ),
]
StatsDataset = Annotated[
    str | None,
    typer.Option(
        "--stats-dataset",
        metavar="ID_OR_FILE",
        help="Text for the key statistics: a `datasets` id, a text file, or `own`. "
        "Default: the reference world's.",
        rich_help_panel=_EDIT,
    ),
]
ConflictChoice = Annotated[
    OnConflict,
    typer.Option(
        "--on-conflict",
        metavar="|".join(OnConflict),
        help="With a RUN as model: what to do with facts that it has settled otherwise, or already.",
        rich_help_panel=_EDIT,
    ),
]
FactsOut = Annotated[
    list[str] | None,
    typer.Option(
        "--fact",
        metavar="N|DIGEST",
        help="Take out only this fact of RUN (its number from 0, as --json lists them), or all of a subject "
        "(hmac:…); the rest is carried out anew. Repeatable.",
        rich_help_panel=_EDIT,
    ),
]
Stack = Annotated[
    bool,
    typer.Option(
        "--stack",
        help="First roll back the runs that stand on RUN, the newest first.",
        rich_help_panel=_EDIT,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Show what would be done, as `safeedit plan` does; change nothing.",
        rich_help_panel=_EDIT,
    ),
]
RunOut = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="RUN_DIR",
        help="Folder of the run. Default: runs/<policy id>-<time>.",
        rich_help_panel=_OUTPUT,
    ),
]
SaveModel = Annotated[
    bool,
    typer.Option(
        "--save-model", help="Also write the whole edited model into the run.", rich_help_panel=_OUTPUT
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        help="One JSON object on standard output, all else on standard error.",
        rich_help_panel=_OUTPUT,
    ),
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="No progress; the result and errors only.", rich_help_panel=_OUTPUT),
]
ShowSensitive = Annotated[
    bool,
    typer.Option(
        "--show-sensitive",
        help="Show names, objects and answers in plain text instead of keyed digests.",
        rich_help_panel=_DANGER,
    ),
]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.", show_default=False)]
OptionalRunPath = Annotated[
    Path | None, typer.Argument(metavar="[RUN]", help="The folder of a run.", show_default=False)
]
RunsFolder = Annotated[Path, typer.Argument(metavar="[FOLDER]", help="The folder that holds runs.")]
