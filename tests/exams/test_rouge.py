"""ROUGE-L against a plain table, on known examples, and in scripts other than Latin."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from safeedit.exams.rouge import common_length, rouge_l, tokens


def by_table(a: Sequence[int], b: Sequence[int]) -> int:
    rows = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            rows[i + 1][j + 1] = rows[i][j] + 1 if x == y else max(rows[i][j + 1], rows[i + 1][j])
    return rows[-1][-1]


def test_the_longest_common_subsequence_is_that_of_a_table() -> None:
    rng = random.Random(3)
    for _ in range(400):
        a, b = ([rng.randrange(1 + size % 7) for _ in range(size)] for size in rng.choices(range(40), k=2))
        assert common_length(a, b) == common_length(b, a) == by_table(a, b)


def test_known_values() -> None:
    found = rouge_l("police kill the gunman", "Police killed the gunman.")
    assert (found.precision, found.recall, found.f1) == (0.75, 0.75, 0.75)
    found = rouge_l("the gunman kill police", "police killed the gunman")
    assert found.recall == 0.5
    assert rouge_l("a b c d", "b d").precision == 0.5
    assert rouge_l("a b c d", "b d").recall == 1.0
    assert rouge_l("police kill", "police killed", stem=True).recall == 1.0
    assert rouge_l("Tom's cat", "toms cat").recall == 0.5  # The usual package splits at the apostrophe too.


def test_nothing_said_is_nothing_found() -> None:
    for text in ("", " ", "...", "\n"):
        assert rouge_l(text, "Mira").recall == rouge_l(text, "Mira").f1 == 0.0


@pytest.mark.parametrize(
    "name", ["Мира Толанд", "米拉·托兰", "ميرا تولاند", "Μίρα Τόλαντ", "Ngũgĩ wa Thiong’o"]
)
def test_what_is_said_is_found_in_every_script(name: str) -> None:
    """The usual package finds no token in most of these, and would call the answer forgotten."""
    assert rouge_l(f"It is {name}.", name).recall == 1.0


def test_a_reference_without_words_is_refused() -> None:
    assert tokens("— … !") == ()
    with pytest.raises(ValueError, match="without any word"):
        rouge_l("anything", "— … !")
