"""Which people's names are alike: words that they share, and words that are nearly the same."""

from __future__ import annotations

from collections.abc import Iterable

from safeedit.probes.fold import edit_distance, key

SHORTEST_NAME = 3
"""Initials and particles are not names that two people share."""
CLOSE = 2
SHORTEST_CLOSE_NAME = 4


def names_in(subject: str) -> frozenset[str]:
    """The folded words of a name that tell who somebody is."""
    return telling(key(subject))


def telling(words: Iterable[str]) -> frozenset[str]:
    """Those of folded words that are long enough to be names."""
    return frozenset(word for word in words if len(word) >= SHORTEST_NAME)


def close_to_any(words: Iterable[str], names: Iterable[str]) -> set[str]:
    """Those of `words` that are within `CLOSE` letters of one of `names`.

    Two words so close become the same when at most `CLOSE` letters are left out of each. Only words
    that do are compared, so that ten thousand names take no longer to look through than to read.
    """
    becomes: dict[str, set[str]] = {}
    for word in words:
        if len(word) >= SHORTEST_CLOSE_NAME:
            for short in _shortened(word):
                becomes.setdefault(short, set()).add(word)
    found: set[str] = set()
    for name in names:
        if len(name) >= SHORTEST_CLOSE_NAME:
            alike = {word for short in _shortened(name) for word in becomes.get(short, ())} - found
            found |= {word for word in alike if edit_distance(word, name, CLOSE) <= CLOSE}
    return found


def _shortened(word: str) -> set[str]:
    """The word, and all that is left of it without up to `CLOSE` of its letters."""
    found = {word}
    for _ in range(CLOSE):
        found |= {one[:i] + one[i + 1 :] for one in found for i in range(len(one))}
    return found
