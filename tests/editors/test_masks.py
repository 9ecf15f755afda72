"""Hard-concrete gates, and linear layers that compute with other weights than their own."""

import math

import pytest
import torch
from families import FAMILIES, tiny

from safeedit.editors.masks import HardConcrete, computing_with, linear_layers
from safeedit.models.structure import find_decoder


def drawn(scores, seed=0, **params):
    return HardConcrete(**params).sample(scores, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("probability", [0.01, 0.2, 0.45])
@pytest.mark.parametrize("temperature", [0.3, 2 / 3])
def test_gates_are_open_as_often_as_their_score_says(probability, temperature):
    gates = HardConcrete(temperature)
    scores = torch.full((200_000,), gates.score(probability))
    found = drawn(scores, temperature=temperature)
    assert float((found > 0).float().mean()) == pytest.approx(probability, abs=0.004)
    assert float(gates.open(scores)[0]) == pytest.approx(probability, rel=1e-4)
    assert found.min() == 0
    assert found.max() <= 1


def test_a_gate_settles_where_its_score_points():
    gates = HardConcrete()
    assert gates.settled(torch.tensor([-3.0, -0.01, 0.01, 3.0])).tolist() == [False, False, True, True]
    assert drawn(torch.tensor([-40.0, 40.0])).tolist() == [0.0, 1.0]


def test_shut_gates_still_learn():
    scores = torch.full((50,), HardConcrete().score(0.001), requires_grad=True)
    found = drawn(scores)
    assert (found == 0).all()
    [gradient] = torch.autograd.grad(found.sum(), [scores])
    assert (gradient > 0).all()
    assert torch.isfinite(gradient).all()


def test_same_seed_same_gates_and_another_seed_others():
    scores = torch.zeros(100)
    assert torch.equal(drawn(scores), drawn(scores))
    assert not torch.equal(drawn(scores), drawn(scores, seed=1))


def test_the_open_probability_is_what_a_score_costs():
    scores = torch.tensor([0.3], requires_grad=True)
    [gradient] = torch.autograd.grad(HardConcrete().open(scores).sum(), [scores])
    p = 1 / (1 + math.exp(-(0.3 - (2 / 3) * math.log(0.1 / 1.1))))
    assert float(gradient) == pytest.approx(p * (1 - p), rel=1e-4)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_layers_compute_with_the_weights_they_are_given(family):
    model = tiny(family)
    blocks = find_decoder(model).blocks[1:3]
    layers = linear_layers(model, blocks)
    names = dict(model.named_parameters())
    assert set(layers) <= set(names)
    assert all(any(layer is m for b in blocks for m in b.modules()) for layer in layers.values())
    assert {find_decoder(model).projections[i].name for i in (1, 2)} <= set(layers)
    ids = torch.tensor([[5, 9, 11, 30]])
    with torch.no_grad():
        own = model(input_ids=ids).logits
        halved = {name: names[name] * 0.5 for name in layers}
        with computing_with(layers, halved):
            stood_in = model(input_ids=ids).logits
        assert torch.equal(model(input_ids=ids).logits, own)
        for name in layers:
            names[name].mul_(0.5)
        written = model(input_ids=ids).logits
    assert torch.allclose(stood_in, written, atol=1e-5)
    assert not torch.allclose(stood_in, own, atol=1e-3)


def test_layers_are_put_back_after_an_error():
    model = tiny("gpt2")
    layers = linear_layers(model, find_decoder(model).blocks)
    with pytest.raises(KeyError), computing_with(layers, dict.fromkeys(list(layers)[:2], torch.zeros(1, 1))):
        pass
    assert not any("forward" in layer.__dict__ for layer in layers.values())


def test_a_weight_that_two_layers_share_is_left_out():
    model = tiny("llama")
    blocks = find_decoder(model).blocks
    blocks[2].mlp.up_proj.weight = blocks[3].mlp.up_proj.weight
    found = linear_layers(model, [blocks[3]])
    assert "model.layers.3.mlp.down_proj.weight" in found
    assert "model.layers.3.mlp.up_proj.weight" not in found
