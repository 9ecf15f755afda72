"""`safeedit rollback`: the base model in its place again."""

from __future__ import annotations

from .options import BaseSource, Json, RunPath
from .output import write_json


def rollback(run: RunPath, base: BaseSource = None, as_json: Json = False) -> None:
    """Make RUN's model the base model again, bit for bit, and log it."""
    from safeedit.runs.rollback import rollback as take_back

    from .render import Screen
    from .views import show_rollback

    record = take_back(run, base=base)
    if as_json:
        digest = record.digests["base_model"]
        write_json({"run": str(run), "status": record.status, "base_model": digest, "exit_code": 0})
    else:
        show_rollback(Screen(), run, record)
