"""The edited relations of everybody else; all of them, where it is behaviours that are edited."""

from __future__ import annotations

from collections.abc import Iterable

from safeedit.probes.base import Context
from safeedit.probes.neighbours import NeighbourProbe, Request, others


class SameRelation(NeighbourProbe):
    """The edited relation stays right for other subjects.

    Metric: share of facts right before the edit that are wrong after it. Unit: control fact of
    another subject in an edited relation, or, beside behaviours, in any: a better manner must not cost
    knowledge. Protocol: greedy, the continuation must begin with the
    object. Source: the neighbourhood of CounterFact (arXiv 2202.05262), as transitions of
    correctness instead of likelihoods.
    """

    id = "locality.same_relation"

    def groups(self, context: Context, request: Request) -> Iterable[list[int]]:
        """Controls of other subjects in edited relations, or in all."""
        everything = bool(context.behaviours)
        yield [
            i
            for i, control in others(context, request)
            if everything or control.relation in request.relations
        ]
