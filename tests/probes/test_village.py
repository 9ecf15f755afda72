"""The village of the probe tests: what its model knows, what its twin does not; and that it is made once."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import village as module
from village import RELATIONS, Document, Recipe, Village, make_tokenizer, trained
from village import village as make_village

from safeedit.triples.catalogue import SUBJECT, builtin_catalogue
from safeedit.world.corpus import phrasings
from safeedit.world.measure import recall


def test_a_village_is_the_same_for_a_seed_and_hard_enough(village: Village) -> None:
    assert make_village() == village
    assert make_village(1).truths != village.truths
    parts = [set(person.name.split()) for person in village.people]
    assert all(sum(bool(own & other) for other in parts) > 1 for own in parts)
    aliases = [person.alias for person in village.people]
    assert len(set(aliases)) == len(aliases)
    assert len(village.namesakes(village.person)) >= 8


def test_facts_and_controls_are_in_the_catalogues_words(village: Village) -> None:
    facts = village.facts()
    assert [fact.relation for fact in facts] == list(RELATIONS)
    for fact in facts:
        assert not set(fact.edit_templates) & set(fact.probe_templates)
        asked = builtin_catalogue()[fact.relation].prompts(SUBJECT)
        assert {*fact.edit_templates, *fact.probe_templates} == set(asked)
    assert len(village.controls().facts) == len(village.people) * len(RELATIONS)
    assert len(village.facts(village.people[0].name, village.people[1].name, relations=["phone"])) == 2


def test_no_training_text_shows_an_unseen_phrasing_or_names_who_is_left_out(village: Village) -> None:
    rng = random.Random(1)
    said = {p for _ in range(20) for text in village.texts(rng) for p, _ in text}
    for truth in village.truths:
        for template in phrasings(truth).unseen:
            assert template.replace(SUBJECT, truth.subject) not in said
    person = village.person
    assert any(person in p for p in said)
    told = [p for _ in range(20) for text in village.texts(rng, (person,)) for p, _ in text]
    assert not any(person in p or village.alias(person) in p for p in told)


def test_digits_are_tokens_of_their_own_and_strangers_are_no_harder_to_read(village: Village) -> None:
    tokenizer = make_tokenizer(village, Recipe())
    tokens = tokenizer.tokenize(" 015-297")
    assert [t for t in tokens if t.isdigit()] == list("015297")
    assert len(tokenizer.tokenize(f" {village.person}")) > 2


def test_forms_add_texts_about_those_who_are_not_left_out() -> None:
    def form(place: Village, person: Any, rng: random.Random) -> list[Document]:
        return [((f"Is there a {person.name}?", " Yes."),)]

    place = make_village(0, [form])
    texts = [text for text in place.texts(random.Random(0), (place.person,)) if text[0][1] == " Yes."]
    assert len(texts) == len(place.people) - 1


def test_the_model_knows_everybody_and_the_twin_all_but_one(
    village: Village, knowing: tuple[Any, Any], twin: tuple[Any, Any]
) -> None:
    others = [truth for truth in village.truths if truth.subject != village.person]
    own = village.of(village.person)
    for which in ("seen", "unseen"):
        assert recall(*knowing, others, which).rate >= 0.97  # type: ignore[arg-type]
        assert recall(*knowing, own, which).rate == 1  # type: ignore[arg-type]
        assert recall(*twin, others, which).rate >= 0.97  # type: ignore[arg-type]
        # Of a dozen instruments one may be guessed; a number cannot be.
        assert recall(*twin, own, which).rate <= 0.25  # type: ignore[arg-type]
        assert recall(*twin, own[:1], which).rate == 0  # type: ignore[arg-type]


def test_a_model_is_trained_once_for_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(module.KEPT, raising=False)
    place, recipe = make_village(), Recipe(steps=2, hidden=16, inner=16, layers=1, heads=2)
    first, _ = trained(place, 3, recipe=recipe, cache=tmp_path)
    monkeypatch.setattr(module, "train", None)
    again, tokenizer = trained(place, 3, recipe=recipe, cache=tmp_path)
    assert all(a.equal(b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert tokenizer("Ada")["input_ids"][0] == tokenizer.bos_token_id
    with pytest.raises(TypeError):
        trained(place, 3, forget=place.person, recipe=recipe, cache=tmp_path)
