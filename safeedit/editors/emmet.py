"""EMMET: ROME for many names at once (Gupta, Sajnani and Anumanchipalli, arXiv 2403.14236).

One layer is changed, by the least change with which every name's value holds exactly (`constrained`).
With one name it is R-ROME; with `slack` 1 it is MEMIT in one layer. Values are searched for all names
together.

Deviation, a setting: values may give a little by default. Exactly, a hundred names with five prompts each
contradict each other so much that nothing is left of the model (BENCHMARKS.md); presets hold them exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

from pydantic import Field

from safeedit.editors import rome
from safeedit.editors.base import Params as BaseParams
from safeedit.editors.constrained import equal_change
from safeedit.editors.passes import Changes, Work

PUBLISHED: dict[str, dict[str, Any]] = {
    name: {**values, "slack": 0.0} for name, values in rome.PUBLISHED.items()
}


class Params(rome.Params):
    """Settings of EMMET: ROME's, and how exactly values hold."""

    published: ClassVar[Mapping[str, Mapping[str, Any]]] = PUBLISHED

    clamp: float = Field(default=0.5, gt=0)
    """Largest change of the hidden state at a name's last token, relative to its norm."""
    stop: float = Field(default=0.08, ge=0)
    """Mean loss, in nats, at which an insertion or modification is finished."""
    slack: float = Field(default=0.1, ge=0)
    """How much values may give, for less change elsewhere: 0 for not at all, 1 for as much as in MEMIT."""


class Emmet(rome.OneLayer):
    """Many names at once, exactly, by a change of one layer."""

    name: ClassVar[str] = "emmet"
    summary: ClassVar[str] = "closed-form change of one MLP layer; all values hold, exactly if asked for"
    paper: ClassVar[str] = "2403.14236"
    Params: ClassVar[type[BaseParams]] = Params

    def _change(self, work: Work) -> Changes:
        assert isinstance(self.params, Params)
        work = rome.by_prompt(work)
        solve: Any = partial(equal_change, slack=self.params.slack)
        return work.run(work.insertion(self._preserved(work), solve))
