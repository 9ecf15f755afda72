"""People who are called nearly like an edited subject, and share no name with it."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import Field

from safeedit.probes.base import Context
from safeedit.probes.names import close_to_any, names_in
from safeedit.probes.neighbours import NeighbourOptions, NeighbourProbe, Request, others


class NearNameOptions(NeighbourOptions):
    """Settings of the probe of near names."""

    n: int = Field(default=100, ge=1)
    """Control facts, at most."""


class NearNames(NeighbourProbe):
    """Facts of people who are called nearly like an edited subject stay right.

    Metric: share of facts right before the edit that are wrong after it. Unit: control fact of a
    subject that shares no name with an edited one and has a name within two letters of one of its
    names. Protocol: greedy, the continuation must begin with the object. SKIPPED where nobody is
    called so. They are not counted with those who share a name (`locality.homonym`), among whom a
    loss would be diluted. Source: edits act on the subject's last tokens (arXiv 2210.07229), which
    names that begin or end alike may share.
    """

    id = "locality.near_name"
    nothing = "SKIPPED"
    options: NearNameOptions
    options_model = NearNameOptions

    def groups(self, context: Context, request: Request) -> Iterable[list[int]]:
        """Those within two letters who share no whole name."""
        edited = request.words
        candidates = [(i, names_in(control.subject)) for i, control in others(context, request)]
        near = close_to_any({word for _, words in candidates for word in words}, edited)
        yield [i for i, words in candidates if near & words and not edited & words]
