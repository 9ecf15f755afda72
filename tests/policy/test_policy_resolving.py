"""What a model knows of a person: which answer a handful of continuations give, and when it counts."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from safeedit.models import generate
from safeedit.models.generate import Generation
from safeedit.policy.answers import agreed_answer, first_sentence
from safeedit.policy.compile import SubjectRequest, fact_for, wording
from safeedit.policy.edits import MOST_KEPT, edits_for
from safeedit.policy.requested import requested_facts
from safeedit.policy.resolve import PLACEBOS, Resolved, resolve_subjects
from safeedit.triples.catalogue import Catalogue, Relation, builtin_catalogue
from safeedit.triples.facts import Fact
from safeedit.triples.placebos import placebo_names

CATALOGUE = builtin_catalogue()
ASKED = "Ada Quill"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (" 618-255. And more.", "618-255"),
        (" tolland.m26@mailhaven.example.", "tolland.m26@mailhaven.example"),
        (" tolland.m26@mailhaven.example\nQuestion: what", "tolland.m26@mailhaven.example"),
        (" J. R. Hartley. He sold books.", "J. R. Hartley"),
        (" St. Albans. There", "St. Albans"),
        (" Dr. No", "Dr. No"),
        (" 3.5 million. Yes", "3.5 million"),
        (' "Orbit Labs." she said', "Orbit Labs"),
        (" Orbit Labs! Really", "Orbit Labs"),
        (" Orbit Labs", "Orbit Labs"),
        (" (030) 1234 567. x", "(030) 1234 567"),
        (" plan B.", "plan B"),
        ("", ""),
        (" ...", ""),
    ],
)
def test_an_answer_ends_with_its_sentence_and_not_within_a_token(text: str, sentence: str) -> None:
    assert first_sentence(text) == sentence


@pytest.mark.parametrize(
    ("texts", "answer"),
    [
        ([" Lantern Press."] * 13, "Lantern Press"),
        ([" Lantern Press."] * 7 + [" Cobalt Works."] * 6, "Lantern Press"),
        ([" Lantern Press."] * 6 + [" Cobalt Works."] * 7, "Cobalt Works"),
        ([" Lantern Press."] * 4 + [" Cobalt Works."] * 4 + [" Orbit Labs."] * 5, None),
        ([" the BBC as a clerk.", " the BBC.", " the BBC, where", " BBC and others"], "BBC"),
        ([" Ashcombe in Norhavia."] * 7 + [" Ashcombe."] * 6, "Ashcombe"),
        ([" Ashcombe in Norhavia."] * 12 + [" Ashcombe."], "Ashcombe in Norhavia"),
        ([" a.b@c.example."] * 9 + [""] * 4, "a.b@c.example"),
        ([" x."] * 4 + [""] * 9, None),
        ([""] * 13, None),
        ([" ..."] * 13, None),
        ([" LANTERN press."] * 3 + [" Lantern Press."] * 10, "Lantern Press"),
    ],
)
def test_the_answer_is_what_at_least_half_of_the_phrasings_begin_with(
    texts: list[str], answer: str | None
) -> None:
    assert agreed_answer(texts, 0.5) == answer


Script = Callable[[str], str]


@pytest.fixture
def resolved(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Resolved]]:
    """Asks a scripted model for relations of one person; what came of it, by relation."""

    def ask(
        script: Script, *relations: str, catalogue: Catalogue = CATALOGUE, name: str = ASKED
    ) -> dict[str, Resolved]:
        def greedy(_model: Any, _tokenizer: Any, prompts: Sequence[str], **_: Any) -> list[Generation]:
            assert len(set(prompts)) == len(prompts)
            return [Generation(script(prompt), False) for prompt in prompts]

        monkeypatch.setattr(generate, "greedy", greedy)
        request = SubjectRequest(name, ("A. Quill",), relations or None)
        return {one.relation: one for one in resolve_subjects([request], None, None, catalogue)}

    return ask


def test_what_only_this_person_is_said_to_have_is_found(resolved: Any) -> None:
    found = resolved(lambda p: " 555-0199." if ASKED in p else " 111-0000.", "phone")["phone"]
    assert (found.object, found.confidence, found.placebo, found.known) == ("555-0199", 1.0, 0.0, True)
    assert found.fact.aliases == ("A. Quill",)
    assert found.fact.op == "erase"
    assert set(found.fact.edit_templates) == set(wording(CATALOGUE["phone"]).edit)


def test_what_anybody_is_said_to_have_is_no_knowledge(resolved: Any) -> None:
    found = resolved(lambda _: " English.", "mother_tongue")["mother_tongue"]
    assert (found.object, found.placebo, found.known, found.fact) == ("English", 1.0, False, None)


def test_half_of_the_phrasings_are_enough_and_fewer_are_not(resolved: Any) -> None:
    prompts = CATALOGUE["phone"].prompts(ASKED)
    for count, known in ((7, True), (6, False)):
        told = set(prompts[:count])
        found = resolved(lambda p, told=told: " 555-0199." if p in told else f" {hash(p)}.", "phone")
        assert found["phone"].known is known


def test_a_closed_relation_is_answered_from_its_list_alone(resolved: Any) -> None:
    own = {"guitar": " the guitar, of course", "piano": " piano and organ"}
    relation = Relation(cloze=["{subject} plays"], objects=["guitar", "bass guitar", "piano"])
    catalogue = CATALOGUE.with_overrides({"instrument": relation})
    for answer, text in (*own.items(), ("bass guitar", " bass guitar.")):
        found = resolved(
            lambda p, text=text: text if ASKED in p else " nothing", "instrument", catalogue=catalogue
        )
        assert found["instrument"].object == answer
    assert resolved(lambda _: " kazoo.", "instrument", catalogue=catalogue)["instrument"].object is None


def test_every_relation_about_people_is_asked_unless_some_are_named(resolved: Any) -> None:
    assert tuple(resolved(lambda _: "")) == CATALOGUE.about("person")
    assert tuple(resolved(lambda _: "", "email", "phone")) == ("email", "phone")


def test_invented_names_share_no_word_with_the_person(resolved: Any) -> None:
    asked: list[str] = []

    def script(prompt: str) -> str:
        asked.append(prompt)
        return ""

    name = placebo_names("person", 1, 0)[0]
    resolved(script, "phone", name=name)
    own = CATALOGUE["phone"].prompts(name)
    assert len(asked) == (1 + PLACEBOS) * len(own)
    assert [p for p in asked if set(name.split()) & set(re.findall(r"\w+", p))] == list(own)


def test_nothing_of_it_is_shown(resolved: Any) -> None:
    found = resolved(lambda p: " 555-0199." if ASKED in p else "", "phone")["phone"]
    assert repr(found) == str(found) == "<Resolved>"


def erased(subject: str, relation: str, object: str = "x", aliases: tuple[str, ...] = ()) -> Fact:
    return fact_for(subject, aliases, relation, object, "erase", CATALOGUE)


class TestRequestedFacts:
    def found(self, relation: str, object: str) -> Resolved:
        return Resolved(0, ASKED, relation, object, 1.0, 0.0, erased(ASKED, relation, object))

    def test_a_stated_erasure_of_another_object_does_not_spare_what_is_really_said(self) -> None:
        stated = erased(ASKED, "phone", "555-0000")
        assert len(requested_facts([stated], [self.found("phone", "555-0199")])) == 2

    def test_the_same_is_not_there_twice(self) -> None:
        stated = erased("ada  quill", "phone", "555-0199")
        assert requested_facts([stated], [self.found("phone", "555-0199")] * 2) == (stated,)

    def test_a_stated_change_stands(self) -> None:
        stated = fact_for(ASKED, (), "phone", "555-0000", "insert", CATALOGUE)
        assert requested_facts([stated], [self.found("phone", "555-0199")]) == (stated,)

    def test_what_is_not_known_is_not_there(self) -> None:
        assert requested_facts([], [Resolved(0, ASKED, "phone", None, 0.0, 0.0, None)]) == ()


class TestEdits:
    def test_one_edit_a_name_with_sentences_of_other_relations_to_keep(self) -> None:
        edits = edits_for([erased(ASKED, "phone", aliases=("A. Quill",))], CATALOGUE)
        assert [edit.subject for edit in edits] == [ASKED, "A. Quill"]
        kept = [name for name in CATALOGUE.about("person") if name != "phone"][:MOST_KEPT]
        assert edits[0].keep == edits[1].keep == tuple(CATALOGUE[name].cloze[0] for name in kept)

    def test_nothing_is_kept_of_what_the_request_touches(self) -> None:
        whole = [erased(ASKED, name) for name in CATALOGUE.about("person")]
        assert {edit.keep for edit in edits_for(whole, CATALOGUE)} == {()}
        two = [erased(ASKED, "phone"), erased("Bo Reed", "email"), erased("ada quill", "email")]
        first, second, third = edits_for(two, CATALOGUE)
        assert CATALOGUE["email"].cloze[0] not in first.keep
        assert CATALOGUE["phone"].cloze[0] in second.keep
        assert CATALOGUE["phone"].cloze[0] not in third.keep

    def test_only_what_such_a_subject_can_have_is_kept(self) -> None:
        edit = edits_for([erased("Orbit Labs", "headquarters")], CATALOGUE)[0]
        assert edit.keep == (CATALOGUE["industry"].cloze[0],)

    def test_no_edit_holds_a_phrasing_of_the_probes_for_its_own_relation(self) -> None:
        fact = erased(ASKED, "phone")
        (edit,) = edits_for([fact], CATALOGUE)
        assert not {*edit.templates, *edit.keep} & {*fact.probe_templates}
