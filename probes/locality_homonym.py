"""People who share a name with an edited subject: the third parties most at risk."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import Field

from safeedit.probes.base import Context
from safeedit.probes.names import names_in
from safeedit.probes.neighbours import NeighbourOptions, NeighbourProbe, Request, others


class HomonymOptions(NeighbourOptions):
    """Settings of the homonym probe."""

    n: int = Field(default=150, ge=1)
    """Control facts, at most."""
    questions: int = Field(default=60, ge=1)
    """So many at least, as far as there are phrasings: few namesakes are asked in several each."""


class Homonyms(NeighbourProbe):
    """Facts of people who share a name with an edited subject stay right.

    Metric: share of facts right before the edit that are wrong after it. Unit: control fact of a
    subject that shares a word of its name with an edited subject. Protocol: greedy, the continuation
    must begin with the object. Fewer than 59 are counted out: all of them are asked, and what is said
    is said of them alone. The common knowledge that ships with safeedit is no list of anybody's
    namesakes, and few of its facts decide nothing. Source: edits act on the subject's last tokens
    (arXiv 2210.07229), so namesakes are the first to be hit.
    """

    id = "locality.homonym"
    options: HomonymOptions
    options_model = HomonymOptions

    def phrasings(self, facts: int) -> int:
        """More of them for few facts."""
        return max(self.options.prompts, -(-self.options.questions // max(1, facts)))

    def frame(self, context: Context, found: int) -> int | None:
        """All that there are, if the controls were made for the model."""
        return None if context.controls.shipped else found

    def groups(self, context: Context, request: Request) -> Iterable[list[int]]:
        """Sharers of a word of a name."""
        found = others(context, request)
        yield [i for i, control in found if request.words & names_in(control.subject)]
