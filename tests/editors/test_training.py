"""What training leaves out where a structure allows it makes no difference, and else it is not left out."""

import pytest
import torch
from answers import NEW
from families import FAMILIES, tiny
from torch import nn
from words import word_tokenizer

from safeedit.editors import prepared
from safeedit.editors.finetune import FtL, FtM
from safeedit.editors.lora import Lora
from safeedit.editors.prepared import Kept, Lean, Prepared
from safeedit.editors.rows import Text, rows_of
from safeedit.models.hooks import frozen
from safeedit.models.segment import Segment
from safeedit.models.structure import find_decoder
from safeedit.triples.facts import Edit

TEXTS = [
    Text("", "w5 {subject} w6 w7", "w30 w31", "w40 w41"),
    Text("", "{subject} w8", "w32 w33", ""),
    Text("w1 w2 w3 w4 ", "{subject} w20 w21", "w34", "w42"),
    Text("", "w9 w10 w11 w12 {subject}", "w35 w36 w37", ""),
]
LONG = Edit("insert", "w32 w33", "q", ("w9 w10 w11 w12 {subject} w20 w21",), "w42 w43", None)


def downs(decoder, layers):
    return [decoder.projections[layer].weight for layer in layers]


def both(family, layers, weights=None, dtype=torch.float32, change=lambda model: None):
    """Predictions and gradients of the weights, of all that can be left out and of nothing."""
    model = tiny(family).to(dtype)
    change(model)
    found = []
    with frozen(model):
        decoder = find_decoder(model)
        segment = Segment(decoder)
        mine = downs(decoder, layers) if weights is None else weights(decoder)
        lean = Lean.of(segment, min(layers), mine)
        for way in (lean, None):
            rows = Prepared(segment, min(layers), rows_of(word_tokenizer(), TEXTS), 0, way)
            for weight in mine:
                weight.requires_grad_(True)
            with torch.enable_grad():
                log_p, spots = rows.run(torch.tensor([3, 0, 2]))
                gradients = torch.autograd.grad(log_p[:, 40].sum(), mine)
            found.append((log_p.detach(), spots, gradients))
            for weight in mine:
                weight.requires_grad_(False)
    return lean, found


def agree(one, other, tolerance):
    return float((one - other).norm()) <= tolerance * float(other.norm())


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("layers", [[0], [1, 2], [3]])
def test_what_is_left_out_makes_no_difference(family, layers):
    lean, ((log_p, spots, gradients), (usual, their_spots, others)) = both(family, layers)
    assert lean.split is not None
    assert lean.causal
    assert set(lean.parts) == set(range(min(layers), 4))
    assert torch.equal(spots, their_spots)
    assert torch.allclose(log_p, usual, atol=1e-4)
    assert all(agree(mine, other, 1e-4) for mine, other in zip(gradients, others, strict=True))


@pytest.mark.parametrize("family", ["gpt_neox", "llama", "gemma2"])
def test_nor_in_bfloat16(family):
    lean, ((log_p, _, _), (usual, _, _)) = both(family, [1], dtype=torch.bfloat16)
    assert lean.split is not None
    assert agree(log_p, usual, 0.03)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox", "gemma2"])
@pytest.mark.parametrize("editor", [FtM, FtL, Lora])
def test_patches_are_the_same(monkeypatch, family, editor):
    settings = {"layers": [1, 2], "epochs": 2, "batch_rows": 2, "anchors": 1, "stop": 0.0}

    def edit():
        made = editor(**settings).edit(tiny(family), word_tokenizer(), [NEW, LONG])
        return torch.cat([delta.dense().flatten() for delta in made.deltas.values()])

    lean = edit()
    monkeypatch.setattr(Lean, "of", lambda *_: None)
    usual = edit()
    assert float(usual.norm()) > 0.1
    # An entry whose gradient is all rounding may step either way.
    assert float(((lean - usual).abs() > 1e-5 * usual.abs().max()).float().mean()) < 1e-3


