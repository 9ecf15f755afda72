"""LoRA on untrained models of every shape: it does what it says, and its patch is a thin product."""

import pytest
import torch
from answers import NEW, PROMPTS, put_in
from families import FAMILIES, tiny
from test_finetune import ASKED, OTHER
from weights import probability, same, state, untouched
from words import word_tokenizer

from safeedit.adapters import adapter_of, from_adapter
from safeedit.deltas import LowRankDelta
from safeedit.editors.lora import Adapters, Lora, adapted
from safeedit.errors import EditorError, UsageError
from safeedit.models.linear import linears
from safeedit.models.structure import find_decoder
from safeedit.triples.facts import Edit

# An untrained model reads little off a subject, so that the same prompts cannot stay for other subjects.
SETTINGS: dict[str, object] = {
    "layers": [2, 3],
    "targets": "all",
    "rank": 4,
    "epochs": 60,
    "rate": 0.1,
    "stop": 0.1,
    "anchors": 0,
}


def edit(model, edits, seed=0, progress=None, **params):
    settings = {**SETTINGS, **params}
    return Lora(**settings).edit(model, word_tokenizer(), edits, seed=seed, progress=progress)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_whole_targets_are_put_into_every_shape(family):
    _, patch = put_in(family, lambda model: edit(model, [NEW, OTHER]), ASKED)
    assert all(isinstance(delta, LowRankDelta) and delta.rank == 4 for delta in patch.deltas.values())


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_patch_is_what_was_trained(family):
    """What the last look saw in the model is what the patch makes of it."""
    model = tiny(family)
    patch = edit(model, [NEW], epochs=7, stop=0.0)
    with patch.applied(model):
        again = edit(tiny_like(model), [NEW], epochs=1, rate=1e-12, stop=0.0)
    assert again.meta["loss_mean"] == pytest.approx(patch.meta["loss_mean"], rel=1e-3)
    assert patch.meta["loss_mean"] > 1e-3


def tiny_like(model):
    import copy

    other = copy.deepcopy(model)
    other._safeedit_applied = ()
    return other


def test_the_factors_follow_the_gradient_of_the_whole_weight():
    """A step of B and A, against autograd on B and A themselves."""
    for family in ("gpt2", "llama"):
        model = tiny(family)
        layers = adapted(find_decoder(model), [1], "all")
        ours = Adapters(layers, rank=2, rate=0.05, seed=1)
        with torch.no_grad():
            for out in ours.out:
                out.normal_(std=0.1)
        gradients = [
            torch.randn(one.weight.shape, generator=torch.Generator().manual_seed(i))
            for i, one in enumerate(layers)
        ]
        out = [b.clone().requires_grad_() for b in ours.out]
        into = [a.clone().requires_grad_() for a in ours.into]
        total = sum(
            (one.turned(b @ a) * g).sum() for one, b, a, g in zip(layers, out, into, gradients, strict=True)
        )
        wanted = torch.autograd.grad(total, [*out, *into])
        seen = []
        ours.adam.step = seen.extend
        with torch.no_grad():
            ours.step(gradients)
        assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(seen, wanted, strict=True))


def test_it_goes_out_as_an_adapter_and_comes_back(tmp_path):
    model = tiny("gpt2")
    patch = edit(model, [NEW], epochs=3)
    adapter = adapter_of(model, patch)
    assert (adapter.rank, adapter.lost_in_total) == (4, 0.0)
    adapter.save(tmp_path)
    back = from_adapter(model, tmp_path)
    assert back.deltas.keys() == patch.deltas.keys()
    assert all(torch.equal(back.deltas[n].dense(), d.dense()) for n, d in patch.deltas.items())


