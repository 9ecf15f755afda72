"""Which object a handful of continuations name, where no list says what is possible."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from safeedit.probes.fold import key
from safeedit.probes.match import Answer, states

_SENTENCE_END = re.compile(r"[.?!]+[\"'”’)\]]*(?=\s|$)|\n")
_EDGES = " \t\"'“”‘’.,;:!?"
_SHORTENED = re.compile(r"(?:^|\s)(?:[^\W\d_]|St|Mt|Ft|Mr|Mrs|Ms|Dr|Prof)\.$")
_ARTICLES = {"the", "a", "an"}
ENDERS = 0.25
"""Where so many of the texts that agree so far have ended, the answer ends too."""


def says(answer: str, text: str) -> bool:
    """Whether a continuation begins with the answer, an article before it aside."""
    return states(Answer((answer,)), text)


def first_sentence(text: str) -> str:
    """The text up to its first sentence end; dots in numbers, addresses, initials and titles are none."""
    text = text.strip()
    for found in _SENTENCE_END.finditer(text):
        dotted = text[: found.start() + 1]
        if found.group() == "." and _SHORTENED.search(dotted) and text[found.end() :].strip():
            continue
        return text[: found.start()].strip(_EDGES)
    return text.strip(_EDGES)


def agreed_answer(texts: Sequence[str], share: float) -> str | None:
    """The longest beginning that at least `share` of the continuations have in common; None if none.

    It ends where the sentence ends for a quarter of those that agree: what the others add ("in
    Norhavia") belongs to the sentence and not to the object.
    """
    rows = [row for text in texts if (row := _words(first_sentence(text)))]
    agreed: list[list[str]] = rows
    depth = 0
    while True:
        following = Counter(key(row[depth]) for row in agreed if len(row) > depth)
        ended = sum(len(row) == depth for row in agreed)
        if not following or (depth and ended >= ENDERS * len(agreed)):
            break
        word, count = following.most_common(1)[0]
        if count < share * len(texts):
            break
        agreed = [row for row in agreed if len(row) > depth and key(row[depth]) == word]
        depth += 1
    if not depth:
        return None
    spelling, _ = Counter(" ".join(row[:depth]).strip(_EDGES) for row in agreed).most_common(1)[0]
    return spelling if key(spelling) else None


def _words(sentence: str) -> list[str]:
    words = sentence.split()
    while len(words) > 1 and words[0].casefold() in _ARTICLES:
        words = words[1:]
    return words
