"""Values put into the weights: where they are asked for, and as little as possible elsewhere."""

import pytest
import torch
from families import FAMILIES, tiny
from words import word_tokenizer

from safeedit.editors.insertion import Beginnings, Insertion, restored_weights
from safeedit.editors.rows import Demand, Goals, Text, rows_of
from safeedit.editors.solve import Preservation
from safeedit.models.hooks import frozen
from safeedit.models.segment import Segment
from safeedit.models.structure import find_decoder
from safeedit.models.tokens import pad_around

LAYERS = [1, 2]
NAMES = ("w30 w31", "w32 w33", "w34 w35")
OTHERS = ("w50 w31", "w51 w33", "w52 w35")


def rows(names):
    texts = [Text("", template, name) for name in names for template in ("w5 {subject} w6", "{subject} w8")]
    return rows_of(word_tokenizer(), texts, "prompt")


def demands():
    return [Demand(i // 2, row, Goals.distributions([0])) for i, row in enumerate(rows(NAMES))]


def insertion(decoder, weight=0.5):
    kept = {layer: Preservation.of(torch.eye(decoder.projections[layer].inner), weight) for layer in LAYERS}
    return Insertion(Segment(decoder), LAYERS, Beginnings.of(3, demands(), 0, decoder.device), kept)


@torch.no_grad()
def at_pivots(decoder, asked):
    batch = pad_around([row.ids for row in asked], [row.pivot for row in asked], 0)
    return Segment(decoder).run(batch, stop=LAYERS[-1] + 1)[:, max(row.pivot for row in asked)]


def values(decoder, scale=0.5):
    torch.manual_seed(3)
    return scale * torch.randn(3, decoder.hidden_size)


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"gemma2"}))
def test_the_stream_gains_what_was_asked_for_and_the_weights_come_back(family):
    decoder = find_decoder(tiny(family))
    before = {name: tensor.clone() for name, tensor in decoder.model.state_dict().items()}
    asked, wanted = rows(NAMES), values(decoder)
    with frozen(decoder.model):
        first = at_pivots(decoder, asked)
        with restored_weights(decoder, LAYERS):
            work = insertion(decoder, weight=1e-4)
            for _ in range(8):
                gained = (at_pivots(decoder, asked) - first).view(3, 2, -1).mean(1)
                work.run(wanted - gained, lambda done, total: None)
            gained = (at_pivots(decoder, asked) - first).view(3, 2, -1).mean(1)
    assert float((gained - wanted).norm() / wanted.norm()) < 0.01
    assert all(torch.equal(t, before[n]) for n, t in decoder.model.state_dict().items())


def test_those_without_a_value_stay_where_they_are():
    decoder = find_decoder(tiny("llama"))
    asked, delta = rows(NAMES), values(decoder)
    alone = torch.tensor([False, True, False])
    with frozen(decoder.model), restored_weights(decoder, LAYERS):
        work = insertion(decoder, weight=0.02)
        work.run(torch.zeros_like(delta), lambda done, total: None)
        first = at_pivots(decoder, asked)
        work.run(delta, lambda done, total: None, alone)
        moved = (at_pivots(decoder, asked) - first).norm(dim=1).view(3, 2).mean(1)
    assert moved[1] > 3 * moved[0]
    assert moved[1] > 3 * moved[2]


def test_anchors_hold_what_stands_nearest_and_let_go_when_told():
    decoder = find_decoder(tiny("llama"))
    delta, near = values(decoder), rows(OTHERS)

    def harm(part):
        with frozen(decoder.model), restored_weights(decoder, LAYERS):
            work = insertion(decoder)
            work.anchor(near, 20.0, fill=0)
            work.hold_anchors(part)
            first = at_pivots(decoder, near)
            work.run(delta, lambda done, total: None)
            return float((at_pivots(decoder, near) - first).norm())

    held, half, free = harm(1.0), harm(0.05), harm(0.0)
    assert held < half < free
    assert held < 0.5 * free


def test_factors_say_what_was_done_to_the_weights():
    decoder = find_decoder(tiny("gpt2"))
    with frozen(decoder.model), restored_weights(decoder, LAYERS):
        work = insertion(decoder)
        for _ in range(2):
            work.run(values(decoder), lambda done, total: None)
        for layer, factors in work.factors().items():
            projection = decoder.projections[layer]
            change = projection.weight - work.originals[layer]
            assert torch.allclose(change, projection.oriented(factors.dense()), atol=1e-5)
