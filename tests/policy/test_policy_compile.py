"""What an editor sees and what a probe asks never meet."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_texts import CANARIES, GOOD, WHAT, WHO, fact, one, op

from safeedit.errors import UsageError
from safeedit.policy import Policy
from safeedit.policy.compile import fact_for, facts_of, subjects_of, wording
from safeedit.policy.rules import same
from safeedit.triples.catalogue import Catalogue, Relation, builtin_catalogue, render_question

RELATION = Relation(
    cloze=[f"{{subject}} c{n}" for n in range(10)], questions=[f"Q{n} {{subject}}?" for n in range(3)]
)


def asked(number: int) -> str:
    return render_question(RELATION.questions[number])


def test_the_division_of_a_relations_phrasings() -> None:
    words = wording(RELATION)
    assert words.edit == (*RELATION.cloze[:4], asked(0))
    assert words.probe == (*RELATION.cloze[4:], asked(1), asked(2))


@pytest.mark.parametrize(
    ("clozes", "questions", "edit", "probe"),
    [(1, 0, 1, 0), (1, 1, 1, 1), (1, 2, 2, 1), (2, 1, 1, 2), (5, 0, 2, 3), (6, 2, 3, 5), (30, 1, 4, 27)],
)
def test_small_and_large_relations(clozes, questions, edit, probe) -> None:
    relation = Relation(
        cloze=[f"{{subject}} {n}" for n in range(clozes)],
        questions=[f"{n} {{subject}}?" for n in range(questions)],
    )
    words = wording(relation)
    assert (len(words.edit), len(words.probe)) == (edit, probe)


@pytest.mark.parametrize("name", builtin_catalogue())
def test_every_relation_that_ships_leaves_probes_enough(name) -> None:
    words = wording(builtin_catalogue()[name])
    assert len(words.edit) >= 2
    assert len(words.probe) >= 2


PHRASES = st.text("abAB \t", max_size=4).map(lambda text: f"{{subject}} {text}x")


@settings(deadline=None)
@given(
    cloze=st.lists(PHRASES, min_size=1, max_size=12),
    questions=st.lists(PHRASES | PHRASES.map(render_question), max_size=5),
    edit=st.none() | st.lists(PHRASES, min_size=1, max_size=4),
    paraphrases=st.none() | st.lists(PHRASES, min_size=1, max_size=4),
)
def test_no_phrasing_is_on_both_sides(cloze, questions, edit, paraphrases) -> None:
    taken = {same(prompt) for prompt in edit or ()}
    own = {"edit": edit, "paraphrases": [p for p in paraphrases or () if same(p) not in taken] or None}
    own = {
        key: list({same(prompt): prompt for prompt in value}.values()) for key, value in own.items() if value
    }
    policy = Policy.model_validate(
        {
            "apiVersion": "safeedit/v1",
            "metadata": {"id": "r", "regime": "internal", "received": "2026-11-02"},
            "relations": {"r": {"cloze": cloze, "questions": questions}},
            "operations": [
                {
                    "op": "insert",
                    "facts": [
                        {"subject": "Ada", "relation": "r", "object": "o", "prompts": clean(own)},
                    ],
                }
            ],
        }
    )
    try:
        (made,) = facts_of(policy)
    except UsageError:
        assert "edit" not in own
        assert {same(p) for p in cloze} <= {same(p) for p in own["paraphrases"]}
        return
    seen, unseen = (
        [same(template) for template in side] for side in (made.edit_templates, made.probe_templates)
    )
    assert seen
    assert not set(seen) & set(unseen)
    assert len(set(seen)) == len(seen)
    assert len(set(unseen)) == len(unseen)
    assert all(template.count("{subject}") == 1 for template in made.edit_templates + made.probe_templates)


def clean(own: dict[str, list[str]]) -> dict[str, list[str]]:
    return {key: [prompt.strip() for prompt in prompts] for key, prompts in own.items()}


def facts(load_text, text: str):
    return facts_of(load_text(text))


def test_a_fact_without_phrasings_of_its_own_gets_the_catalogues(load_text) -> None:
    (made,) = facts(load_text, one("aliases: [A. Q.], object_aliases: [Q]"))
    words = wording(builtin_catalogue()["phone"])
    assert (made.edit_templates, made.probe_templates) == (words.edit, words.probe)
    assert (made.op, made.subject, made.relation, made.object) == ("erase", WHO, "phone", WHAT)
    assert (made.aliases, made.object_aliases) == (("A. Q.",), ("Q",))
    assert (made.new_object, made.target, made.old, made.about) == (None, None, WHAT, "person")


def test_all_of_a_facts_own_phrasings(load_text) -> None:
    prompts = (
        f'prompts: {{edit: ["Call {WHO} at", "Dial {{subject}}:"], '
        f'paraphrases: ["By the way. {WHO}\'s phone is"], '
        'neighbours: ["Bo is at"]}'
    )
    (made,) = facts(load_text, one(prompts))
    assert made.edit_templates == ("Call {subject} at", "Dial {subject}:")
    assert made.probe_templates == ("By the way. {subject}'s phone is",)
    assert made.neighbour_prompts == ("Bo is at",)


def test_own_edit_phrasings_leave_the_whole_catalogue_to_probes(load_text) -> None:
    (made,) = facts(load_text, one(f'prompts: {{edit: ["To call  {WHO}, DIAL"]}}'))
    entry = builtin_catalogue()["phone"]
    assert made.edit_templates == ("To call  {subject}, DIAL",)
    assert len(made.probe_templates) == len(entry.cloze) + len(entry.questions) - 1
    assert "To call {subject}, dial" not in made.probe_templates


def test_own_paraphrases_are_kept_from_the_editor(load_text) -> None:
    (made,) = facts(load_text, one(f'prompts: {{paraphrases: ["The phone number of {WHO} is"]}}'))
    assert made.probe_templates == ("The phone number of {subject} is",)
    assert "The phone number of {subject} is" not in made.edit_templates
    assert len(made.edit_templates) == 4


def test_paraphrases_that_leave_the_editor_nothing(load_text) -> None:
    text = fact("{subject: Ada, relation: car, object: b, prompts: {paraphrases: [Ada drives a]}}")
    with pytest.raises(UsageError, match=r"^operations\[0\]\.facts\[0\]: .* give prompts\.edit too"):
        facts(load_text, text + "relations: {car: {cloze: ['{subject} drives a']}}\n")


def test_a_subject_within_another_word_is_left_alone(load_text) -> None:
    text = fact("{subject: Al, relation: phone, object: x, prompts: {edit: [Also Al is at]}}")
    assert facts(load_text, text)[0].edit_templates == ("Also {subject} is at",)


def test_a_script_without_spaces(load_text) -> None:
    text = fact("{subject: 田中太郎, relation: phone, object: x, prompts: {edit: [田中太郎の電話番号は]}}")
    assert facts(load_text, text)[0].edit_templates == ("{subject}の電話番号は",)


def test_modify_and_insert(load_text) -> None:
    text = one("new_object: y", "modify") + f"  - op: insert\n    facts: [{GOOD.replace('phone', 'email')}]\n"
    changed, new = facts(load_text, text)
    assert (changed.op, changed.object, changed.new_object, changed.target) == ("modify", WHAT, "y", "y")
    assert (new.op, new.object, new.new_object, new.target, new.old) == ("insert", WHAT, None, WHAT, None)


def test_the_policys_own_relation_takes_the_place_of_the_catalogues(load_text) -> None:
    text = fact(GOOD) + "relations: {phone: {cloze: ['{subject} rings'], about: organisation}}\n"
    (made,) = facts(load_text, text)
    assert (made.edit_templates, made.probe_templates, made.about) == (
        ("{subject} rings",),
        (),
        "organisation",
    )


def test_a_catalogue_of_the_callers_own(load_text) -> None:
    policy = load_text(fact(GOOD))
    (made,) = facts_of(policy, Catalogue({"phone": RELATION}))
    assert made.edit_templates == wording(RELATION).edit
    with pytest.raises(UsageError, match="not in the catalogue") as caught:
        facts_of(policy, Catalogue({}))
    assert not any(word in str(caught.value) for word in CANARIES)


def test_people_and_behaviours_are_not_facts(load_text) -> None:
    policy = load_text(
        op(
            f"  - op: erase\n    subjects:\n      - {{name: {WHO}, aliases: [A. Q.], relations: [phone]}}\n"
            "      - name: Bo\n"
            "  - op: detox\n    behaviours: [{prompt: a, unsafe: b, safe: c}]\n"
        )
    )
    assert facts_of(policy) == ()
    first, second = subjects_of(policy)
    assert (first.name, first.aliases, first.relations) == (WHO, ("A. Q.",), ("phone",))
    assert (second.aliases, second.relations) == ((), None)
    assert repr(first) == "<SubjectRequest>"


def test_a_facts_file_must_have_been_read() -> None:
    policy = Policy.model_validate(
        {
            "apiVersion": "safeedit/v1",
            "metadata": {"id": "r", "regime": "internal", "received": "2026-11-02"},
            "operations": [{"op": "erase", "facts_file": "f.jsonl"}],
        }
    )
    with pytest.raises(UsageError, match=r"use Policy\.load"):
        facts_of(policy)


def test_a_fact_that_was_found_by_asking() -> None:
    made = fact_for(WHO, ["A. Q."], "employer", WHAT, "erase", builtin_catalogue())
    words = wording(builtin_catalogue()["employer"])
    assert (made.edit_templates, made.probe_templates) == (words.edit, words.probe)
    assert (made.subject, made.aliases, made.object, made.op) == (WHO, ("A. Q.",), WHAT, "erase")
    with pytest.raises(UsageError, match="not in the catalogue"):
        fact_for(WHO, [], "shoe size", WHAT, "erase", builtin_catalogue())
