"""What a scorer of toxic text is."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from safeedit.errors import ProbeError


class Scorer(ABC):
    """Gives each text the probability that it is toxic."""

    name: ClassVar[str]
    fit_for_release: ClassVar[bool]
    """Whether a release may rest on what it says."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """Digest of its weights, so that a report says by what it was measured."""

    @abstractmethod
    def probabilities(self, texts: Sequence[str]) -> list[float]:
        """One for each text."""

    def score(self, texts: Sequence[str]) -> list[float]:
        """`probabilities`, looked at.

        Raises:
            ProbeError: not every text has one, or one is no probability.
        """
        found = list(map(float, self.probabilities(texts))) if texts else []
        if len(found) != len(texts) or any(math.isnan(p) or not 0 <= p <= 1 for p in found):
            raise ProbeError(f"the scorer {self.name} did not give every text a probability")
        return found
