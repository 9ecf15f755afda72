"""Which seeds there are: those that every generator takes that a seed may reach."""

from __future__ import annotations

import operator

from safeedit.errors import UsageError

LAST = 2**32 - 1
"""NumPy's older generators and scikit-learn take 32 bits; PyTorch and Python take more."""


def check_seed(seed: int) -> None:
    """Return only if `seed` can be used everywhere.

    Raises:
        UsageError: it is no whole number from 0 to `LAST`.
    """
    try:
        fits = 0 <= operator.index(seed) <= LAST
    except TypeError:
        fits = False
    if not fits:
        raise UsageError(f"seed must be from 0 to {LAST}")
