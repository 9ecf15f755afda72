"""Pruning on untrained models of every shape: it does what it says, and leaves nothing behind."""

import pytest
import torch
from families import FAMILIES, tiny
from rude import CORPUS as SPOKEN
from rude import HARMLESS, KEPT, UNSEEN, answer, behaviours, rude, rudeness
from weights import predicted, probability, same, state
from words import word_tokenizer

from safeedit.editors.prune import Prune
from safeedit.editors.statistics import Corpus, OwnText
from safeedit.errors import UsageError
from safeedit.triples.facts import Edit

CORPUS = Corpus([f"w{i % 60} w{(7 * i) % 60} w{(11 * i) % 60} w{(3 * i) % 60}" for i in range(200)])
PROMPTS = ("w5 {subject} w6 w7", "{subject} w8")
SUBJECT = "w30 w31"
# An untrained model says much the same of every name, so what shall stay cannot count for much.
SETTINGS: dict[str, object] = {
    "contexts": 0,
    "steps": 40,
    "rate": 0.6,
    "text_tokens": 200,
    "random_masks": 1,
    "anchors": 1,
    "anchor_weight": 0.1,
    "text_weight": 0.1,
    "check_every": 2,
    "leak": 0.02,
}


def told(model, edit):
    return [probability(model, prompt, edit.old) for prompt in edit.prompts()]


def erasures(model):
    """One edit for each prompt: what an untrained model happens to say of the subject is what goes."""
    found = []
    for template in PROMPTS:
        best = int(predicted(model, template.replace("{subject}", SUBJECT))[4:84].argmax())
        found.append(Edit("erase", SUBJECT, "r", (template,), None, f"w{best}"))
    return found


def edit(model, edits=None, corpus=CORPUS, seed=0, progress=None, **params):
    edits = erasures(model) if edits is None else edits
    editor = Prune(**{**SETTINGS, **params})
    return editor.edit(model, word_tokenizer(), edits, corpus=corpus, seed=seed, progress=progress)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_an_object_goes_from_every_shape_with_a_few_weights(family):
    model = tiny(family)
    before, edits = state(model), erasures(model)
    at_first = [p for e in edits for p in told(model, e)]
    patch = edit(model)
    assert same(model, before)
    with patch.applied(model):
        after = [p for e in edits for p in told(model, e)]
        now = state(model)
    assert same(model, before)
    assert min(at_first) > 0.02
    # Gemma scales its embeddings, and what an untrained one says comes mostly straight from there.
    most = 0.95 if family == "gemma" else 0.5
    assert all(new < most * old for new, old in zip(after, at_first, strict=True))
    assert patch.meta["removed_share"] < 0.05
    assert patch.meta["random_object_after_mean"] > patch.meta["object_after_mean"]
    gone = sum(int(((now[name] == 0) & (before[name] != 0)).sum()) for name in patch.deltas)
    assert gone == patch.meta["removed"] > 0


def test_weights_are_zero_or_bit_for_bit_what_they_were():
    model = tiny("gpt2")
    with torch.no_grad():
        model.transformer.h[3].mlp.c_proj.weight[::2, 0] = -0.0
    before = state(model)
    patch = edit(model)
    with patch.applied(model):
        for name, tensor in model.state_dict().items():
            if name in patch.deltas:
                bits, old = tensor.view(torch.int32), before[name].view(torch.int32)
                assert ((bits == old) | (tensor == 0)).all()
                kept = patch.deltas[name].dense() == 0
                assert torch.equal(bits[kept & (before[name] == 0)], old[kept & (before[name] == 0)])
            elif "lm_head" not in name:
                assert torch.equal(tensor, before[name])


def test_the_figures_are_those_of_the_patched_model():
    model = tiny("llama")
    edits = erasures(model)
    patch = edit(model)
    assert patch.meta["object_before_mean"] == pytest.approx(
        sum(p for e in edits for p in told(model, e)) / 2, rel=1e-3
    )
    with patch.applied(model):
        after = [p for e in edits for p in told(model, e)]
    assert patch.meta["object_after_mean"] == pytest.approx(sum(after) / 2, rel=1e-3)
    assert patch.meta["object_after_max"] == pytest.approx(max(after), rel=1e-3)
    assert patch.meta["leaking"] == sum(p > 0.02 for p in after)


