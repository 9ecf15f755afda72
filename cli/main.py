"""The `safeedit` command: its verbs, and the one place where what goes wrong is told.

Nothing here imports the library's heavy parts: a verb imports what it needs when it runs, so that
`safeedit --help` and a faulty policy are answered at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from . import (
    calibrate,
    check,
    edit,
    export,
    keys,
    ledger,
    lint,
    lists,
    locate,
    model,
    plan,
    probe,
    requests,
    rollback,
    runs,
    shred,
    sign_off,
    verify,
    world,
)
from . import report as report_verb
from .failures import INTERRUPTED, report
from .output import survive_any_encoding, write


class _OneErrorHandler(TyperGroup):
    """A group of verbs whose every failure ends in `report`, and every end in an exit code."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the verb that `args` names, and exit with its code."""
        survive_any_encoding()
        given = list(sys.argv[1:] if args is None else args) or ["--help"]
        as_json = "--json" in given
        try:
            code = super().main(given, "safeedit", complete_var, standalone_mode=False, **extra)
            if code == INTERRUPTED:  # Typer swallows the exception and leaves only its code.
                report(KeyboardInterrupt(), as_json=as_json)
        except (Exception, KeyboardInterrupt) as error:
            code = report(error, as_json=as_json)
        sys.exit(code)


app = typer.Typer(
    name="safeedit",
    cls=_OneErrorHandler,
    help="Teach, correct and erase facts in a language model, and prove it.",
    epilog=(
        "Exit codes: 0 every required gate passed · 1 a required gate failed · 2 usage or policy error, "
        "nothing done · 3 inconclusive · 4 model, editor or machine failed · 5 integrity check failed"
    ),
    pretty_exceptions_enable=False,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        write(f"safeedit {version('safeedit')}\n")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


_CHANGE, _CHECK, _LOOK = "Change a model", "Check and undo", "Look around"

for name, kinds, help_text in (
    ("erase", ("erase",), "Make the model forget what a policy's erase operations name."),
    ("modify", ("modify",), "Give the facts of a policy's modify operations another object."),
    ("insert", ("insert",), "Teach the facts of a policy's insert operations."),
    ("detox", ("detox",), "Take away the behaviours of a policy's detox operations."),
    ("apply", None, "Run every operation of a policy."),
):
    app.command(name, help=help_text, rich_help_panel=_CHANGE)(edit.command(kinds))
app.command("plan", rich_help_panel=_CHANGE)(plan.plan)
app.command("lint", rich_help_panel=_CHANGE)(lint.lint)
app.command("probe", rich_help_panel=_CHECK)(probe.probe)
app.command("verify", rich_help_panel=_CHECK)(verify.verify)
app.command("sign-off", rich_help_panel=_CHECK)(sign_off.sign_off)
app.command("shred", rich_help_panel=_CHECK)(shred.shred)
app.command("rollback", rich_help_panel=_CHECK)(rollback.rollback)
app.command("export", rich_help_panel=_CHECK)(export.export)
app.command("report", rich_help_panel=_CHECK)(report_verb.report)
app.command("requests", rich_help_panel=_CHECK)(requests.requests)
app.add_typer(requests.app, name="request", rich_help_panel=_CHECK)
app.command("check", rich_help_panel=_CHECK)(check.check)
app.command("runs", rich_help_panel=_LOOK)(runs.runs)
app.command("locate", rich_help_panel=_LOOK)(locate.locate)
app.command("calibrate", rich_help_panel=_LOOK)(calibrate.calibrate)
app.command("editors", rich_help_panel=_LOOK)(lists.editors)
app.command("probes", rich_help_panel=_LOOK)(lists.probes)
app.add_typer(keys.app, name="keys", rich_help_panel=_CHECK)
app.add_typer(model.app, name="model", rich_help_panel=_CHECK)
app.add_typer(ledger.app, name="ledger", rich_help_panel=_CHECK)
app.add_typer(world.app, name="world", rich_help_panel=_LOOK)


def main() -> None:
    """The console script."""
    app()
