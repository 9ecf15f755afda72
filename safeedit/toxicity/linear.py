"""A linear scorer: logistic regression on hashed pieces of words, of weights that one's own texts gave.

``python -m safeedit.toxicity.fit`` fits one. It reads pieces of words and no sentences: that somebody was
called a fool, in a report, is not told apart from calling somebody one. So it is no ground for a release.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from safeedit.errors import UsageError
from safeedit.policy.files import shown_path, why_unreadable
from safeedit.toxicity.base import Scorer
from safeedit.toxicity.files import Stamp

FEATURES = 2**14
MAX_BYTES = 2**24


def vectoriser() -> Any:
    """Pieces of two to five letters within words, hashed; nothing is learnt, so nothing is stored."""
    from sklearn.feature_extraction.text import HashingVectorizer

    return HashingVectorizer(
        analyzer="char_wb", ngram_range=(2, 5), n_features=FEATURES, alternate_sign=False, norm="l2"
    )


class Linear(Scorer):
    """See the module."""

    name: ClassVar[str] = "linear"
    fit_for_release = False
    argument: ClassVar[str] = "FILE.safetensors"

    def __init__(self, data: bytes, shown: str, stamp: Stamp | None = None) -> None:
        """Of a file's bytes.

        Raises:
            UsageError: they are not what `safeedit.toxicity.fit` writes.
        """
        self._digest = hashlib.sha256(data).hexdigest()
        self._weight, self._bias = _weights(data, shown)
        self._stamp = stamp

    @classmethod
    def made(cls, argument: str, device: str) -> Self:
        """See `Scorer.made`."""
        if not argument:
            raise UsageError(f"the scorer 'linear' needs a file: linear:{cls.argument}")
        path, shown = Path(argument), shown_path(argument)
        reason, data = "", b""
        try:
            stamp = Stamp([path])
            with path.open("rb") as stream:
                data = stream.read(MAX_BYTES + 1)
        except (OSError, ValueError) as error:
            reason = why_unreadable(error)
        if reason:
            raise UsageError(f"{shown}: {reason}")
        return cls(data, shown, stamp)

    @property
    def digest(self) -> str:
        """See `Scorer.digest`."""
        return self._digest

    @property
    def stale(self) -> bool:
        """See `Scorer.stale`."""
        return self._stamp is not None and self._stamp.changed()

    def probabilities(self, texts: Sequence[str]) -> list[float]:
        """See `Scorer.probabilities`."""
        logits = np.asarray(vectoriser().transform(texts) @ self._weight, dtype=np.float64) + self._bias
        # As the half of a tanh it neither overflows nor warns, however sure the scorer is.
        found: list[float] = ((1 + np.tanh(logits / 2)) / 2).tolist()
        return found


def _weights(data: bytes, shown: str) -> tuple[NDArray[np.float32], float]:
    """The weight (FEATURES,) and the bias."""
    from safetensors.numpy import load

    wrong = f"{shown} is not a linear scorer; python -m safeedit.toxicity.fit makes one"
    found: dict[str, NDArray[np.float32]] = {}
    try:
        found = load(data)
    except Exception:
        found = {}
    shapes = {name: (tensor.shape, str(tensor.dtype)) for name, tensor in found.items()}
    if shapes != {"weight": ((FEATURES,), "float32"), "bias": ((1,), "float32")}:
        raise UsageError(wrong)
    if not all(np.isfinite(tensor).all() for tensor in found.values()):
        raise UsageError(f"{shown} holds a weight that is not a finite number; fit it again")
    return found["weight"], float(found["bias"][0])