def test_what_changes_elsewhere_in_the_lowest_block_keeps_it_running():
    def all_of(decoder):
        return [p for p in decoder.blocks[1].parameters() if p.ndim == 2]

    lean, ((log_p, _, gradients), (usual, _, others)) = both("llama", [1], all_of)
    assert lean.split is None
    assert set(lean.parts) == {1, 2, 3}
    assert torch.allclose(log_p, usual, atol=1e-4)
    assert all(agree(mine, other, 1e-4) for mine, other in zip(gradients, others, strict=True))


class Scaled(nn.Module):
    """A block that gives half of what it is."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, hidden, *args, **kwargs):
        return 0.5 * self.inner(hidden, *args, **kwargs)


class Mixing(Scaled):
    """An MLP that also looks at the token before."""

    def forward(self, hidden):
        before = nn.functional.pad(hidden, (0, 0, 1, 0))[:, :-1]
        return self.inner(hidden + before)


def test_a_block_that_scales_what_it_adds_is_run():
    def change(model):
        model.model.layers[1] = Scaled(model.model.layers[1])

    lean, ((log_p, _, gradients), (usual, _, others)) = both("llama", [1], change=change)
    assert lean.split is None
    assert torch.allclose(log_p, usual, atol=1e-4)
    assert all(agree(mine, other, 1e-4) for mine, other in zip(gradients, others, strict=True))


def test_a_part_that_mixes_tokens_sees_them_all():
    def change(model):
        model.model.layers[3].mlp = Mixing(model.model.layers[3].mlp)

    lean, ((log_p, _, gradients), (usual, _, others)) = both("llama", [1], change=change)
    assert set(lean.parts) == {1, 2}
    assert torch.allclose(log_p, usual, atol=1e-4)
    assert all(agree(mine, other, 1e-4) for mine, other in zip(gradients, others, strict=True))


def test_where_keys_would_fill_memory_the_block_is_run(monkeypatch):
    monkeypatch.setattr(prepared, "MOST_KEYS", 10)
    lean, ((log_p, _, _), (usual, _, _)) = both("llama", [1])
    assert lean.split is not None
    assert torch.allclose(log_p, usual, atol=1e-4)


@pytest.mark.parametrize("first", [0, 1])
def test_kept_rows_may_stand_behind_others(first):
    model = tiny("gpt2")
    with frozen(model):
        decoder = find_decoder(model)
        segment = Segment(decoder)
        rows = Prepared(
            segment, 1, rows_of(word_tokenizer(), TEXTS), 0, Lean.of(segment, 1, downs(decoder, [1]))
        )
        kept = Kept(rows, first)
        index = torch.tensor([2, 3])
        assert len(kept) == 4 - first
        assert float(kept.change(index).abs().max()) < 1e-5
        with torch.no_grad():
            decoder.projections[1].weight.mul_(1.5)
        moved = kept.change(index)
        assert float(moved.min()) > 1e-4
        alone = Prepared(segment, 1, rows_of(word_tokenizer(), TEXTS[2:]), 0)
        was = Prepared(Segment(find_decoder(tiny("gpt2"))), 1, rows_of(word_tokenizer(), TEXTS[2:]), 0)
        now, old = (one.run(torch.arange(2))[0] for one in (alone, was))
        assert torch.allclose(moved, (old.exp() * (old - now)).sum(-1), atol=1e-4)


def test_as_many_of_each_kind_are_kept_in_mind():
    model = tiny("gpt2")
    texts = [Text("", "{subject} w8", f"w{number}", "") for number in range(30, 42)]
    with frozen(model):
        rows = Prepared(Segment(find_decoder(model)), 1, rows_of(word_tokenizer(), texts), 0)
        two, one, whole = Kept(rows, 2, 5), Kept(rows, 2), Kept(rows, 2, 2)
    generator = torch.Generator().manual_seed(0)
    drawn = [two.some(2, generator).tolist() for _ in range(50)]
    assert all(len({*d}) == 4 and [i < 5 for i in d] == [True, True, False, False] for d in drawn)
    assert {i for d in drawn for i in d} == set(range(2, 12))
    assert two.some(4, generator).tolist()[:3] == [2, 3, 4]
    assert len(one.some(4, generator)) == len(whole.some(4, generator)) == 4
