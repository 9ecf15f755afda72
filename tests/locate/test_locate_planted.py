"""A fact that was built into a model by hand is found where it was put."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from families import tiny
from tracing import prompts, traced
from weights import state, untouched
from words import word_tokenizer

from safeedit.editors.rows import Text
from safeedit.errors import UsageError
from safeedit.locate.attribution import trace_fast
from safeedit.locate.known import layers_for
from safeedit.locate.maps import averages, correlation, suggestions
from safeedit.locate.trace import Settings, trace_exact
from safeedit.triples.facts import Edit

TEXT = Text("", "w5 {subject} w6 w7 w8", "w30 w31", "w40")
NAME, LOOKED_UP, SAID = 29, 30, 31
"""Directions of the residual stream: the subject's last token, what was found of it, what is said."""


@torch.no_grad()
def telling(looked_up, moved):
    """A model that says w40 of w31: an MLP looks it up there, attention moves it to the end.

    All else is empty, so that no other block has anything to do with it.
    """
    model = tiny("llama")
    for block in model.model.layers:
        for projection in (block.self_attn.o_proj, block.self_attn.q_proj, block.mlp.down_proj):
            projection.weight.zero_()
    words = model.get_input_embeddings().weight
    words.normal_(generator=torch.Generator().manual_seed(0))
    words[:, NAME:] = 0
    words[word_tokenizer().convert_tokens_to_ids("w31"), NAME] = 5.5
    mlp = model.model.layers[looked_up].mlp
    for projection in (mlp.gate_proj, mlp.up_proj):
        projection.weight[0] = 0
        projection.weight[0, NAME] = 1.0
    mlp.down_proj.weight[LOOKED_UP, 0] = 1.0
    attention = model.model.layers[moved].self_attn
    attention.v_proj.weight.zero_()
    attention.v_proj.weight[0, LOOKED_UP] = 1.0
    attention.o_proj.weight[SAID, 0] = 4.0
    model.lm_head.weight.zero_()
    model.lm_head.weight[word_tokenizer().convert_tokens_to_ids("w40"), SAID] = 2.6
    return model


@pytest.mark.parametrize("how", [trace_exact, trace_fast])
@pytest.mark.parametrize(("looked_up", "moved"), [(0, 1), (1, 3), (2, 3), (0, 2)])
def test_the_map_shows_what_was_planted(looked_up, moved, how):
    asked = prompts([TEXT])
    (found,) = traced(telling(looked_up, moved), asked, how, window=1)
    assert found.clean > 0.8
    assert found.corrupted < 0.5
    whole, last = found.clean - found.corrupted, found.prompt.last
    strongest = {kind: np.unravel_index(grid.argmax(), grid.shape) for kind, grid in found.effects.items()}
    assert strongest["mlp"] == (last, looked_up)
    assert strongest["attention"] == (found.prompt.end, moved)
    if how is trace_exact:
        assert found.effects["mlp"][last, looked_up] > 0.8 * whole
        assert found.effects["attention"][found.prompt.end, moved] > 0.8 * whole
        hidden = found.effects["hidden"]
        # What tells of the subject stays there until it is moved, and is at the end from then on.
        assert (hidden[last, :moved] > 0.8 * whole).all()
        assert (abs(hidden[last, moved:]) < 1e-6).all()
        assert np.allclose(hidden[found.prompt.end, moved:], whole, atol=1e-5)
        assert (abs(hidden[found.prompt.end, :moved]) < 1e-6).all()
    means = averages([found], ("hidden", "mlp", "attention"))
    suggested = suggestions(means, 4)[0]
    assert (suggested.site, suggested.layers, suggested.peak) == ("subject", (looked_up,), looked_up)
    assert json.loads(json.dumps(suggested.to_json()))["params"] == {"layers": [looked_up]}
    assert suggestions([one for one in means if one.kind == "hidden"], 4)[0].site == "subject"


def test_a_window_restores_its_neighbours_too():
    (found,) = traced(telling(1, 3), prompts([TEXT]), window=2, kinds=("mlp",))
    whole = found.clean - found.corrupted
    # The published window of two layers around l is l - 1 and l.
    carried = found.effects["mlp"][found.prompt.last] > 0.8 * whole
    assert carried.tolist() == [False, True, True, False]


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_an_editor_gets_the_planted_layers(mode):
    model, edit = telling(1, 3), Edit("erase", "w30 w31", "r", (TEXT.template,), None, "w40")
    before = state(model)
    settings = Settings(mode=mode, kinds=("mlp",), window=1)
    assert layers_for(model, word_tokenizer(), [edit], settings).params == {"layers": [1]}
    assert layers_for(model, word_tokenizer(), [dataclasses.replace(edit, old="w41")]) is None
    assert layers_for(model, word_tokenizer(), [dataclasses.replace(edit, old=None)]) is None
    assert untouched(model, before)


@pytest.mark.parametrize(
    "wrong", [{"samples": 0}, {"window": 0}, {"kinds": ()}, {"kinds": ("mpl",)}, {"memory": 0}]
)
def test_impossible_settings_are_named(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        layers_for(tiny("llama"), word_tokenizer(), [], Settings(**wrong))


def test_the_fast_mode_is_near_the_exact_one_on_a_trained_model(reference):
    from safeedit.locate.request import locate
    from safeedit.policy import Policy
    from safeedit.world.registry import reference_world

    request = {
        "apiVersion": "safeedit/v1",
        "metadata": {"id": "near-1", "regime": "gdpr-17", "received": "2026-11-02"},
        "operations": [
            {
                "op": "erase",
                "facts": [
                    {"subject": fact.subject, "relation": fact.relation, "object": fact.object}
                    for fact in reference_world().facts_of("Mira Tolland")
                    if fact.relation in ("employer", "occupation")
                ],
            }
        ],
    }
    policy = Policy.model_validate(request)
    model = (reference.model, reference.tokenizer)
    exact, fast = (
        locate(policy, model, settings=Settings(mode=mode, samples=4)) for mode in ("exact", "fast")
    )
    assert len(exact.facts) == len(fast.facts) == 2
    for kind, least in (("hidden", 0.6), ("mlp", 0.6), ("attention", 0.6)):
        assert correlation(fast.maps, exact.maps, kind) > least
    assert exact.clean == pytest.approx(fast.clean, abs=1e-6)
    assert exact.corrupted == pytest.approx(fast.corrupted, abs=1e-6)
    # All that noise takes comes back with the last block's state at the end of the prompt.
    for one in exact.maps:
        assert one.effects["hidden"][-1, -1] == pytest.approx(one.clean - one.corrupted, abs=1e-5)
