"""Text made comparable: compatibility forms, case, accents and punctuation no longer matter.

Both sides of every comparison go through `fold` and `words`, so a spelling that differs in these
respects alone is the same spelling.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

# Letters with a stroke or a ligature: no decomposition exists, yet people type the plain letter.
_PLAIN = str.maketrans(
    {
        "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d", "Đ": "D", "ð": "d", "Ð": "D", "ħ": "h",
        "Ħ": "H", "ı": "i", "þ": "th", "Þ": "Th", "æ": "ae", "Æ": "Ae", "œ": "oe", "Œ": "Oe", "ß": "ss",
    }
)  # fmt: skip

# Scripts that put no spaces between words; each of their characters counts as a word.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003fffd"
)
_LETTERS = rf"(?:(?![{_UNSPACED}])[^\W_])+"
_APOSTROPHES = "['’ʼ`´]"
_WORD = re.compile(rf"[{_UNSPACED}]|{_LETTERS}(?:{_APOSTROPHES}{_LETTERS})*")


@dataclass(frozen=True, slots=True, repr=False)
class Word:
    """One word of a folded text."""

    text: str
    """Caseless, without apostrophes and without a possessive ending."""
    start: int
    end: int
    """Half-open span in the folded text."""
    capital: bool
    """Whether it began with a capital letter (scripts without case count as capital)."""


def fold(text: str) -> str:
    """`text` in compatibility form, without accents, invisible characters and double white space.

    Case is kept; `words` drops it. Marks of scripts other than Latin, Greek and Cyrillic carry
    sounds of their own and are kept.
    """
    composed = unicodedata.normalize("NFKC", text)
    visible = "".join(c for c in composed if unicodedata.category(c) != "Cf")
    apart = unicodedata.normalize("NFD", visible)
    bare = unicodedata.normalize("NFC", re.sub("[\u0300-\u036f]", "", apart))
    return re.sub(r"\s+", " ", bare.translate(_PLAIN)).strip()


def words(folded: str) -> tuple[Word, ...]:
    """The words of a folded text, in order; everything between them is punctuation."""
    found = []
    for match in _WORD.finditer(folded):
        if unicodedata.category(match.group()[0])[0] not in "LMN":
            continue
        parts = re.split(_APOSTROPHES, match.group())
        if len(parts) > 1 and parts[-1].casefold() == "s":
            parts.pop()
        raw = "".join(parts)
        found.append(Word(raw.casefold(), match.start(), match.end(), not raw[0].islower()))
    return tuple(found)


@lru_cache(maxsize=65_536)
def key(text: str) -> tuple[str, ...]:
    """What two spellings of the same name have in common: their folded words."""
    return tuple(word.text for word in words(fold(text)))


def edit_distance(a: Sequence[str], b: Sequence[str], limit: int) -> int:
    """Levenshtein distance; every distance above `limit` is given as ``limit + 1``."""
    if abs(len(a) - len(b)) > limit:
        return limit + 1
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (x != y)))
        if min(row) > limit:
            return limit + 1
    return min(row[-1], limit + 1)
