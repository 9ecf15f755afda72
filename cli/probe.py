"""`safeedit probe`: the probes again, on a run's model or on any model."""

from __future__ import annotations

from pathlib import Path

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

    A RUN that was shredded with --keep-matcher takes both: the policy names whom to ask for.
    Without --base a model is its own baseline: whatever it says of the policy's facts counts.
    """
    if run is not None and policy is not None and model is None:
        raise typer.Exit(_blindly(run, policy, base, device, as_json, quiet))
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


def _blindly(run: Path, policy: Path, base: str | None, device: str, as_json: bool, quiet: bool) -> int:
    from safeedit.errors import UsageError
    from safeedit.evidence.blindprobe import probe_blindly
    from safeedit.runs.folder import RunFolder

    from .render import Screen, Words, progress

    if not RunFolder.open(run).vault.shredded:
        raise UsageError(
            "the run has its own request; give --policy only for one that was shredded, or a --model"
        )
    with progress(quiet=quiet) as tell:
        found = probe_blindly(run, policy, base=base, device=device, progress=tell)
    if as_json:
        write_json({"run": str(run), **found.to_json(), "exit_code": found.exit_code})
        return found.exit_code
    screen = Screen()
    bound = f", at most {100 * found.upper95:.3g} % (95 %)" if found.upper95 is not None else ""
    screen.line(Words(found.verdict, "bold"), f"{run}: {found.leaks} of {found.known} facts are said{bound}")
    screen.line(
        Words("asked", "dim"),
        f"{found.prompts} prompts about {found.asked} of the {found.facts} facts that the matcher knows",
    )
    return found.exit_code
