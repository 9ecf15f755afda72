"""What a key-value cache holds beside a model's own layers: something that is known of each token so far.

It is one more layer of the cache, so that it goes wherever a row goes: beams that are reordered, rows that
leave a batch, tokens that are taken back, generations that take turns, caches that are copied.
"""

from __future__ import annotations

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class Trail(DynamicLayer):  # type: ignore[misc]
    """A number for each token so far, kept for somebody who asks the cache for it by name.

    Args:
        owner: whose it is; the same for the same thing at the same place, in a copy as well.
        at: (rows, 1, tokens, 1) float32.
        quiet: whether certainly all are zero, which holds for whatever rows and tokens are taken.
    """

    is_compileable = True
    """A cache is one of a fixed size, which needs masks of its own, if all its layers are: others decide."""

    def __init__(self, owner: str, at: Tensor, quiet: bool) -> None:
        super().__init__()
        self.owner = owner
        self.quiet = quiet
        self.lazy_initialization(at, at)
        self.keys = self.values = at

    def rows(self, index: Tensor | slice) -> Trail:
        """Only the rows of `index`, as a layer of its own."""
        return Trail(self.owner, self.keys[index], self.quiet)


def trails(cache: Cache) -> tuple[Trail, ...]:
    """All that a cache holds beside a model's own layers."""
    return tuple(layer for layer in cache.layers if isinstance(layer, Trail))