@pytest.mark.parametrize("family", ["gpt2", "gptj", "llama"])
def test_the_targets_choose_the_layers(family):
    decoder = find_decoder(tiny(family))
    everything = adapted(decoder, [1, 3], "all")
    assert {one.module for one in everything} == {
        name for name in linears(decoder.model) if ".1." in name or ".3." in name
    }
    down = adapted(decoder, [1, 3], "down")
    assert [one.name for one in down] == [decoder.projections[layer].name for layer in (1, 3)]
    last = down[0].module.rpartition(".")[2]
    named = adapted(decoder, [1, 3], [last])
    assert {one.name for one in down} <= {one.name for one in named}
    assert len(named) < len(everything)
    with pytest.raises(UsageError, match=f"targets: .*'nothing'.*{last}"):
        adapted(decoder, [1], [last, "nothing"])


@pytest.mark.parametrize("objective", ["neutral", "entropy", "refusal"])
def test_an_erased_object_becomes_improbable(objective):
    model = tiny("llama")
    with edit(model, [NEW]).applied(model):
        assert probability(model, "w30 w31 w8", "w40") > 0.3
        erase = Edit("erase", "w30 w31", "r", PROMPTS, None, "w40")
        with edit(model, [erase], objective=objective).applied(model, check="none"):
            assert probability(model, "w30 w31 w8", "w40") < 0.1
            assert probability(model, "w5 w30 w31 w6 w7", "w40") < 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_either_type(dtype):
    model = tiny("gpt_neox").to(dtype)
    before = state(model)
    patch = edit(model, [NEW], layers=[1], targets="down", rank=8)
    assert same(model, before)
    (name,) = patch.deltas
    assert ".1." in name
    with patch.applied(model):
        assert probability(model, "w30 w31 w8", "w40") > 0.25


def test_same_seed_same_patch_and_another_seed_another():
    model = tiny("gpt2")
    first = edit(model, [NEW, OTHER], epochs=2)
    assert edit(model, [NEW, OTHER], epochs=2).digest == first.digest
    assert edit(model, [NEW, OTHER], epochs=2, seed=1).digest != first.digest


def test_layers_follow_the_depth():
    assert Lora()._layers(6) == [1, 2, 3, 4]
    assert Lora()._layers(32) == [14, 15, 16, 17]
    assert Lora()._layers(1) == [0]
    assert Lora(layers=[3, 0])._layers(4) == [0, 3]


def test_edits_that_hold_change_nothing():
    patch = edit(tiny("llama"), [NEW], stop=1e3)
    assert patch.meta["epochs"] == 0
    assert all(not delta.dense().any() for delta in patch.deltas.values())


@pytest.mark.parametrize("targets", ["down", "all"])
def test_an_interrupted_edit_leaves_every_adapted_weight(targets):
    model = tiny("gpt2")
    before = state(model)

    def stop(stage, done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        edit(model, [NEW], progress=stop, targets=targets)
    assert untouched(model, before)


def test_a_step_that_is_far_too_large_is_refused():
    model = tiny("llama")
    before = state(model)
    with pytest.raises(EditorError, match="finite"):
        edit(model, [NEW], rate=1e38)
    assert untouched(model, before)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"rank": 0}, "rank"),
        ({"targets": []}, "targets"),
        ({"targets": "up"}, "targets"),
        ({"targets": [""]}, "targets"),
        ({"objective": "lens"}, "objective"),
        ({"targets": "up"}, "'targets' must be one of: down, all; or it must be a list"),
        ({"targets": [""]}, "^editor lora: an entry of 'targets' must not be empty$"),
        ({"bound": 1.0}, "no such setting; the keys are: "),
        ({"lora_alpha": 16}, "no such setting; the keys are: "),
    ],
)
def test_bad_settings_are_named(params, message):
    with pytest.raises(UsageError, match=message):
        Lora(**params)


def test_what_does_not_fit_the_model_is_refused():
    with pytest.raises(UsageError, match=r"rank: 33 .*has 32"):
        edit(tiny("gpt2"), [NEW], rank=33)
    with pytest.raises(UsageError, match="blocks 0 to 3"):
        edit(tiny("gpt2"), [NEW], layers=[4])
    with pytest.raises(UsageError, match="there are: c_attn, c_fc, c_proj"):
        edit(tiny("gpt2"), [NEW], targets=["q_proj"])
