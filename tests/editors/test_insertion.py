"""Values put into the weights: where they are asked for, and as little as possible elsewhere."""

import pytest
import torch
from families import FAMILIES, tiny
from words import word_tokenizer

from safeedit.editors import insertion as inserting
from safeedit.editors.constrained import equal_change
from safeedit.editors.insertion import Beginnings, Insertion, restored_weights
from safeedit.editors.preserving import Preserved
from safeedit.editors.rows import Demand, Goals, Text, rows_of
from safeedit.editors.solve import Preservation
from safeedit.errors import EditorError
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


def preserved(decoder, layers, weight):
    moments = {layer: torch.eye(decoder.projections[layer].inner) for layer in layers}
    return Preserved(moments, lambda layer, moment: Preservation.of(moment, weight), decoder.device)


def insertion(decoder, weight=0.5):
    kept = preserved(decoder, LAYERS, weight)
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
            work.preserved.relax(part)
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


MANY = [f"w{20 + i % 8} w{30 + i // 8}" for i in range(80)]
"""With two prompts each more texts than the keys of the models here have directions."""


def of_many(decoder, layers, average=False):
    kept = preserved(decoder, layers, 0.5)
    asked = [Demand(i // 2, row, Goals.distributions([0])) for i, row in enumerate(rows(MANY))]
    beginnings = Beginnings.of(len(MANY), asked, 0, decoder.device)
    return Insertion(Segment(decoder), layers, beginnings, kept, average)


def changed_by(decoder, layers, average):
    """The weights after all values, then after some, and what the first insertion left missing."""
    torch.manual_seed(4)
    first, more = (0.5 * torch.randn(2, len(MANY), decoder.hidden_size)).unbind()
    with frozen(decoder.model), restored_weights(decoder, layers):
        work = of_many(decoder, layers, average)
        found = []
        for delta, among in ((first, None), (more, torch.arange(len(MANY)) < 20)):
            work.run(delta, lambda done, total: None, among)
            found.append([decoder.projections[layer].weight.detach().clone() for layer in layers])
        assert all(f.left.shape[1] == f.right.shape[0] for f in work.factors().values())
        return (*found, work)


@pytest.mark.parametrize(("family", "layers"), [("gpt2", [0, 1]), ("llama", [1, 2]), ("gptj", [1])])
@pytest.mark.parametrize("average", [False, True])
def test_what_is_too_much_to_be_held_is_run_again_and_summed(monkeypatch, family, layers, average):
    decoder = find_decoder(tiny(family))
    usual = changed_by(decoder, layers, average)
    monkeypatch.setattr(inserting, "KEPT", 0)
    monkeypatch.setattr(inserting, "AT_ONCE", 1)
    found = changed_by(decoder, layers, average)
    assert usual[-1].keys
    assert not found[-1].keys
    assert found[-1].entering is None
    starts = [decoder.projections[layer].weight.detach() for layer in layers]
    for start, one, other in zip(starts, usual[0], found[0], strict=True):
        assert float((one - other).norm() / (one - start).norm()) < 1e-3
    # In higher layers, those that are not asked again count by the keys that they have now, not had before.
    assert float((usual[1][0] - found[1][0]).norm() / (usual[1][0] - starts[0]).norm()) < 1e-3
    assert torch.allclose(usual[-1].missing, found[-1].missing, rtol=1e-2)


def test_texts_in_small_batches_change_as_all_at_once(monkeypatch):
    decoder = find_decoder(tiny("llama"))
    usual = changed_by(decoder, LAYERS, False)
    monkeypatch.setattr(inserting, "AT_ONCE", 1)
    found = changed_by(decoder, LAYERS, False)
    assert found[-1].batch_rows == inserting.FEWEST < usual[-1].batch_rows
    assert found[-1].entering is not None
    for one, other in zip(usual[1], found[1], strict=True):
        assert torch.allclose(one, other, atol=1e-4)


def test_sums_leave_nothing_to_an_algebra_that_wants_equalities(monkeypatch):
    monkeypatch.setattr(inserting, "KEPT", 0)
    decoder = find_decoder(tiny("llama"))
    with frozen(decoder.model), restored_weights(decoder, LAYERS):
        work = of_many(decoder, LAYERS)
        work.solve = equal_change
        with pytest.raises(EditorError, match="cannot all hold exactly"):
            work.run(torch.randn(len(MANY), decoder.hidden_size), lambda done, total: None)
