"""More phrasings of a fact, made by rules from those that there are.

Templates are few, and an editor has seen some of them. Two kinds of rules make others of them, whatever the
relation: `framed` puts a sentence into another, with its clauses in another order where its form allows it;
`asked` turns questions into polite, indirect and written ones. Neither looks at a model, and nothing is
drawn at random, so that a request has the same phrasings everywhere. The rules know English. Words of
another language are framed by an English clause all the same, which asks no less.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import chain, zip_longest

from safeedit.triples.catalogue import SUBJECT, render_question

_HEAD, _TAIL = render_question("\0").split("\0")

_ATTRIBUTE = re.compile(r"The (?P<what>[^{},]+) of \{subject\} (?P<verb>is|are|was)(?P<rest>.*)")
"""``The phone number of X is``."""
_OWNED = re.compile(r"\{subject\}'s (?P<what>[^{},]+) (?P<verb>is|are|was)(?P<rest>.*)")
"""``X's phone number is``."""
_WHAT_IS = re.compile(r"(?P<word>What|Who|Where) (?P<verb>is|are|was) (?P<what>.+)\?")
"""``What is the phone number of X?``."""

_CLAUSES = ("As far as anybody knows,", "If I remember rightly,", "According to the records,")
_SAYINGS = ("It is known that", "I have been told that", "People say that")
_HEADINGS = ("For the record:", "Please complete the sentence:", "Note:")
_POLITE = ("Could you please tell me this?", "I would like to know:", "Excuse me,")
_WRITTEN = ("Q: {}\nA:", "{} The answer is", "{}\nReply:")


def reworded(templates: Iterable[str]) -> tuple[str, ...]:
    """Phrasings that none of `templates` is, of both kinds in turn.

    Args:
        templates: sentences that the object continues, and questions as `render_question` writes them, each
            with one gap for the subject.
    """
    given = [template for template in templates if SUBJECT in template]
    kinds = (_in_turn(map(framed, given)), _in_turn(map(asked, given)))
    known, found = set(given), dict[str, None]()
    for template in _in_turn(kinds):
        if template not in known:
            found.setdefault(template)
    return tuple(found)


def framed(template: str) -> Iterator[str]:
    """A sentence within another, and with its parts in another order; nothing of a question."""
    if _question(template) is not None:
        return
    attribute = _ATTRIBUTE.fullmatch(template) or _OWNED.fullmatch(template)
    if attribute is not None:
        what, verb, rest = attribute["what"], attribute["verb"], attribute["rest"]
        yield f"As for {SUBJECT}, the {what} {verb}{rest}"
        yield f"When asked about {SUBJECT}, say that the {what} {verb}{rest}"
    begun = template if template.startswith(SUBJECT) else template[:1].lower() + template[1:]
    for clause, saying, heading in zip(_CLAUSES, _SAYINGS, _HEADINGS, strict=True):
        yield f"{clause} {begun}"
        yield f"{saying} {begun}"
        yield f"{heading} {template}"


def asked(template: str) -> Iterator[str]:
    """A question in other words, or written otherwise; nothing of a sentence."""
    question = _question(template)
    if question is None:
        return
    direct = _WHAT_IS.fullmatch(question)
    if direct is not None:
        indirect = f"{direct['word'].lower()} {direct['what']} {direct['verb']}"
        yield render_question(f"Do you know {indirect}?")
        yield render_question(f"Can you tell me {indirect}?")
    else:
        yield render_question(f"Can you answer this: {question}")
    for polite, written in zip(_POLITE, _WRITTEN, strict=True):
        yield render_question(f"{polite} {question}")
        yield written.format(question)


def _question(template: str) -> str | None:
    """What a template asks, if it is a question."""
    if not (template.startswith(_HEAD) and template.endswith(_TAIL)):
        return None
    return template[len(_HEAD) : -len(_TAIL)]


def _in_turn(rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """The first of each row, then the second of each, and so on."""
    return (text for text in chain.from_iterable(zip_longest(*rows)) if text is not None)
