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
        near = _close_to_any(words, edited)
        yield [i for i, control in candidates if near & set(key(control.subject))]


def _close_to_any(words: Iterable[str], names: Iterable[str]) -> set[str]:
    """Those of `words` that are within `CLOSE` letters of one of `names`.

    Two words so close become the same when at most `CLOSE` letters are left out of each. Only words
    that do are compared, so that ten thousand names take no longer to look through than to read.
    """
    becomes: dict[str, set[str]] = {}
    for word in words:
        if len(word) >= SHORTEST_CLOSE_NAME:
            for short in _shortened(word):
                becomes.setdefault(short, set()).add(word)
    found: set[str] = set()
    for name in names:
        if len(name) >= SHORTEST_CLOSE_NAME:
            alike = {word for short in _shortened(name) for word in becomes.get(short, ())} - found
            found |= {word for word in alike if edit_distance(word, name, CLOSE) <= CLOSE}
    return found


def _shortened(word: str) -> set[str]:
    """The word, and all that is left of it without up to `CLOSE` of its letters."""
    found = {word}
    for _ in range(CLOSE):
        found |= {one[:i] + one[i + 1 :] for one in found for i in range(len(one))}
    return found
