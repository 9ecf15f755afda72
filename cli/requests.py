"""`safeedit requests` lists what is open; `safeedit request` notes what happened to one."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import Json, RunsFolder, day
from .output import tell, write_json

if TYPE_CHECKING:
    from safeedit.evidence.requests import Step

app = typer.Typer(
    help="Note what happened to a request: received, acknowledged, answered …",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Case = Annotated[str, typer.Argument(metavar="ID", help="The policy's id.", show_default=False)]
On = Annotated[
    datetime | None,
    typer.Option("--on", metavar="DATE", parser=day, help="The day on which it happened. Default: today."),
]
In = Annotated[Path, typer.Option("--in", metavar="FOLDER", help="The folder that holds runs.")]
All = Annotated[bool, typer.Option("--all", help="Also those that are done.")]
RUNS = Path("runs")


def requests(folder: RunsFolder = RUNS, everything: All = False, as_json: Json = False) -> None:
    """List the open requests in FOLDER: days left, and what is in the way."""
    from safeedit.evidence.blockers import blocks_of
    from safeedit.evidence.requests import requests_of
    from safeedit.runs.audit import utc_now

    today = utc_now().date()
    known = () if folder == RUNS and not folder.exists() else requests_of(folder)
    found = [(request, blocks_of(request, today)) for request in known]
    shown = [(request, blocks) for request, blocks in found if blocks or everything]
    if as_json:
        write_json(
            {
                "folder": str(folder),
                "today": today.isoformat(),
                "requests": [_json(*one, today) for one in shown],
            }
        )
        return
    from .render import Screen
    from .workspace import show_requests

    show_requests(Screen(), folder, shown, today)


def _json(request: Any, blocks: Any, today: Any) -> dict[str, Any]:
    days = request.deadline
    return {
        "id": request.id,
        "regime": request.regime,
        "received": request.received.isoformat(),
        "due": days.due and days.due.isoformat(),
        "last_day": days.last and days.last.isoformat(),
        "days_left": days.days_left(today),
        "overdue": request.closed is None and days.overdue(today),
        "extended": days.extended,
        "source": days.source,
        "acknowledge_by": days.acknowledge_by and days.acknowledge_by.isoformat(),
        "steps": {step: day.isoformat() for step, day in request.steps.items()},
        "outcome": request.outcome,
        "ground": request.ground,
        "recipients": dict(request.recipients),
        "artefacts": [vars(one) for one in request.artefacts],
        "run": str(request.run.path) if request.run else None,
        "blocks": [{"code": block.code, "message": block.message} for block in blocks],
    }


def _note(id: str, step: Step, folder: Path, on: datetime | None, **codes: str | None) -> None:
    from safeedit.evidence.requests import note
    from safeedit.runs.targets import check_folder

    check_folder(folder)
    if step == "received":
        # A request may be the first thing that a workspace is told of.
        folder.mkdir(parents=True, exist_ok=True)
    given: Any = {name: value for name, value in codes.items() if value is not None}
    entry = note(folder, id, step, on=on.date() if on else None, **given)
    tell(f"noted: {id} {step} on {entry.data['on']} (entry {entry.seq} of the ledger)\n")


@app.command("received")
def received(
    id: Case,
    regime: Annotated[str, typer.Option("--regime", metavar="REGIME", help="The rule that it comes under.")],
    on: On = None,
    folder: In = RUNS,
) -> None:
    """A request came in; its clock starts on that day."""
    _note(id, "received", folder, on, regime=regime)


@app.command("identified")
def identified(id: Case, on: On = None, folder: In = RUNS) -> None:
    """Who made the request was verified."""
    _note(id, "identified", folder, on)


@app.command("acknowledged")
def acknowledged(id: Case, on: On = None, folder: In = RUNS) -> None:
    """Receipt was confirmed to the person."""
    _note(id, "acknowledged", folder, on)


@app.command("extended")
def extended(
    id: Case,
    reason: Annotated[
        str, typer.Option("--reason", metavar="CODE", help="complexity or number-of-requests.")
    ],
    on: On = None,
    folder: In = RUNS,
) -> None:
    """The person was told that it takes longer, and why."""
    _note(id, "extended", folder, on, reason=reason)


@app.command("answered")
def answered(
    id: Case,
    outcome: Annotated[
        str, typer.Option("--outcome", metavar="CODE", help="erased, corrected, partly or nothing-held.")
    ],
    on: On = None,
    folder: In = RUNS,
) -> None:
    """The person was answered."""
    _note(id, "answered", folder, on, outcome=outcome)


@app.command("refused")
def refused(
    id: Case,
    ground: Annotated[str, typer.Option("--ground", metavar="CODE", help="The exception that applies.")],
    on: On = None,
    folder: In = RUNS,
) -> None:
    """The request was refused, and the person told why and where to complain."""
    _note(id, "refused", folder, on, ground=ground)


@app.command("notified")
def notified(
    id: Case,
    recipient: Annotated[str, typer.Option("--recipient", metavar="CODE", help="Such as processor-2.")],
    told: Annotated[str, typer.Option("--status", metavar="CODE", help="pending, informed, confirmed …")],
    on: On = None,
    folder: In = RUNS,
) -> None:
    """Somebody who was given the model or the data was told, or is still to be (pending)."""
    _note(id, "notified", folder, on, recipient=recipient, told=told)


@app.command("derived")
def derived(
    id: Case,
    role: Annotated[str, typer.Option("--role", metavar="CODE", help="quantised, merged, cache …")],
    place: Annotated[str, typer.Option("--place", metavar="CODE", help="Such as registry-1.")],
    state: Annotated[str, typer.Option("--status", metavar="CODE", help="pending, edited, withdrawn …")],
    digest: Annotated[str | None, typer.Option("--digest", metavar="SHA256", help="Of the artefact.")] = None,
    on: On = None,
    folder: In = RUNS,
) -> None:
    """Something was made of the model before; it is dealt with, or still to be (pending)."""
    _note(id, "derived", folder, on, role=role, place=place, state=state, digest=digest)
