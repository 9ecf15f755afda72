"""Other facts of the edited subjects."""

from __future__ import annotations

from collections.abc import Iterable

from safeedit.probes.base import Context
from safeedit.probes.fold import key
from safeedit.probes.neighbours import NeighbourProbe, Request


class SameSubject(NeighbourProbe):
    """What else the model knows of an edited subject stays right.

    Metric: share of facts right before the edit that are wrong after it. Unit: control fact of an
    edited subject in a relation that is not itself edited. Protocol: greedy, the continuation must
    begin with the object. SKIPPED where no control is about the subjects: either all that is known
    of them goes, or nothing else is. Source: relation specificity (arXiv 2305.13172).
    """

    id = "locality.same_subject"
    nothing = "SKIPPED"

    def groups(self, context: Context, request: Request) -> Iterable[list[int]]:
        """Controls of edited subjects, edited relations left out."""
        yield [
            i
            for i, control in enumerate(context.controls.facts)
            if key(control.subject) in request.names
            and (key(control.subject), control.relation) not in request.edited
        ]
