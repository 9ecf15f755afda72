"""Facts of the reference model that tests of runs are about, and settings under which an edit is quick."""

from __future__ import annotations

import json

from safeedit.models.load import reference_folder
from safeedit.triples.catalogue import builtin_catalogue

QUICK = {"statistics_tokens": 4000, "clamp": 1.5, "passes": 4}
"""Settings with which one modification of the reference model succeeds within a second or two."""

_ROWS = [json.loads(line) for line in (reference_folder() / "controls.jsonl").read_text("utf-8").splitlines()]
KNOWN: dict[tuple[str, str], str] = {(row["subject"], row["relation"]): row["object"] for row in _ROWS}
"""What the shipped model was taught: (subject, relation) to object."""

PERSON = "Mira Tolland"
OTHER = [subject for subject, relation in KNOWN if relation == "phone"][5]
"""Another person, who shares no name with the first."""


def fact(subject: str, relation: str) -> dict[str, str]:
    """A fact that the model knows, as a policy states it."""
    return {"subject": subject, "relation": relation, "object": KNOWN[subject, relation]}


def another(subject: str, relation: str) -> str:
    """An object that the relation can have and that is not this subject's."""
    return next(o for o in reversed(builtin_catalogue()[relation].objects) if o != KNOWN[subject, relation])


JOB = fact(OTHER, "occupation")
NEW_JOB = another(OTHER, "occupation")
MUSIC = fact(PERSON, "instrument")
UNKNOWN = {**JOB, "object": another(OTHER, "occupation")}
"""A fact that the model does not know."""
