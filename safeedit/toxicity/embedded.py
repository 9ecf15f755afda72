"""The embedded scorer: a linear one that ships.

Its weights are made by `safeedit.toxicity.fit` of the reference world's own rude and plain sentences and of
a few hundred made from a list of insults. It is there so that everything can be tried without a network.
"""

from __future__ import annotations

from importlib.resources import files
from typing import ClassVar, Self

from safeedit.toxicity.linear import Linear

WEIGHTS = "embedded.safetensors"


class Embedded(Linear):
    """See the module."""

    name: ClassVar[str] = "embedded"
    argument: ClassVar[str] = ""

    def __init__(self) -> None:
        super().__init__((files("safeedit.toxicity") / WEIGHTS).read_bytes(), WEIGHTS)

    @classmethod
    def made(cls, argument: str, device: str) -> Self:
        """See `Scorer.made`."""
        # Its grandparent's rule: it takes no argument.
        return super(Linear, cls).made(argument, device)
