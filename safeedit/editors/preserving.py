"""What the changes of several layers must leave alone, few layers at a time on the device.

A second moment of keys is larger than the weight that it protects (five times, in float32, where that is
bfloat16), and what is solved with takes twice that. So it waits in the processor's memory, and what is solved
with is made of it when its layer's turn comes. What is ready is kept while that takes little, and the layer
that came last in any case.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from safeedit.editors.solve import Preservation

READY = 256 * 2**20
"""Bytes on the device that layers may take once they are ready for solving; the last one may take more."""

Base = Callable[[int, Tensor], Preservation]
"""From a layer and its keys' second moment, (inner, inner) on the device, to what its changes leave alone."""


class Preserved:
    """By layer, what a solve must leave alone: observed keys, protected ones, and anchors that may give way.

    Args:
        moments: by layer E[k k^T], (inner, inner), on any device.
        base: what is made of them.
        device: where a layer's change is solved for.
    """

    def __init__(self, moments: Mapping[int, Tensor], base: Base, device: torch.device) -> None:
        self._moments, self._base, self._device = dict(moments), base, device
        self._protected: dict[int, Tensor] = {}
        self._anchors: dict[int, Tensor] = {}
        self._part = 1.0
        self._ready: dict[int, Preservation] = {}

    def __getitem__(self, layer: int) -> Preservation:
        """What changes of a layer must leave alone now.

        Raises:
            EditorError: the key statistics are not finite, or not positive.
        """
        if layer not in self._ready:
            # Before it is made, so that no two are there that do not fit together.
            room = READY - 2 * self._moments[layer].nbytes
            while self._ready and sum(one.nbytes for one in self._ready.values()) > room:
                del self._ready[next(iter(self._ready))]
            self._ready[layer] = self._made(layer)
        return self._ready[layer]

    def protect(self, layer: int, moment: Tensor) -> None:
        """Leave other keys of a layer alone as well, whose summed second moment, (inner, inner), this is."""
        self._add(self._protected, layer, moment)

    def anchor(self, layer: int, moment: Tensor) -> None:
        """As `protect`, for keys that may give way."""
        self._add(self._anchors, layer, moment)

    def relax(self, part: float) -> None:
        """From now on anchors count for `part` of their weight."""
        self._part = part
        for layer in self._anchors:
            self._ready.pop(layer, None)

    def _add(self, to: dict[int, Tensor], layer: int, moment: Tensor) -> None:
        to[layer] = to[layer] + moment.cpu() if layer in to else moment.cpu()
        self._ready.pop(layer, None)

    def _made(self, layer: int) -> Preservation:
        made = self._base(layer, self._moments[layer].to(self._device))
        if layer in self._protected:
            made = made.plus(self._protected[layer].to(self._device))
        if layer in self._anchors:
            made = made.plus((self._anchors[layer] * self._part).to(self._device))
        return made
