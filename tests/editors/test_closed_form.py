"""AlphaEdit, ROME, R-ROME and EMMET on untrained models of every shape; nothing is left behind."""

import dataclasses

import pytest
import torch
from families import FAMILIES, tiny
from weights import probability, same, state
from words import word_tokenizer

from safeedit.editors.alphaedit import AlphaEdit
from safeedit.editors.constrained import main_directions
from safeedit.editors.emmet import Emmet
from safeedit.editors.memit import Memit
from safeedit.editors.rome import Rome, RRome, one_layer
from safeedit.editors.statistics import Corpus, second_moments
from safeedit.errors import EditorError, UsageError
from safeedit.models.structure import find_decoder
from safeedit.triples.facts import Edit

CORPUS = Corpus([f"w{i % 60} w{(7 * i) % 60} w{(11 * i) % 60} w{(3 * i) % 60}" for i in range(400)], width=32)
PROMPTS = ("w5 {subject} w6 w7",)
NEW = Edit("modify", "w30 w31", "r", PROMPTS, "w40", "w41")
OTHER = Edit("insert", "w32 w33", "r", ("{subject} w8",), "w42", None)
ASKED = [("w5 w30 w31 w6 w7", "w40"), ("w32 w33 w8", "w42")]
# An untrained model reads nothing off a subject, so values are put where the answer is read off.
SETTINGS: dict[str, object] = {
    "site": "prompt",
    "contexts": 1,
    "passes": 3,
    "steps": 12,
    "clamp": 3.0,
    "anchors": 0,
}
EDITORS = {
    # Four kinds of key are so few that observed ones fill most directions.
    "alphaedit": (AlphaEdit, {"energy": 0.3, "ridge": 1e-4, "preserve": 0.01}),
    "rome": (Rome, {}),
    "r-rome": (RRome, {}),
    "emmet": (Emmet, {}),
}
every_editor = pytest.mark.parametrize("name", sorted(EDITORS))


def edit(name, model, edits, *, seed=0, progress=None, **params):
    editor, own = EDITORS[name]
    made = editor(**{**SETTINGS, **own, **params})
    return made.edit(model, word_tokenizer(), edits, corpus=CORPUS, seed=seed, progress=progress)


@every_editor
def test_it_is_what_it_says(name):
    assert EDITORS[name][0].name == name
    assert EDITORS[name][0].operations == {"insert", "modify", "erase"}


@every_editor
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_facts_are_put_into_every_shape(name, family):
    model = tiny(family)
    before = state(model)
    patch = edit(name, model, [NEW, OTHER])
    assert same(model, before)
    assert patch.editor == name
    at_first = [probability(model, *pair) for pair in ASKED]
    with patch.applied(model):
        after = [probability(model, *pair) for pair in ASKED]
        changed = {n for n, tensor in model.state_dict().items() if not torch.equal(tensor, before[n])}
    assert same(model, before)
    assert changed == set(patch.deltas)
    # Gemma 2 norms what the down-projection gives, which bounds what an edit can add to the stream.
    times, least = (2, 0.01) if family == "gemma2" else (10, 0.25)
    assert all(new > max(times * old, least) for new, old in zip(after, at_first, strict=True))


@every_editor
def test_an_erased_object_becomes_improbable(name):
    model = tiny("llama")
    with Memit(**SETTINGS, stop=0.02).edit(model, word_tokenizer(), [NEW], corpus=CORPUS).applied(model):
        assert probability(model, "w5 w30 w31 w6 w7", "w40") > 0.5
        erase = Edit("erase", "w30 w31", "r", PROMPTS, None, "w40")
        with edit(name, model, [erase]).applied(model):
            assert probability(model, "w5 w30 w31 w6 w7", "w40") < 0.1


@every_editor
def test_same_seed_same_patch_and_another_seed_another(name):
    model = tiny("gpt2")
    first = edit(name, model, [NEW]).digest
    assert edit(name, model, [NEW]).digest == first
    assert edit(name, model, [NEW], seed=1).digest != first


@every_editor
def test_only_the_named_layer_changes(name):
    patch = edit(name, tiny("gpt_neox"), [NEW, OTHER], layers=[1])
    assert len(patch.deltas) == 1
    assert ".1." in next(iter(patch.deltas))
    assert patch.params["layers"] == [1]


@every_editor
def test_what_is_announced_is_what_changes(name):
    model = tiny("qwen3")
    editor, own = EDITORS[name]
    made = editor(**{**SETTINGS, **own})
    layers = made.layers_for(model, word_tokenizer(), [NEW])
    decoder = find_decoder(model)
    assert set(edit(name, model, [NEW]).deltas) == {decoder.projections[layer].name for layer in layers}


