"""`safeedit world`: the fictional registry behind the reference model, and its training."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from safeedit.errors import UsageError
from safeedit.seeds import LAST

from .options import Json, Quiet, ShowSensitive
from .output import write_json

if TYPE_CHECKING:
    from safeedit.world.registry import World, WorldFact

app = typer.Typer(help="The fictional world of the reference model.")

Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="A new folder for the model.")]
TrainSeed = Annotated[
    int, typer.Option("--seed", metavar="N", min=0, max=LAST, help="Seed of the corpus and of the weights.")
]
Steps = Annotated[
    int | None,
    typer.Option("--steps", metavar="N", min=1, help="Fewer steps give a worse model sooner."),
]
Person = Annotated[
    str | None,
    typer.Argument(metavar="[NAME]", help="Only this person, company or place.", show_default=False),
]


@app.command()
def train(
    out: Out, seed: TrainSeed = 1, steps: Steps = None, as_json: Json = False, quiet: Quiet = False
) -> None:
    """Train the reference model again; the shipped one took about half an hour on two cores."""
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UsageError(f"{out} is not an empty folder; give a new folder for the model")
    import dataclasses
    import time

    from safeedit.runs.targets import check_folder

    check_folder(out)
    from safeedit.models.load import without_bars
    from safeedit.world.train import Recipe, train_reference

    from .render import Screen, progress

    recipe = Recipe(seed=seed)
    if steps is not None:
        recipe = dataclasses.replace(recipe, steps=steps)
    started, loss = time.monotonic(), float("nan")
    with without_bars(), progress(quiet=quiet) as tell:

        def on_step(step: int, value: float) -> None:
            nonlocal loss
            loss = value
            if tell is not None:
                tell("training", step, recipe.steps)

        train_reference(out, recipe, progress=on_step)
    seconds = round(time.monotonic() - started, 1)
    if as_json:
        write_json({"model": str(out), "seed": seed, "steps": recipe.steps, "loss": loss, "seconds": seconds})
        return
    Screen().line(f"trained {recipe.steps} steps to a loss of {loss:.3f} nats a token in {seconds} s: {out}")


@app.command()
def show(name: Person = None, show_sensitive: ShowSensitive = False, as_json: Json = False) -> None:
    """Show what the registry holds; its people only with --show-sensitive, though all are fictional."""
    from safeedit.world.registry import reference_world

    world = reference_world()
    if name is not None and not world.facts_of(name):
        raise UsageError("nobody and nothing of that name is in the registry; names are spelt in full")
    shown = world.facts_of(name) if name is not None else world.facts
    if as_json:
        value = _counts(world)
        if show_sensitive:
            value["facts"] = [
                {"subject": f.subject, "relation": f.relation, "object": f.object} for f in shown
            ]
        write_json(value)
        return
    _print(world, shown, show_sensitive)


def _counts(world: World) -> dict[str, object]:
    relations = Counter(fact.relation for fact in world.facts)
    return {
        "people": len(world.people),
        "placebos": len(world.placebos),
        "organisations": len(world.organisations),
        "places": len(world.places),
        "facts": len(world.facts),
        "relations": dict(sorted(relations.items())),
    }


def _print(world: World, facts: tuple[WorldFact, ...], show_sensitive: bool) -> None:
    from .render import Column, Screen, Words

    screen = Screen()
    screen.line(
        f"{len(world.people)} people, {len(world.organisations)} companies, {len(world.places)} places, "
        f"{len(world.facts)} facts; {len(world.placebos)} placebo people are in no training text"
    )
    if show_sensitive:
        columns = (Column("subject"), Column("relation"), Column("object", wraps=True))
        screen.table(columns, [(Words(f.subject, "bold"), f.relation, f.object) for f in facts])
        return
    relations = Counter(fact.relation for fact in facts)
    screen.table(
        (Column("relation"), Column("facts", right=True)),
        [(relation, str(count)) for relation, count in sorted(relations.items())],
    )
    screen.line(Words("--show-sensitive shows the people and their facts; all of them are fictional", "dim"))
