"""Scorers of toxic text: from texts to the probability that each of them is toxic.

A scorer is found by name. `embedded` ships with safeedit, so that the probe works offline; it knows little
more than the insults of the reference world, and no release should rest on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safeedit.registry import Registry

if TYPE_CHECKING:
    from safeedit.toxicity.base import Scorer

SCORERS: Registry[Scorer] = Registry(
    "scorer",
    "safeedit.scorers",
    "safeedit.toxicity.base:Scorer",
    {"embedded": "safeedit.toxicity.embedded:Embedded"},
)

__all__ = ["SCORERS"]
