"""AlphaEdit: changes that observed keys cannot feel (Fang et al., arXiv 2410.02355).

Values are searched and spread over layers as in MEMIT. But instead of weighing what a change does
to observed keys, it is kept out of the directions that those keys mostly have (`constrained`).

Deviations, all of them settings:
- The directions are the fewest that hold a share of the keys' energy (`energy`): the published bound
  on eigenvalues (`threshold`) presumes a scale of keys, and on other models takes all or none.
- The ridge is in units of the mean squared norm of a key (`ridge`); `l2` is the published one.
- In the directions left free, observed keys still count as in MEMIT (`preserve`; 0 is published).
- Keys of edits made in the same call stay where they are while others are edited; those of earlier
  patches do so no longer than the statistics show them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from safeedit.editors import memit
from safeedit.editors.base import Params as BaseParams
from safeedit.editors.constrained import Projected, main_directions, projected_change
from safeedit.editors.passes import Changes, Work
from safeedit.editors.preserving import Preserved
from safeedit.errors import UsageError

_PAPER: dict[str, Any] = {"threshold": 2e-2, "l2": 10.0, "preserve": 0.0}
PUBLISHED = {name: {**settings, **_PAPER} for name, settings in memit.PUBLISHED.items()}
"""Published settings; where values are put and how they are searched is MEMIT's."""


class Params(memit.Params):
    """Settings of AlphaEdit: MEMIT's, but for what is preserved."""

    published: ClassVar[Mapping[str, Mapping[str, Any]]] = PUBLISHED
    instead: ClassVar[Mapping[str, str]] = {"energy": "threshold", "ridge": "l2"}

    preserve: float | None = Field(default=None, ge=0)
    """How many observed keys count in the free directions, as in MEMIT; 0 for none, as published."""
    energy: float = Field(default=0.5, ge=0, lt=1)
    """Share of the observed keys' squared norm whose directions no change may have."""
    threshold: float | None = Field(default=None, gt=0)
    """Mean square of a direction, from which on no change may have it; replaces `energy`."""
    ridge: float = Field(default=0.01, gt=0)
    """Cost of a change's size, in units of the mean squared norm of an observed key."""
    l2: float | None = Field(default=None, gt=0)
    """That cost as such; replaces `ridge`."""


class AlphaEdit(memit.Memit):
    """Mass editing by changes in the null space of observed keys."""

    name: ClassVar[str] = "alphaedit"
    summary: ClassVar[str] = "as memit, with changes kept out of the directions that other keys have"
    paper: ClassVar[str] = "2410.02355"
    Params: ClassVar[type[BaseParams]] = Params

    def _change(self, work: Work) -> Changes:
        assert isinstance(self.params, Params)
        params, device = self.params, work.segment.decoder.device
        avoided: dict[int, Tensor] = {}
        for layer, moment in work.moments.items():
            energy = params.energy if params.threshold is None else None
            found = main_directions(moment.to(device), energy=energy, threshold=params.threshold)
            if found.shape[1] == len(moment):
                name = "energy" if params.threshold is None else "threshold"
                raise UsageError(f"editor {self.name}: {name}: it leaves no direction free in block {layer}")
            avoided[layer] = found.cpu()

        def base(layer: int, moment: Tensor) -> Projected:
            ridge = params.l2 or params.ridge * float(moment.diagonal().sum())
            kept = Projected.within(avoided[layer].to(device), ridge)
            weight = memit.default_preserve(len(moment)) if params.preserve is None else params.preserve
            return kept.plus(weight * moment) if weight else kept

        return work.run(work.insertion(Preserved(work.moments, base, device), projected_change))
