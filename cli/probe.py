"""`safeedit probe`: the probes again, on a run's model or on any model."""

from __future__ import annotations

import typer

from .options import (
    BaseSource,
    Datasets,
    Device,
    Dtype,
    Json,
    ModelSource,
    NumberFormat,
    OptionalPolicyFile,
    OptionalRunPath,
    Quiet,
    Seed,
    SuiteName,
)
from .output import write_json


def probe(
    run: OptionalRunPath = None,
    policy: OptionalPolicyFile = None,
    model: ModelSource = None,
    base: BaseSource = None,
    device: Device = "auto",
    dtype: NumberFormat = Dtype.AUTO,
    suite: SuiteName = None,
    dataset: Datasets = None,
    seed: Seed = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run the probes again on RUN's model, or with --policy on any model.

    Without --base a model is its own baseline: whatever it says of the policy's facts counts.
    """
    from safeedit.runs.reprobe import probe as measure

    from .render import Screen, progress
    from .views import show_report

    with progress(quiet=quiet) as tell:
        report = measure(
            run,
            model=model,
            policy=policy,
            suite=suite,
            datasets=dataset or (),
            base=base,
            seed=seed,
            device=device,
            dtype=dtype.value,
            progress=tell,
        )
    if as_json:
        write_json({**report.to_json(), "exit_code": report.exit_code})
    else:
        show_report(Screen(), report)
    raise typer.Exit(report.exit_code)
