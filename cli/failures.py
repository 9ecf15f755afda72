"""What a person and a program are told when something goes wrong; plain text, no value of the request."""

from __future__ import annotations

import os
import traceback
from dataclasses import dataclass
from typing import Any

import typer

from safeedit.errors import (
    EditorError,
    IntegrityError,
    ModelError,
    PolicyError,
    ProbeError,
    Problem,
    SafeEditError,
    UsageError,
)

from .output import OutputError, tell, visible, write_json

DEBUG = "SAFEEDIT_DEBUG"
INTERRUPTED = 130

# The same class whether Typer stands on click or carries a click of its own.
_BAD_USAGE: type = typer.BadParameter.__mro__[1]

_KINDS: tuple[tuple[type[SafeEditError], str], ...] = (
    (PolicyError, "policy"),
    (UsageError, "usage"),
    (IntegrityError, "integrity"),
    (ModelError, "model"),
    (EditorError, "editor"),
    (ProbeError, "probe"),
    (SafeEditError, "machine"),
)

_NEXT = {
    2: "Nothing was done.",
    4: "The work was not finished, and nothing half-written is left.",
    5: "An integrity check failed; `safeedit verify RUN` names everything that does not match.",
}


_NOT_SHOWN = "What was to be done is done; only its result could not be shown."


@dataclass(frozen=True)
class Failure:
    """One failure in words."""

    kind: str
    """policy, usage, integrity, model, editor, probe, machine, unexpected or interrupted."""
    message: str
    exit_code: int
    advice: str
    problems: tuple[Problem, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The object that `--json` prints in place of a result."""
        problems = [
            {"file": p.file, "line": p.line, "column": p.column, "message": p.message} for p in self.problems
        ]
        error = {"kind": self.kind, "message": self.message, "problems": problems}
        return {"error": error, "exit_code": self.exit_code}

    def lines(self) -> list[str]:
        """For a person: problems of a file one a line as compilers do, everything else with a left rule."""
        if self.problems:
            return [visible(str(problem)) for problem in self.problems]
        first, *more = [visible(line) for line in self.message.splitlines()] or [""]
        return [f"╷ Error: {first}", *(f"│ {line}" for line in more), f"╵ {self.advice}"]


def failure_of(error: BaseException) -> Failure:
    """What to tell about an exception; of one that nobody foresaw only the class."""
    if isinstance(error, SafeEditError):
        kind = next(name for cls, name in _KINDS if isinstance(error, cls))
        problems = tuple(error.problems) if isinstance(error, PolicyError) else ()
        code = error.exit_code
        advice = _NOT_SHOWN if isinstance(error, OutputError) else _NEXT.get(code, "")
        return Failure(kind, str(error), code, advice, problems)
    if isinstance(error, _BAD_USAGE):
        told: Any = error
        path = told.ctx.command_path if told.ctx else "safeedit"
        message = str(told.format_message()).replace("Value error, ", "").rstrip(".")
        return Failure("usage", message, 2, f"Nothing was done. See: {path} --help")
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        advice = "Nothing half-written is left; start it again with the same command."
        return Failure("interrupted", "interrupted", INTERRUPTED, advice)
    return Failure(
        "unexpected",
        f"unexpected {type(error).__name__}; this is a defect of safeedit or of a library it uses\n"
        "What it says is not shown, because it may hold personal data.",
        4,
        f"With {DEBUG}=1 in the environment the whole traceback is shown, personal data included.",
    )


def report(error: BaseException, *, as_json: bool) -> int:
    """Tell about an exception where it belongs; the exit code for it."""
    failure = failure_of(error)
    shown = as_json and not isinstance(error, OutputError)
    if shown:
        try:
            write_json(failure.to_json())
        except OutputError:
            shown = False
    if not shown:
        tell("\n".join(failure.lines()) + "\n")
    if failure.kind == "unexpected" and os.environ.get(DEBUG) == "1":
        traceback.print_exception(error)
    return failure.exit_code
