"""`safeedit plan`, and `--dry-run` of the verbs that change a model."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .options import (
    ConflictChoice,
    Datasets,
    Device,
    Dtype,
    EditorName,
    Json,
    ModelSource,
    NumberFormat,
    OnConflict,
    PolicyFile,
    Quiet,
    Seed,
    ShowSensitive,
    SuiteName,
)
from .output import write_json


def plan(
    policy: PolicyFile,
    model: ModelSource = None,
    device: Device = "auto",
    dtype: NumberFormat = Dtype.AUTO,
    editor: EditorName = None,
    suite: SuiteName = None,
    dataset: Datasets = None,
    seed: Seed = 0,
    on_conflict: ConflictChoice = OnConflict.STOP,
    as_json: Json = False,
    quiet: Quiet = False,
    show_sensitive: ShowSensitive = False,
) -> None:
    """Check a policy and a model, and show what would be done; change nothing."""
    choices: dict[str, Any] = {"model": model, "editor": editor, "suite": suite, "seed": seed}
    choices |= {"device": device, "dtype": dtype.value, "on_conflict": on_conflict.value}
    choices |= {"datasets": dataset or []}
    show(policy, None, as_json, quiet, show_sensitive, **choices)


def show(
    policy: Path,
    kinds: Sequence[str] | None,
    as_json: bool,
    quiet: bool,
    show_sensitive: bool,
    **choices: Any,
) -> None:
    """Make the plan and print it; `choices` are the library's own arguments."""
    from safeedit.runs.plan import plan as make

    from .render import Screen, progress
    from .views import show_plan

    with progress(quiet=quiet) as tell:
        made = make(policy, progress=tell, kinds=kinds, **choices)
    if as_json:
        write_json(made.to_json(show_sensitive=show_sensitive))
    else:
        show_plan(Screen(), made, _command(policy, kinds, choices), show_sensitive=show_sensitive)


def _command(policy: Path, kinds: Sequence[str] | None, choices: Mapping[str, Any]) -> str:
    """The command that does what was planned."""
    words = ["safeedit", kinds[0] if kinds else "apply", "--policy", str(policy)]
    for name, value in choices.items():
        if name == "datasets":
            words += [word for entry in value for word in ("--dataset", entry)]
        elif value not in (None, 0, "auto", "stop"):
            words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join(words)
