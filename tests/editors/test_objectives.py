"""What edits become: goals at the tokens of an answer, and at the one that ends it."""

import pytest
import torch
from families import tiny
from words import word_tokenizer

from safeedit.editors import objectives
from safeedit.editors.objectives import Aim, build_task
from safeedit.models.hooks import frozen
from safeedit.models.segment import Segment
from safeedit.models.structure import find_decoder
from safeedit.triples.facts import Edit

PROMPTS = ("w5 {subject} w6 w7", "{subject} w8")
NEW = Edit("modify", "w30 w31", "r", PROMPTS, "w40 w42", "w41")
GONE = Edit("erase", "w30 w31", "r", PROMPTS, None, "w41")


def task(edit, model, **aim):
    segment = Segment(find_decoder(model))
    with frozen(model):
        return build_task(segment, word_tokenizer(), [edit], Aim(**{**AIM, **aim})).task


AIM = {"erasure": "neutral", "contexts": ("", "w1 w2 . "), "keep_weight": 0.0}


def test_an_answer_ends_as_the_model_itself_would_end_it(monkeypatch):
    monkeypatch.setattr(objectives, "SURE", 0.0)
    model = tiny("gpt2")
    tokenizer = word_tokenizer()
    for demand in task(NEW, model, end=True).demands:
        assert demand.row.spots[-1] == len(demand.row.ids) - 1
        assert len(demand.row.spots) == len(demand.goals.hard) == len(demand.row.wanted) + 1
        if demand.bare:
            with torch.no_grad():
                own = model(input_ids=torch.tensor([demand.row.ids])).logits[0, -1].argmax()
            assert demand.goals.hard[-1] == int(own)
            bare = demand
        else:  # behind another text it ends as it does alone
            assert demand.goals.hard[-1] == bare.goals.hard[-1]
    assert tokenizer.convert_ids_to_tokens(list(bare.row.wanted)) == ["w40", "w42"]


@pytest.mark.parametrize(("sure", "end"), [(1.1, True), (0.0, False)])
def test_without_one_clear_ending_none_is_asked_for(monkeypatch, sure, end):
    monkeypatch.setattr(objectives, "SURE", sure)
    for demand in task(NEW, tiny("gpt2"), end=end).demands:
        assert len(demand.row.spots) == len(demand.row.wanted) == 2


def test_an_erasure_asks_for_no_ending_unless_it_gives_an_answer(monkeypatch):
    monkeypatch.setattr(objectives, "SURE", 0.0)
    model = tiny("gpt2")
    assert task(GONE, model, end=True).demands == task(GONE, model).demands
    refused = task(GONE, model, end=True, erasure="refusal").demands
    assert all(len(d.goals.hard) == len(d.row.wanted) + 1 for d in refused)
