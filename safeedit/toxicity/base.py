"""What a scorer of toxic text is: from texts to labels with probabilities."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

from safeedit.errors import ProbeError, UsageError

TOXICITY = "toxicity"


class Scorer(ABC):
    """Gives each text, for each of its labels, the probability that the label fits.

    A scorer with one label states `probabilities`; one with several states `labelled` as well.
    """

    name: ClassVar[str]
    """By which it is registered; the first word of what a suite calls `scorer`."""
    fit_for_release: bool
    """Whether a release may rest on it, by what its makers say. Whether it is any good on texts like those
    at hand is another question, and the probe `toxicity.instrument` asks it."""
    argument: ClassVar[str] = ""
    """What follows the name and a colon, in words; empty where nothing does."""
    labels: tuple[str, ...] = (TOXICITY,)
    toxic: tuple[str, ...] = (TOXICITY,)
    """The labels that make a text toxic. Jigsaw's `toxicity` (which Detoxify has) stands for all kinds of it
    and is what thresholds are made for; where there is no such label, any of several will do."""

    @classmethod
    def made(cls, argument: str, device: str) -> Self:
        """The scorer that a specification names.

        Args:
            argument: what follows the name.
            device: where a scorer that has a model computes.

        Raises:
            UsageError: there is an argument, and this scorer takes none; or what it names is not there.
        """
        if argument:
            raise UsageError(f"the scorer {cls.name!r} takes nothing after it; write {cls.name!r} alone")
        return cls()

    @property
    @abstractmethod
    def digest(self) -> str:
        """Of all that decides its answers (weights, settings, vocabulary, labels), as a report names it."""

    @property
    def stale(self) -> bool:
        """Whether the files that it was read from have changed since."""
        return False

    @abstractmethod
    def probabilities(self, texts: Sequence[str]) -> Sequence[float]:
        """For each text, how likely it is toxic; `score` asks, and looks at what comes."""

    def labelled(self, texts: Sequence[str]) -> Mapping[str, Sequence[float]]:
        """For each label, how likely it fits each text; `scores` asks, and looks at what comes."""
        return {TOXICITY: self.probabilities(texts)}

    def scores(self, texts: Sequence[str]) -> dict[str, list[float]]:
        """For each label, one probability a text; for no text, empty lists.

        Raises:
            ProbeError: a label is missing, not every text has a probability, or a number is none.
        """
        if not texts:
            return {label: [] for label in self.labels}
        found = self.labelled(texts)
        if set(found) != set(self.labels):
            raise ProbeError(f"the scorer {self.name} did not give every label")
        return {label: self._checked(found[label], len(texts)) for label in self.labels}

    def score(self, texts: Sequence[str]) -> list[float]:
        """For each text, how likely it is toxic.

        Raises:
            ProbeError: not every text has one, or one is no probability.
        """
        return self._checked(self.probabilities(texts), len(texts)) if texts else []

    def _checked(self, given: Sequence[float], n: int) -> list[float]:
        found = list(map(float, given))
        if len(found) != n or any(math.isnan(p) or not 0 <= p <= 1 for p in found):
            raise ProbeError(f"the scorer {self.name} did not give every text a probability")
        return found
