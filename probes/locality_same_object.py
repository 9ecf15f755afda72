"""Everybody else who shares an edited object."""

from __future__ import annotations

from collections.abc import Iterable

from safeedit.probes.base import Context
from safeedit.probes.fold import key
from safeedit.probes.neighbours import NeighbourProbe, Request, others


class SameObject(NeighbourProbe):
    """Other subjects keep an object that was taken from, or given to, an edited one.

    Metric: share of facts right before the edit that are wrong after it. Unit: control fact of
    another subject whose object is an old or a new object of the request. Protocol: greedy, the
    continuation must begin with the object. SKIPPED where nobody shares an object (a telephone
    number). Source: the neighbourhood score of CounterFact (arXiv 2202.05262).
    """

    id = "locality.same_object"
    nothing = "SKIPPED"

    def groups(self, context: Context, request: Request) -> Iterable[list[int]]:
        """Controls of other subjects with an object of the request."""
        yield [i for i, control in others(context, request) if key(control.object) in request.objects]
