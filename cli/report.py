"""`safeedit report`: a run's evidence for people, and for other programs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .options import RunPath
from .output import tell, write


class ReportFormat(StrEnum):
    """What a report can be written as."""

    HTML = "html"
    MD = "md"
    JSON = "json"
    JUNIT = "junit"
    SARIF = "sarif"
    CYCLONEDX = "cyclonedx"
    MODEL_CARD = "model-card"


Format = Annotated[
    ReportFormat,
    typer.Option("--format", metavar="|".join(ReportFormat), help="What to write."),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="FILE",
        help="Where to. Default: standard output; for html, report.html in the run.",
    ),
]
PolicyPlace = Annotated[
    Path | None,
    typer.Option("--policy", metavar="FILE", help="For sarif: the policy file, which results point at."),
]


def report(
    run: RunPath, format: Format = ReportFormat.HTML, out: Out = None, policy: PolicyPlace = None
) -> None:
    """Write a report of RUN; it holds no name, no prompt and no answer. The log tells of written files."""
    from safeedit.reports.publish import publish

    text, path = publish(run, format.value, out, policy)
    if path is None:
        write(text)
    else:
        tell(f"written to {path}\n")
