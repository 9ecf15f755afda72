"""People who are called almost like an edited subject: the third parties most at risk."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import Field

from safeedit.probes.base import Context
from safeedit.probes.fold import edit_distance, key
from safeedit.probes.neighbours import NeighbourOptions, NeighbourProbe, Request, others

SHORTEST_NAME = 3
"""Initials and particles are not names that two people share."""
CLOSE = 2
SHORTEST_CLOSE_NAME = 4


class HomonymOptions(NeighbourOptions):
    """Settings of the homonym probe."""

    n: int = Field(default=150, ge=1)
    """Control facts, at most."""


class Homonyms(NeighbourProbe):
    """Facts of people who share a name, or nearly, with an edited subject stay right.

    Metric: share of facts right before the edit that are wrong after it. Unit: control fact of a
    subject that shares a word of its name with an edited subject, or has one within two letters of
    it (drawn only where exact sharers leave room). Protocol: greedy, the continuation must begin
    with the object. Source: edits act on the subject's last tokens (arXiv 2210.07229), so namesakes
    are the first to be hit.
    """

    id = "locality.homonym"
    options_model = HomonymOptions

    def groups(self, context: Context, request: Request) -> Iterable[list[int]]:
        """Exact sharers of a name first, near ones after."""
        edited = {word for name in request.names for word in name if len(word) >= SHORTEST_NAME}
        candidates = others(context, request)
        yield [i for i, control in candidates if edited & set(key(control.subject))]
        words = {word for _, control in candidates for word in key(control.subject)}
        near = {word for word in words if any(_close(word, name) for name in edited)}
        yield [i for i, control in candidates if near & set(key(control.subject))]


def _close(a: str, b: str) -> bool:
    return min(len(a), len(b)) >= SHORTEST_CLOSE_NAME and edit_distance(a, b, CLOSE) <= CLOSE
