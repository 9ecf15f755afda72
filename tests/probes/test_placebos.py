"""Invented names: deterministic, distinct, and nobody's."""

from __future__ import annotations

import pytest

from safeedit.triples.placebos import PlaceboKind, lookalikes, placebo_kind, placebo_names
from safeedit.world.registry import reference_world


@pytest.mark.parametrize("kind", ["person", "organisation", "place"])
def test_names_are_distinct_and_repeatable(kind: PlaceboKind) -> None:
    names = placebo_names(kind, 300, seed=3)
    assert len(set(names)) == 300
    assert names == placebo_names(kind, 300, seed=3)
    assert names[:20] == placebo_names(kind, 20, seed=3)
    assert names != placebo_names(kind, 300, seed=4)


def test_nobody_of_the_reference_world_is_invented() -> None:
    world = reference_world()
    real = {word for name in world.entities for word in name.split()}
    invented = {
        word for kind in ("person", "place") for n in placebo_names(kind, 300, 1) for word in n.split()
    }
    assert not real & invented


def test_lookalikes_share_nothing_or_one_part() -> None:
    others, ends, starts = lookalikes("Mira van Tolland", "person", 3, seed=2)
    assert not any({"Mira", "van", "Tolland"} & set(name.split()) for name in others)
    assert all(name.startswith("Mira van ") and not name.endswith("Tolland") for name in ends)
    assert all(name.endswith(" van Tolland") and not name.startswith("Mira") for name in starts)
    assert [len(kind) for kind in (others, ends, starts)] == [3, 3, 3]
    assert len(lookalikes("Cher", "person", 3, seed=2)) == 1


def test_too_many_names_are_refused() -> None:
    with pytest.raises(ValueError, match="invented names"):
        placebo_names("place", 10_000, seed=1)


def test_an_unknown_kind_of_subject_gets_people() -> None:
    assert [placebo_kind(kind) for kind in ("person", "organisation", "place", "ship")] == [
        "person",
        "organisation",
        "place",
        "person",
    ]
