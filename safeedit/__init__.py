"""Teach, correct and erase facts in a language model, and prove it.

    policy = safeedit.Policy.load("gdpr_request.yaml")
    run = safeedit.apply(policy, model="path-or-id", out="runs/x")
    model, tokenizer = safeedit.load("runs/x")

Everything here is imported when it is first used, so that `import safeedit` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safeedit import editors as editors
    from safeedit import errors as errors
    from safeedit.errors import SafeEditError as SafeEditError
    from safeedit.evidence.shred import shred as shred
    from safeedit.patch import Patch as Patch
    from safeedit.policy import Policy as Policy
    from safeedit.reports.publish import publish as report
    from safeedit.runs.execute import apply as apply
    from safeedit.runs.export import export as export
    from safeedit.runs.listing import list_runs as list_runs
    from safeedit.runs.loading import load as load
    from safeedit.runs.outcome import Run as Run
    from safeedit.runs.plan import plan as plan
    from safeedit.runs.reprobe import probe as probe
    from safeedit.runs.rollback import rollback as rollback
    from safeedit.runs.takeout import take_out as take_out
    from safeedit.runs.verify import verify_run as verify
    from safeedit.triples.facts import Edit as Edit

_EXPORTS = {
    "Edit": "safeedit.triples.facts:Edit",
    "Patch": "safeedit.patch:Patch",
    "Policy": "safeedit.policy:Policy",
    "Run": "safeedit.runs.outcome:Run",
    "SafeEditError": "safeedit.errors:SafeEditError",
    "apply": "safeedit.runs.execute:apply",
    "editors": "safeedit.editors:",
    "errors": "safeedit.errors:",
    "export": "safeedit.runs.export:export",
    "list_runs": "safeedit.runs.listing:list_runs",
    "load": "safeedit.runs.loading:load",
    "plan": "safeedit.runs.plan:plan",
    "report": "safeedit.reports.publish:publish",
    "probe": "safeedit.runs.reprobe:probe",
    "rollback": "safeedit.runs.rollback:rollback",
    "shred": "safeedit.evidence.shred:shred",
    "take_out": "safeedit.runs.takeout:take_out",
    "verify": "safeedit.runs.verify:verify_run",
}

__all__ = [
    "Edit",
    "Patch",
    "Policy",
    "Run",
    "SafeEditError",
    "apply",
    "editors",
    "errors",
    "export",
    "list_runs",
    "load",
    "plan",
    "probe",
    "report",
    "rollback",
    "shred",
    "take_out",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("safeedit")
    if name not in _EXPORTS:
        raise AttributeError(f"module 'safeedit' has no attribute {name!r}")
    module, _, attribute = _EXPORTS[name].partition(":")
    found = import_module(module)
    return getattr(found, attribute) if attribute else found


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, "__version__"])
