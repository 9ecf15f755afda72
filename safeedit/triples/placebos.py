"""Invented names: plausible, in no registry, and the same on every machine.

A placebo is asked exactly what a subject is asked. What a model says of it is what chance, habit
and the wording of the prompt alone produce; a probe reports that rate beside its own.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Literal

TRIES = 60
"""Drawings for each name before giving up."""

PlaceboKind = Literal["person", "organisation", "place"]


def _list(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_FIRST = _list(
    "Adelka Bertin Corvin Dalia Edmar Felice Gervase Halina Idony Jorun Kerstan Lioba Maurin Nelleke "
    "Osric Philine Quillon Radomir Sabela Tancred Ursel Valko Wendelin Xenja Yorick Zdena Almut Basil "
    "Celandine Dietmar Eloise Fabiana Gisbert Hestia Ignaz Jovita Kunibert Leocadia Marius Norberta "
    "Ottokar Perdita Ruprecht Severin Theodora Ulla Vincenz Walburga Zacharias Amabel"
)
_STARTS = _list("Bel Cra Dar Fen Gal Har Kel Lun Mor Nar Pel Quen Ros Sal Tar Ver Wen Yal Zan Brem Drov Stal")
_MIDDLES = _list("ba de gi lo ma ne ri so ta vu lan mer vin dor")
_NAME_ENDS = _list("wick quist berg sky nari heim elli rup stad owa ento mark field gren")
_TRADES = _list("Instruments Logistics Chemicals Tools Bakeries Holdings Networks Motors Fabrics Systems")
_PLACE_ENDS = _list("burn haven stead mouth ford gate ville minster holt cliff")


def placebo_kind(about: str) -> PlaceboKind:
    """The kind of invented name that stands in for a subject of this kind; people for an unknown one."""
    if about == "organisation":
        return "organisation"
    return "place" if about == "place" else "person"


def placebo_names(about: PlaceboKind, count: int, seed: int) -> tuple[str, ...]:
    """`count` different invented names of one kind; a longer list begins with the shorter one.

    Args:
        about: what the names are for.
        count: how many.
        seed: another seed gives other names.

    Raises:
        ValueError: more names were asked for than can be told apart.
    """
    make: dict[PlaceboKind, Callable[[random.Random], str]] = {
        "person": lambda rng: f"{rng.choice(_FIRST)} {_word(rng, _NAME_ENDS)}",
        "organisation": lambda rng: f"{_word(rng, _NAME_ENDS)} {rng.choice(_TRADES)}",
        "place": lambda rng: _word(rng, _PLACE_ENDS),
    }
    rng = random.Random(f"placebo|{about}|{seed}")
    found: dict[str, None] = {}
    for _ in range(TRIES * (count + 1)):
        if len(found) == count:
            return tuple(found)
        found.setdefault(make[about](rng))
    raise ValueError(f"only {len(found)} invented names of the kind {about!r} exist; {count} were asked for")


def lookalikes(subject: str, about: str, each: int, seed: int) -> tuple[tuple[str, ...], ...]:
    """Invented names that stand near a subject: `each` quite other ones, and as many that share a part.

    Args:
        subject: the name; one of a single word has only others.
        about: the kind of subject, as the relation catalogue has it.
        each: how many of each kind.
        seed: another seed gives other names.

    Returns:
        Quite other names; names that share all but the subject's last word; names that share all but
        its first one. The last two are left out for a name of a single word.
    """
    invented = placebo_names(placebo_kind(about), 2 * each, seed)
    words, strangers = subject.split(), [name.split() for name in invented[each:]]
    if len(words) < 2:
        return (invented[:each],)
    return (
        invented[:each],
        tuple(" ".join([*words[:-1], parts[-1]]) for parts in strangers),
        tuple(" ".join([parts[0], *words[1:]]) for parts in strangers),
    )


def _word(rng: random.Random, ends: tuple[str, ...]) -> str:
    middle = rng.choice(_MIDDLES) if rng.random() < 0.7 else ""
    return rng.choice(_STARTS) + middle + rng.choice(ends)
