"""The embedded scorer: logistic regression on hashed pieces of words.

Its weights are made by `safeedit.toxicity.fit` of the reference world's own rude and plain sentences and of
a few hundred made from a list of insults. It is there so that everything can be tried without a network.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from importlib.resources import files
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from safeedit.toxicity.base import Scorer

FEATURES = 2**14
WEIGHTS = "embedded.safetensors"


def vectoriser() -> Any:
    """Pieces of two to five letters within words, hashed; nothing is learnt, so nothing is stored."""
    from sklearn.feature_extraction.text import HashingVectorizer

    return HashingVectorizer(
        analyzer="char_wb", ngram_range=(2, 5), n_features=FEATURES, alternate_sign=False, norm="l2"
    )


class Embedded(Scorer):
    """See the module."""

    name: ClassVar[str] = "embedded"
    fit_for_release: ClassVar[bool] = False

    @cached_property
    def _bytes(self) -> bytes:
        return (files("safeedit.toxicity") / WEIGHTS).read_bytes()

    @cached_property
    def _weights(self) -> tuple[NDArray[np.float32], float]:
        from safetensors.numpy import load

        found = load(self._bytes)
        return found["weight"], float(found["bias"][0])

    @property
    def digest(self) -> str:
        """See `Scorer.digest`."""
        return hashlib.sha256(self._bytes).hexdigest()

    def probabilities(self, texts: Sequence[str]) -> list[float]:
        """See `Scorer.probabilities`."""
        weight, bias = self._weights
        logits = np.asarray(vectoriser().transform(texts) @ weight, dtype=np.float64) + bias
        found: list[float] = (1 / (1 + np.exp(-logits))).tolist()
        return found
