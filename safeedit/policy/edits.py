"""From facts to what an editor gets, with what it shall leave as it is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from safeedit.policy.rules import same
from safeedit.triples.catalogue import Catalogue
from safeedit.triples.facts import Edit, Fact

MOST_KEPT = 6
"""An editor is given at most so many other relations of a subject to leave alone."""


def edits_for(facts: Iterable[Fact], catalogue: Catalogue) -> tuple[Edit, ...]:
    """One edit for each name of each fact, in order.

    `keep` holds the first sentence of other relations that the same kind of subject can have, but
    none that any of `facts` touches for this subject: of a person who is erased as a whole,
    nothing is kept.
    """
    facts = tuple(facts)
    touched: dict[str, set[str]] = {}
    for fact in facts:
        for name in (fact.subject, *fact.aliases):
            touched.setdefault(same(name), set()).add(fact.relation)
    return tuple(
        replace(edit, keep=_kept(catalogue, fact, touched[same(edit.subject)]))
        for fact in facts
        for edit in fact.edits()
    )


def _kept(catalogue: Catalogue, fact: Fact, touched: set[str]) -> tuple[str, ...]:
    others = [name for name in catalogue.about(fact.about) if name not in touched]
    return tuple(catalogue[name].cloze[0] for name in others[:MOST_KEPT])
