"""PMET: a vector for attention is found and forgotten; otherwise it is MEMIT."""

import math

import pytest
import torch
from answers import put_in
from families import FAMILIES, tiny
from weights import probability, same, state
from words import word_tokenizer

from safeedit.editors.memit import Memit
from safeedit.editors.objectives import Aim, build_task
from safeedit.editors.pmet import Pmet, attention_output, root_share
from safeedit.editors.statistics import Corpus
from safeedit.editors.values import Search, search
from safeedit.errors import ModelError, UsageError
from safeedit.models.hooks import frozen
from safeedit.models.segment import Segment
from safeedit.models.structure import find_decoder
from safeedit.triples.facts import Edit

CORPUS = Corpus([f"w{i % 60} w{(7 * i) % 60} w{(11 * i) % 60} w{(3 * i) % 60}" for i in range(400)], width=32)
EDITS = [
    Edit("modify", "w30 w31", "r", ("w5 {subject} w6 w7",), "w40", "w41"),
    Edit("insert", "w32 w33", "r", ("{subject} w8",), "w42", None),
]
ASKED = [("w5 w30 w31 w6 w7", "w40"), ("w32 w33 w8", "w42")]
# An untrained model reads nothing off a subject, so values are put where the answer is read off.
SETTINGS: dict[str, object] = {
    "site": "prompt",
    "contexts": 1,
    "passes": 6,
    "steps": 12,
    "clamp": 3.0,
    "anchors": 0,
}


def edit(model, edits=EDITS, editor=Pmet, **params):
    return editor(**{**SETTINGS, **params}).edit(model, word_tokenizer(), edits, corpus=CORPUS)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_facts_are_put_into_every_shape(family):
    # Gemma 2 norms what the down-projection gives, which bounds what an edit can add to the stream.
    model, patch = put_in(family, edit, ASKED, bounded=(2, 0.01))
    assert set(patch.deltas) <= {p.name for p in find_decoder(model).projections}


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_what_attention_writes_with_is_found(family):
    model = tiny(family)
    found = attention_output(Segment(find_decoder(model)), 1)
    name = next(name for name, module in model.named_modules() if module is found)
    assert name.rpartition(".")[2] in {"c_proj", "dense", "out_proj", "o_proj"}
    assert "attn" in name or "attention" in name


def test_a_block_without_attention_is_refused():
    model = tiny("llama")
    segment = Segment(find_decoder(model))
    attention = model.model.layers[1].self_attn
    attention._modules.clear()
    attention.forward = lambda hidden_states, **_: (hidden_states, None)
    with pytest.raises(ModelError, match="block 1"):
        attention_output(segment, 1)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("family", ["gpt2", "gptj", "llama", "gemma2"])
def test_the_search_runs_the_block_as_the_model_does(family, layer):
    """Without a step taken, where nothing is added, the loss is that of the whole model."""
    model = tiny(family)
    look = Search(steps=0, rate=0.3, clamp=1.0, decay=0.0, stop=0.0, leak=0.0, batch_rows=100)
    with frozen(model):
        segment = Segment(find_decoder(model))
        task = build_task(segment, word_tokenizer(), EDITS, Aim("neutral", ("", "w9 w9. "), 0.0)).task
        beside = attention_output(segment, layer)
        ours = search(segment, layer, task, look, 0, beside=beside)
        usual = search(segment, layer, task, look, 0)
    torch.testing.assert_close(ours.loss, usual.loss, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "gptj", "llama"])
def test_attention_takes_a_part_of_the_value(family):
    """Two vectors lower the loss further in as many steps, and the one that is kept is another."""
    model = tiny(family)
    few = Search(steps=4, rate=0.3, clamp=0.5, decay=0.0, stop=0.0, leak=0.0, batch_rows=100)
    with frozen(model):
        segment = Segment(find_decoder(model))
        task = build_task(segment, word_tokenizer(), EDITS, Aim("neutral", ("",), 0.0, "prompt")).task
        ours = search(segment, 1, task, few, 0, beside=attention_output(segment, 1))
        usual = search(segment, 1, task, few, 0)
    assert ours.loss.mean() < usual.loss.mean()
    assert not torch.equal(ours.delta, usual.delta)
    assert bool((ours.norm <= 0.5 + 1e-5).all())


def test_without_the_second_vector_it_is_memit():
    model = tiny("llama")
    ours, memit = edit(model, attention=False), edit(model, editor=Memit)
    assert ours.deltas.keys() == memit.deltas.keys()
    for name, delta in ours.deltas.items():
        assert torch.equal(delta.dense(), memit.deltas[name].dense())
    apart = edit(model)
    assert any(not torch.equal(apart.deltas[n].dense(), memit.deltas[n].dense()) for n in apart.deltas)


def test_lower_layers_bring_more_with_the_published_share():
    model = tiny("llama")
    layers = [0, 1, 2]

    def first(spread):
        patch = edit(model, passes=1, spread=spread, layers=layers)
        return float(patch.deltas["model.layers.0.mlp.down_proj.weight"].dense().norm())

    assert math.isclose(first("root") / first("even"), 3 * root_share(3), rel_tol=1e-3)
    assert [root_share(n) for n in (1, 4)] == [1.0, 0.5]


def test_published_settings_give_way_to_given_ones():
    found = Pmet(preset="gpt-j-6b", steps=5).params.with_preset()
    assert (found.layers, found.steps, found.spread) == ([3, 4, 5, 6, 7, 8], 5, "root")
    with pytest.raises(UsageError, match="spread"):
        Pmet(spread="square")
    with pytest.raises(UsageError, match="preset"):
        Pmet(preset="gpt2-xl")


def test_half_precision_works():
    model = tiny("llama").bfloat16()
    before = state(model)
    patch = edit(model, passes=1)
    assert same(model, before)
    at_first = probability(model, *ASKED[0])
    with patch.applied(model):
        assert probability(model, *ASKED[0]) > 5 * at_first
