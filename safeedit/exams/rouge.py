"""ROUGE-L: how much of one text is in another, in order (Lin, 2004, "ROUGE: A Package …").

Words are folded as the leak matcher folds them, so that texts of every script have some: the usual package
keeps a to z and 0 to 9 alone, and gives a text in another script the score of an empty one, which would look
like perfect forgetting. For English in ASCII both give the same.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from safeedit.probes.fold import fold, words

_APART = str.maketrans("'’ʼ`´", "     ")
SHORTEST_STEMMED = 4
"""Shorter words are left as they are, as the usual package does."""


@dataclass(frozen=True)
class Rouge:
    """ROUGE-L of a text against a reference, each between 0 and 1."""

    precision: float
    recall: float

    @property
    def f1(self) -> float:
        """Their harmonic mean."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


def rouge_l(text: str, reference: str, *, stem: bool = False) -> Rouge:
    """ROUGE-L of `text` against `reference`.

    Args:
        text: what was written.
        reference: what it is compared with.
        stem: whether words are reduced to their stems first (Porter, 1980), as TOFU does.

    Raises:
        ValueError: the reference holds no word, so nothing could be found of it.
    """
    written, wanted = tokens(text, stem=stem), tokens(reference, stem=stem)
    if not wanted:
        raise ValueError("a reference without any word cannot be compared with")
    common = common_length(wanted, written)
    return Rouge(common / len(written) if written else 0.0, common / len(wanted))


def tokens(text: str, *, stem: bool = False) -> tuple[str, ...]:
    """The words of a text, caseless, without punctuation; what follows an apostrophe is a word of its own."""
    apart = text.translate(_APART)
    found = tuple(word.text for word in words(fold(apart)))
    return tuple(map(_stem, found)) if stem else found


def common_length(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """The length of the longest common subsequence.

    Bits of one number stand for the places of `a`, so that a step over `b` is a few operations on numbers
    (Hyyrö, "Bit-parallel LCS-length computation revisited", 2004).
    """
    places: dict[Hashable, int] = {}
    for number, item in enumerate(a):
        places[item] = places.get(item, 0) | 1 << number
    everything = (1 << len(a)) - 1
    row = everything
    for item in b:
        met = row & places.get(item, 0)
        row = ((row + met) | (row - met)) & everything
    return len(a) - row.bit_count()


@cache
def _stemmer() -> Any:
    import snowballstemmer

    return snowballstemmer.stemmer("porter")


@cache
def _stem(word: str) -> str:
    stemmed: str = _stemmer().stemWord(word) if len(word) >= SHORTEST_STEMMED else word
    return stemmed
