"""Where a model holds its facts is seen by restoring a state, on models in which it is known."""

import dataclasses
from contextlib import contextmanager

import pytest
import torch
from families import tiny
from words import word_tokenizer

from safeedit.editors import site
from safeedit.editors.familiar import familiar_facts
from safeedit.editors.memit import Memit
from safeedit.editors.objectives import Aim, build_task
from safeedit.editors.site import trace_site
from safeedit.editors.statistics import Corpus
from safeedit.editors.values import Search, search
from safeedit.models.hooks import frozen
from safeedit.models.segment import Segment
from safeedit.models.structure import find_decoder
from safeedit.triples.facts import Edit

CORPUS = Corpus([f"w{i % 60} w{(7 * i) % 60} w{(11 * i) % 60} w{(3 * i) % 60}" for i in range(400)], width=32)
PROMPTS = ("{subject} w8", "{subject} w9", "{subject} w6 w7")
TOLD = Edit("insert", "w30 w31", "r", PROMPTS, "w40", None)
ASKED = Edit("erase", "w30 w31", "r", PROMPTS, None, "w40")


@contextmanager
def telling(model, site, layer):
    """The model says the fact because block `layer` adds a value at that site, for this subject only."""
    decoder, tokenizer = find_decoder(model), word_tokenizer()
    segment = Segment(decoder)
    settings = Search(steps=60, rate=0.3, clamp=20.0, decay=0.0, stop=0.05, leak=0.0, batch_rows=100)
    with frozen(model):
        task = build_task(segment, tokenizer, [TOLD], Aim("neutral", ("",), 0.0, site)).task
        value = search(segment, layer, task, settings, fill=0).delta[0]
    name = tokenizer("w31")["input_ids"][0]
    ends = torch.tensor([tokenizer(prompt.split()[-1])["input_ids"][0] for prompt in PROMPTS])
    ids = []

    def add(_module, _args, output):
        known = ids[-1] == name
        spots = known if site == "subject" else known.any(1, keepdim=True) & torch.isin(ids[-1], ends)
        return output + spots[..., None] * value

    handles = [
        decoder.base.register_forward_pre_hook(
            lambda _module, _args, kwargs: ids.append(kwargs["input_ids"]), with_kwargs=True
        ),
        decoder.projections[layer].module.register_forward_hook(add),
    ]
    yield
    for handle in handles:
        handle.remove()


def traced(model, edits):
    with frozen(model):
        return trace_site(Segment(find_decoder(model)), word_tokenizer(), edits, 1)


def test_a_fact_at_the_subject_is_found_there():
    model = tiny("llama")
    with telling(model, "subject", 1):
        found = traced(model, [ASKED])
    assert found.site == "subject"
    assert found.carried > 0.4


def test_a_fact_at_the_end_of_the_prompt_is_not_found_at_the_subject():
    model = tiny("llama")
    with telling(model, "prompt", 2):
        found = traced(model, [ASKED])
    assert found.site == "prompt"
    assert found.carried < 0.05


NEW = Edit("insert", "w50 w51", "r", PROMPTS, "w42", None)
"""Of a subject that no model here knows."""


@pytest.mark.parametrize(("where", "layer"), [("subject", 1), ("prompt", 2)])
def test_an_insertion_goes_where_the_model_has_the_facts_that_it_knows(where, layer, monkeypatch):
    monkeypatch.setattr(site, "ENOUGH", 1)
    monkeypatch.setattr(site, "SURE", 0.05)  # the planted value brings it to .07, and anybody to .01
    monkeypatch.setattr(site, "familiar_facts", lambda: (ASKED,))
    model = tiny("llama")
    with telling(model, where, layer):
        found = traced(model, [NEW])
    assert found.site == where
    assert found.carried is not None


def test_an_insertion_into_a_model_that_knows_too_little_goes_to_the_subject(monkeypatch):
    assert traced(tiny("llama"), [NEW]) == site.Trace("subject", None), "nothing is known"
    monkeypatch.setattr(site, "familiar_facts", lambda: (ASKED,))
    model = tiny("llama")
    with telling(model, "prompt", 2):
        assert traced(model, [NEW]) == site.Trace("subject", None), "one fact says nothing"
    everybody = dataclasses.replace(ASKED, old="w7", templates=("w7 {subject} w7",))
    monkeypatch.setattr(site, "ENOUGH", 1)
    monkeypatch.setattr(site, "SURE", 0.0)
    monkeypatch.setattr(site, "familiar_facts", lambda: (everybody,))
    assert traced(model, [NEW]) == site.Trace("subject", None), "said of anybody"


def test_the_reference_model_knows_enough_of_what_may_be_known(reference):
    facts = familiar_facts()
    assert {fact.about for fact in facts} > {"person"}, "common knowledge, too"
    assert all(fact.old and fact.templates for fact in facts)
    decoder = find_decoder(reference.model)
    with frozen(reference.model):
        found = trace_site(Segment(decoder), reference.tokenizer, [NEW], 2)
    assert found.site == "prompt"
    assert found.carried is not None


def test_with_few_phrasings_nothing_is_traced():
    few = dataclasses.replace(ASKED, templates=PROMPTS[:2])
    found = traced(tiny("llama"), [few])
    assert (found.site, found.carried) == ("subject", None)


def test_plans_and_edits_agree_on_the_layers():
    model = tiny("llama")
    editor = Memit(passes=1, steps=1)
    planned = editor.layers_for(model, word_tokenizer(), [ASKED])
    patch = editor.edit(model, word_tokenizer(), [ASKED], corpus=CORPUS)
    assert list(planned) == patch.params["layers"]
