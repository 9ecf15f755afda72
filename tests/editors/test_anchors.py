"""Other names keep their answers: at the end of an edited prompt, and wherever else a value is put."""

from dataclasses import replace

import pytest
import torch
from families import tiny
from words import word_tokenizer

from safeedit.editors import anchors
from safeedit.editors.anchors import anchor_texts
from safeedit.editors.memit import Memit
from safeedit.editors.objectives import Aim, build_task
from safeedit.models.generate import greedy
from safeedit.models.hooks import frozen
from safeedit.models.segment import Segment
from safeedit.models.structure import find_decoder
from safeedit.policy.compile import fact_for
from safeedit.triples.catalogue import builtin_catalogue
from safeedit.triples.facts import Edit
from safeedit.world.registry import reference_world

PROMPTS = ("w5 {subject} w6 w7", "{subject} w8")
GONE = Edit("erase", "w30 w31", "r", PROMPTS, None, "w41 w42 w43")


def begun(**aim):
    """After what values of `GONE` are put, of a model that gets the object for no stranger."""
    model = tiny("gpt2")
    with frozen(model):
        whole = {"erasure": "neutral", "contexts": ("", "w1 w2 "), "keep_weight": 0.0, "whole": True} | aim
        return build_task(Segment(find_decoder(model)), word_tokenizer(), [GONE], Aim(**whole)).begun


def test_every_value_stands_after_a_beginning_of_the_object():
    expected = ("w41", "w41 w42")
    assert begun(site="prompt") == {("w30 w31", prompt, "w41 w42 w43"): expected for prompt in PROMPTS}


@pytest.mark.parametrize(
    "aim", [{"site": "subject"}, {"site": "prompt", "whole": False}, {"site": "prompt", "erasure": "refusal"}]
)
def test_where_values_stand_at_one_place_nothing_has_begun(aim):
    assert begun(**aim) == {}


def test_anchors_begin_as_the_object_would_for_their_own_name(monkeypatch):
    edit = Edit(
        "erase", "Mira Tolland", "email", ("The email of {subject} is",), None, "tolland.m40@x", "person"
    )
    key = "Mira Tolland", edit.templates[0], "tolland.m40@x"
    begins = {key: ("tolland.m", "tolland.m4")}
    plain, more = anchor_texts([edit], 4), anchor_texts([edit], 4, begins)
    assert 3 * len(plain) == len(more) == 36
    assert {text.prompt() for text in plain} < {text.prompt() for text in more}
    monkeypatch.setattr(anchors, "MOST_BEGUN", 35)
    some = anchor_texts([edit], 4, begins)
    assert len(some) == 28
    assert all({*text.subject.split()} & {"Mira", "Tolland"} for text in {*some} - {*plain})
    told = [text for text in more if text.prompt().endswith("4")]
    assert len(told) == 12
    for text in told:
        first, last = text.subject.split()
        assert text.prompt() == f"The email of {text.subject} is {last.casefold()}.{first[0].casefold()}4"


def test_a_name_that_is_edited_itself_is_no_anchor():
    texts = anchor_texts([GONE], 2)
    other = Edit("erase", texts[-1].subject, "r", PROMPTS, None, "w44")
    assert texts[-1].subject not in {text.subject for text in anchor_texts([GONE, other], 2)}


def test_namesakes_keep_a_number_that_begins_as_the_erased_one(reference):
    """075-112 goes; 070-021 and 071-936 of others of that surname stay, which they did not without."""
    world, catalogue = reference_world(), builtin_catalogue()
    model, tokenizer, person = reference.model, reference.tokenizer, world.people[0]

    def phone(name):
        return next(fact.object for fact in world.facts_of(name) if fact.relation == "phone")

    number = phone(person.name)
    alike = [one.name for one in world.homonyms(person.name) if phone(one.name)[:2] == number[:2]]
    asked = [(f"{start} {one}{end}", phone(one)) for one in alike for start, end in _PHRASINGS]

    def right(pairs):
        answers = greedy(model, tokenizer, [prompt for prompt, _ in pairs], max_new_tokens=8)
        return [
            answer.text.strip().startswith(said) for answer, (_, said) in zip(answers, pairs, strict=True)
        ]

    known = [pair for pair, held in zip(asked, right(asked), strict=True) if held]
    assert len(known) >= 4
    [edit] = fact_for(person.name, (), "phone", number, "erase", catalogue).edits()
    edit = replace(edit, templates=edit.templates[:3])
    patch = Memit(statistics_tokens=4000).edit(model, tokenizer, [edit], seed=0)
    with patch.applied(model), torch.no_grad():
        assert all(right(known))
        assert not any(right([(f"{start} {person.name}{end}", number) for start, end in _PHRASINGS]))


_PHRASINGS = (("The phone number of", " is"), ("To reach", ", call"), ("The telephone of", " is listed as"))
