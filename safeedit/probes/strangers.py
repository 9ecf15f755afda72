"""Names of nobody, made of others' names: strangers whom a model takes for people like those it knows.

A model is surer of itself with names like those that it was trained on than with quite foreign ones, and a
subject that it never knew would stand out from the latter. What is made of a subject's name (a mail
address, say) is made of theirs when it is asked of them: `derived.adapted`.
"""

from __future__ import annotations

from collections.abc import Sequence

from safeedit.probes.asking import placebo_pairs
from safeedit.probes.base import Context
from safeedit.probes.fold import key
from safeedit.triples.facts import Fact

FEWEST = 4
"""Of a kind with fewer names than this nothing is made."""


def recombined(context: Context, label: str, about: str, count: int) -> tuple[str, ...]:
    """`count` names of nobody: the first words of some controls' names, the last words of others'.

    No name shares a word with a subject of the request. None at all if too few can be made.

    Args:
        context: the request and the controls.
        label: other names for another label.
        about: what the names are of; those of controls of this kind are used.
        count: how many, at most.
    """
    kinds = {name for name, relation in context.catalogue.items() if relation.about == about}
    names = {control.subject for control in context.controls.facts if control.relation in kinds}
    taken = {word for fact in context.facts for name in (fact.subject, *fact.aliases) for word in key(name)}
    usable = sorted(name for name in names if len(name.split()) > 1 and not taken & set(key(name)))
    existing = {key(name) for name in names}
    rng = context.rng(f"strangers|{label}")
    found: dict[str, None] = {}
    for _ in range(20 * count if len(usable) > 1 else 0):
        first, last = rng.sample(usable, 2)
        name = " ".join([*first.split()[:-1], last.split()[-1]])
        if key(name) not in existing and len(found) < count:
            found.setdefault(name)
    return tuple(found) if len(found) >= FEWEST else ()


def of_both_kinds(context: Context, index: int, fact: Fact, count: int) -> tuple[str, ...]:
    """`count` names that nobody has, the same for all facts of one kind: half of them recombined, if it goes.

    A subject that a model never knew may be taken for those whose names are like its own, or for nobody;
    together the two kinds show how far apart answers about strangers lie.
    """
    alike = recombined(context, "both", fact.about, count // 2) if len(fact.subject.split()) > 1 else ()
    rest = placebo_pairs(context, [(index, fact)], count - len(alike))
    return (*alike, *(name for _, name in rest))


def strangers(context: Context, asked: Sequence[tuple[int, Fact]], count: int) -> list[tuple[int, str]]:
    """`count` pairs of a fact's index and a name that nobody has, spread over the facts.

    Recombined names where the subject's name and the controls allow it, invented ones otherwise.
    """
    found: list[tuple[int, str]] = []
    rest: list[tuple[int, Fact]] = []
    each = -(-count // max(1, len(asked)))
    for index, fact in asked:
        names = recombined(context, str(index), fact.about, each)
        if len(fact.subject.split()) > 1 and len(names) == each:
            found += [(index, name) for name in names]
        else:
            rest.append((index, fact))
    return found + placebo_pairs(context, rest, each * len(rest))
