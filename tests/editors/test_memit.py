"""MEMIT on untrained models of every shape: it does what it says, and leaves nothing behind."""

import dataclasses

import pytest
import torch
from families import FAMILIES, tiny
from weights import probability, same, state
from words import word_tokenizer

from safeedit.editors import get
from safeedit.editors.memit import Memit, chosen_layers
from safeedit.editors.statistics import Corpus
from safeedit.errors import UsageError
from safeedit.triples.facts import Edit

CORPUS = Corpus([f"w{i % 60} w{(7 * i) % 60} w{(11 * i) % 60} w{(3 * i) % 60}" for i in range(400)], width=32)
PROMPTS = ("w5 {subject} w6 w7", "{subject} w8")
NEW = Edit("modify", "w30 w31", "r", PROMPTS, "w40", "w41")
OTHER = Edit("insert", "w32 w33", "r", PROMPTS, "w42", None)
# An untrained model reads nothing off a subject, so values are put where the answer is read off.
SETTINGS: dict[str, object] = {
    "site": "prompt",
    "contexts": 1,
    "passes": 8,
    "steps": 20,
    "preserve": 1.0,
    "clamp": 3.0,
    "anchors": 0,
}


def edit(model, edits, **params):
    return Memit(**{**SETTINGS, **params}).edit(model, word_tokenizer(), edits, corpus=CORPUS)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_facts_are_put_into_every_shape(family):
    model = tiny(family)
    before = state(model)
    patch = edit(model, [NEW, OTHER])
    assert same(model, before)
    asked = [("w5 w30 w31 w6 w7", "w40"), ("w30 w31 w8", "w40"), ("w32 w33 w8", "w42")]
    at_first = [probability(model, *pair) for pair in asked]
    with patch.applied(model):
        after = [probability(model, *pair) for pair in asked]
    assert same(model, before)
    # Gemma 2 norms what the down-projection gives, which bounds what an edit can add to the stream.
    times, least = (3, 0.02) if family == "gemma2" else (10, 0.25)
    assert all(new > max(times * old, least) for new, old in zip(after, at_first, strict=True))


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_residual_stream_takes_the_values_at_the_subject(family):
    patch = edit(tiny(family), [NEW, OTHER], site="subject", passes=1)
    limit = 0.6 if family == "gemma2" else 0.3  # a norm stands between, which not every value passes
    assert patch.meta["missing_mean"] < limit
    assert patch.meta["norm_mean"] > 0.05


@pytest.mark.parametrize("objective", ["neutral", "entropy", "lens", "refusal"])
def test_an_erased_object_becomes_improbable(objective):
    model = tiny("llama")
    with edit(model, [NEW], stop=0.02).applied(model):
        assert probability(model, "w30 w31 w8", "w40") > 0.5
        erase = Edit("erase", "w30 w31", "r", PROMPTS, None, "w40")
        with edit(model, [erase], objective=objective).applied(model):
            assert probability(model, "w30 w31 w8", "w40") < 0.1
            assert probability(model, "w5 w30 w31 w6 w7", "w40") < 0.1


def test_same_seed_same_patch_and_another_seed_another():
    model = tiny("gpt2")
    assert edit(model, [NEW]).digest == edit(model, [NEW]).digest
    first = Memit(**SETTINGS).edit(model, word_tokenizer(), [NEW], corpus=CORPUS, seed=0)
    second = Memit(**SETTINGS).edit(model, word_tokenizer(), [NEW], corpus=CORPUS, seed=1)
    assert first.digest != second.digest


def test_only_the_named_layers_change():
    model = tiny("gpt_neox")
    patch = edit(model, [NEW], layers=[1])
    assert len(patch.deltas) == 1
    assert ".1." in next(iter(patch.deltas))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"layer": [3]}, "did you mean 'layers'"),
        ({"steps": 0}, "steps"),
        ({"objective": "forget"}, "objective"),
        ({"clamp": -1}, "clamp"),
        ({"layers": []}, "layers"),
    ],
)
def test_bad_settings_are_named(params, message):
    with pytest.raises(UsageError, match=message):
        get("memit")(**params)


def test_layers_the_model_has_not_are_named():
    with pytest.raises(UsageError, match="blocks 0 to 3"):
        edit(tiny("gpt2"), [NEW], layers=[3])


def test_layers_follow_the_depth():
    assert chosen_layers(None, 6) == [0, 1, 2]
    assert chosen_layers(None, 32) == [4, 5, 6, 7, 8]
    assert chosen_layers([2, 1, 2], 6) == [1, 2]
    with pytest.raises(UsageError):
        chosen_layers(None, 1)


def test_presets_give_way_to_explicit_settings():
    params = Memit(preset="gpt2-xl", clamp=0.6).params.with_preset()
    assert params.layers == [13, 14, 15, 16, 17]
    assert (params.passes, params.clamp) == (1, 0.6)


def test_a_subject_that_is_missing_is_never_searched_for_in_vain():
    with pytest.raises(UsageError, match="subject"):
        edit(tiny("gpt2"), [dataclasses.replace(NEW, templates=("w5 w6",))])


def test_many_edits_at_once_do_what_single_ones_do():
    model = tiny("llama")
    edits = [Edit("modify", f"w{i} w{i + 1}", "r", PROMPTS, f"w{i + 2}", "w3") for i in range(10, 40, 3)]
    with edit(model, edits, batch_rows=7).applied(model):
        small = [probability(model, f"w{i} w{i + 1} w8", f"w{i + 2}") for i in range(10, 40, 3)]
    with edit(model, edits).applied(model):
        large = [probability(model, f"w{i} w{i + 1} w8", f"w{i + 2}") for i in range(10, 40, 3)]
    assert min(large) > 0.3
    assert torch.allclose(torch.tensor(small), torch.tensor(large), atol=0.02)
