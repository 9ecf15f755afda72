"""Objects that are made of their subject's name, as the address of somebody is: what of them is news.

A part of an object that repeats the name follows for anybody who is called so. It tells nothing that was
remembered, and taking it out of a model takes it from namesakes. What stands beside it (a number, a
host) does.
"""

from __future__ import annotations

from dataclasses import dataclass

LONG = 3
"""Letters of a name's word that is looked for within an object."""


@dataclass(frozen=True)
class Part:
    """Characters of a text that come of a word of a name."""

    start: int
    end: int
    word: int
    """Number of the word, from the first or, for the last, -1."""
    initial: bool
    """Whether it is only the word's first letter."""


def parts_of_name(text: str, subject: str) -> tuple[Part, ...]:
    """The parts of `text` that come of the name; single letters only where a whole word is there too."""
    words = subject.split()
    folded = text.casefold()
    # Folding may change a text's length ("ß"), and then places in it are not known.
    if not words or len(folded) != len(text):
        return ()
    numbers = {word.casefold(): number for number, word in enumerate(words[:-1])} | {words[-1].casefold(): -1}
    long = {word: number for word, number in numbers.items() if len(word) >= LONG}
    initials = {word[0]: number for word, number in numbers.items()}
    if not any(word in folded for word in long):
        return ()
    found, index = [], 0
    while index < len(text):
        word = next((word for word in long if folded.startswith(word, index)), None)
        if word is not None:
            found.append(Part(index, index + len(word), long[word], initial=False))
            index += len(word)
            continue
        around = folded[index - 1 : index] + folded[index + 1 : index + 2]
        if folded[index] in initials and not any(map(str.isalpha, around)):
            found.append(Part(index, index + 1, initials[folded[index]], initial=True))
        index += 1
    return tuple(found)


def made_of_name(text: str, subject: str) -> bool:
    """Whether a text comes of the name in part, and in part does not."""
    parts = parts_of_name(text, subject)
    beside = (i for i in range(len(text)) if not any(part.start <= i < part.end for part in parts))
    return bool(parts) and any(text[i].isalnum() for i in beside)


def adapted(text: str, subject: str, name: str) -> str:
    """`text` with the parts that come of `subject`'s name as they would be for somebody called `name`."""
    words = name.split()
    if name == subject or not words:
        return text
    found, index = "", 0
    for part in parts_of_name(text, subject):
        word = words[min(part.word, len(words) - 1)]
        old, new = text[part.start : part.end], word[0] if part.initial else word
        found += text[index : part.start] + (new.casefold() if old.islower() else new)
        index = part.end
    return found + text[index:]