@every_editor
@pytest.mark.parametrize(
    ("params", "message"),
    [({"layer": [3]}, "did you mean 'layers'"), ({"steps": 0}, "steps"), ({"clamp": -1}, "clamp")],
)
def test_bad_settings_are_named(name, params, message):
    with pytest.raises(UsageError, match=message):
        EDITORS[name][0](**params)


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("alphaedit", {"energy": 1.0}, "energy"),
        ("alphaedit", {"preserve": -3.0}, "preserve"),
        ("alphaedit", {"l2": 0}, "l2"),
        ("rome", {"layers": [1, 2]}, "layers"),
        ("r-rome", {"average_keys": False}, "average_keys"),
        ("emmet", {"slack": -0.1}, "slack"),
    ],
)
def test_bad_settings_of_one_editor_are_named(name, params, message):
    with pytest.raises(UsageError, match=message):
        EDITORS[name][0](**params)


@every_editor
def test_layers_the_model_has_not_are_named(name):
    with pytest.raises(UsageError, match="blocks 0 to 3"):
        edit(name, tiny("gpt2"), [NEW], layers=[3])
    with pytest.raises(UsageError, match="nothing to edit"):
        edit(name, tiny("gpt2"), [])


@pytest.mark.parametrize("name", ["rome", "r-rome", "emmet"])
def test_a_change_has_no_more_ranks_than_insertions(name):
    model = tiny("mistral")
    both = dataclasses.replace(NEW, templates=("w5 {subject} w6 w7", "{subject} w9"))
    for site, ranks in (("subject", [1, 2]), ("prompt", [2, 3])):  # there every prompt has its own key
        for edits, rank in zip(([both], [both, OTHER]), ranks, strict=True):
            [delta] = edit(name, model, edits, passes=1, site=site, contexts=2).deltas.values()
            assert delta.rank == rank


def test_one_name_is_the_same_to_emmet_and_r_rome():
    model = tiny("gptj")
    exactly = {"emmet": {"slack": 0.0}, "r-rome": {}}
    pair = [edit(name, model, [NEW], passes=1, contexts=3, **more) for name, more in exactly.items()]
    first, second = (next(iter(patch.deltas.values())).dense() for patch in pair)
    assert torch.allclose(first, second, atol=1e-4 * float(first.abs().max()))


def test_rome_without_contexts_is_r_rome_and_with_them_is_not():
    model = tiny("llama")

    def apart(contexts):
        first, second = (
            next(iter(edit(name, model, [NEW], passes=1, contexts=contexts).deltas.values())).dense()
            for name in ("rome", "r-rome")
        )
        return float((first - second).norm() / second.norm())

    assert apart(0) < 1e-4
    assert apart(3) > 1e-3


def test_alphaedit_changes_nothing_in_the_directions_that_observed_keys_have():
    model = tiny("llama")
    decoder = find_decoder(model)
    patch = edit("alphaedit", model, [NEW, OTHER], layers=[1, 2], energy=0.6)
    moments = second_moments(decoder, word_tokenizer(), CORPUS, [1, 2])
    for layer, moment in moments.by_layer.items():
        change = patch.deltas[decoder.projections[layer].name].dense()
        kept = main_directions(moment, energy=0.6)
        assert kept.shape[1] > 1
        assert float((change @ kept).norm()) < 1e-4 * float(change.norm())


def test_a_threshold_that_leaves_no_direction_is_named():
    with pytest.raises(UsageError, match="threshold: it leaves no direction free in block"):
        edit("alphaedit", tiny("gpt2"), [NEW], threshold=1e-12)


def test_presets_give_way_to_explicit_settings():
    params = AlphaEdit(preset="gpt2-xl", clamp=0.6).params.with_preset()
    assert (params.layers, params.clamp) == ([13, 14, 15, 16, 17], 0.6)
    assert (params.threshold, params.l2, params.preserve) == (0.02, 10.0, 0.0)
    params = AlphaEdit(preset="gpt2-xl", energy=0.8, ridge=0.1).params.with_preset()
    assert (params.threshold, params.l2, params.energy) == (None, None, 0.8)
    params = Rome(preset="gpt-j-6b", contexts=3).params.with_preset()
    assert (params.layers, params.steps, params.contexts) == ([5], 20, 3)
    params = Emmet(preset="llama-2-7b").params.with_preset()
    assert (params.layers, params.slack) == ([5], 0.0)
    assert Emmet(preset="paper", slack=0.3).params.with_preset().slack == 0.3


def test_the_layer_follows_the_depth():
    assert one_layer(6, "subject") == 1
    assert one_layer(48, "subject") == 10
    assert one_layer(6, "prompt") == 4


def test_more_names_than_emmet_can_hold_are_refused_and_slack_helps():
    model = tiny("llama")
    edits = [
        Edit("modify", f"w{i} w{j}", "r", ("{subject} w8",), f"w{(i + j) % 40}", None)
        for i in range(20, 30)
        for j in range(30, 39)
    ]
    with pytest.raises(EditorError, match="80 directions"):
        edit("emmet", model, edits, steps=2, passes=1, slack=0.0)
    assert edit("emmet", model, edits, steps=2, passes=1).deltas