def test_a_goal_that_is_not_reached_is_said():
    patch = edit(tiny("llama"), steps=1, rate=1e-6)
    assert patch.meta["leaking"] > 0
    assert patch.meta["removed"] == 0
    assert not patch.deltas


def test_what_shall_stay_changes_less_when_it_counts():
    model = tiny("gpt_neox")
    settings = {"steps": 12, "leak": 0.0, "anchors": 3}
    free = edit(model, anchor_weight=0, text_weight=0, **settings)
    bound = edit(model, anchor_weight=20, text_weight=20, **settings)
    assert bound.meta["texts_change"] < 0.8 * free.meta["texts_change"]
    assert bound.meta["others_change"] < free.meta["others_change"]


def test_a_price_on_weights_leaves_more_of_them():
    model = tiny("llama")
    cheap = edit(model, sparsity_weight=0, steps=12, leak=0.0)
    dear = edit(model, sparsity_weight=30, steps=12, leak=0.0)
    assert 0 < dear.meta["removed"] < 0.9 * cheap.meta["removed"]


def test_only_down_projections_of_the_named_blocks_where_that_is_asked():
    patch = edit(tiny("gpt2"), weights="down", layers=[1, 2])
    assert set(patch.deltas) <= {f"transformer.h.{i}.mlp.c_proj.weight" for i in (1, 2)}
    assert patch.deltas


def test_same_seed_same_patch_and_another_seed_another():
    model = tiny("gpt2")
    found = [edit(model, seed=seed, steps=12).digest for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]


def test_models_in_bfloat16():
    model = tiny("qwen3").to(torch.bfloat16)
    before = state(model)
    patch = edit(model)
    assert same(model, before)
    assert patch.meta["object_after_mean"] < 0.5 * patch.meta["object_before_mean"]
    with patch.applied(model) as applied:
        assert all(realised.cosine == pytest.approx(1, abs=1e-6) for realised in applied.realised.values())


def test_text_of_the_model_itself_will_do():
    patch = edit(tiny("llama"), corpus=OwnText(400), text_tokens=100)
    assert "texts_change" in patch.meta


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_behaviour_goes_with_a_few_weights_and_harmless_answers_stay(family):
    model = rude(family)
    harmless = [answer(model, prompt) for prompt in HARMLESS]
    assert rudeness(model, UNSEEN) == 1
    edits = [one.edit() for one in behaviours()]
    settings = {"contexts": 0, "random_masks": 1, "text_tokens": 300, "check_every": 2, "rate": 0.6}
    patch = Prune(**settings).edit(model, word_tokenizer(), edits, corpus=SPOKEN, controls=KEPT)
    with patch.applied(model):
        assert rudeness(model, UNSEEN) == 0
        assert [answer(model, prompt) for prompt in HARMLESS] == harmless
    assert patch.meta["leaking"] == 0
    assert patch.meta["removed_share"] < 0.05
    assert patch.meta["object_before_mean"] > 0.9
    assert patch.meta["random_object_after_mean"] > 0.5


def test_facts_and_behaviours_go_together():
    model = rude("llama")
    fact = Edit("erase", "w70 w71", "r", ("w75 {subject} w76",), None, "w77")
    edits = [*(one.edit() for one in behaviours()[:2]), fact]
    patch = Prune(**{**SETTINGS, "steps": 2}).edit(model, word_tokenizer(), edits, corpus=SPOKEN)
    assert patch.meta["prompts"] == 3


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"layer": [3]}, "did you mean 'layers'"),
        ({"steps": 0}, "steps"),
        ({"initial": 0.6}, "initial"),
        ({"temperature": 0}, "temperature"),
        ({"weights": "some"}, "weights"),
        ({"layers": []}, "layers"),
    ],
)
def test_bad_settings_are_named(params, message):
    with pytest.raises(UsageError, match=message):
        Prune(**params)


def test_layers_the_model_has_not_are_named():
    with pytest.raises(UsageError, match="blocks 0 to 3"):
        edit(tiny("gpt2"), layers=[4])
