"""Partial forward passes agree with the full one, for every decoder shape."""

import pytest
import torch
from families import FAMILIES, tiny

from safeedit.errors import ModelError
from safeedit.models.segment import Prefix, Segment
from safeedit.models.structure import find_decoder
from safeedit.models.tokens import pad_around

ROWS = [[5, 9, 11, 7, 3], [8, 4, 6], [12, 13, 14, 15, 16, 17, 18], [21, 22, 23, 24]]
PIVOTS = [2, 1, 4, 0]


@pytest.fixture(params=sorted(FAMILIES))
def decoder(request):
    return find_decoder(tiny(request.param))


def real(batch, states):
    return states[batch.attention_mask.bool()]


def full_logits(decoder, batch):
    return decoder.model(**batch.forward_args(), use_cache=False).logits


@torch.no_grad()
def test_parts_are_found(decoder):
    assert len(decoder.blocks) == 4
    assert len({p.name for p in decoder.projections}) == 4
    state = decoder.model.state_dict()
    for projection in decoder.projections:
        assert projection.name in state
        assert state[projection.name].data_ptr() == projection.weight.data_ptr()
        assert projection.outer == 32
        assert projection.inner > 32


@torch.no_grad()
@pytest.mark.parametrize("start", [0, 1, 3])
def test_two_segments_make_one_pass(decoder, start):
    batch = pad_around(ROWS, PIVOTS, 0)
    segment = Segment(decoder)
    middle = segment.run(batch, stop=start) if start else None
    final = segment.run(batch, start=start, hidden=middle)
    ours, theirs = decoder.logits(final), full_logits(decoder, batch)
    assert (real(batch, ours) - real(batch, theirs)).abs().max() < 1e-5


@torch.no_grad()
def test_suffix_on_a_kept_prefix_makes_one_pass(decoder):
    batch = pad_around(ROWS, PIVOTS, 0)
    columns = max(PIVOTS)
    segment = Segment(decoder)
    hidden, prefix = segment.with_prefix(batch, columns, keep=2)
    rest = batch.columns(slice(columns, None))
    for _ in range(2):  # the prefix must not grow from one pass to the next
        final = segment.run(rest, start=2, hidden=hidden, prefix=prefix)
    ours, theirs = decoder.logits(final), full_logits(decoder, batch)[:, columns:]
    assert (real(rest, ours) - real(rest, theirs)).abs().max() < 1e-5


@torch.no_grad()
def test_prefixes_of_different_lengths_are_joined(decoder):
    rows, pivots = [ROWS[i] for i in (3, 1, 0, 2)], [0, 1, 2, 4]
    batch = pad_around(rows, pivots, 0)
    segment = Segment(decoder)
    parts = []
    for some, width in ((slice(0, 2), 1), (slice(2, 4), 4)):
        part = batch.rows(torch.arange(4)[some]).columns(slice(4 - width, None))
        parts.append(segment.with_prefix(part, width, keep=2))
    rest = batch.columns(slice(4, None))
    hidden, prefix = torch.cat([h for h, _ in parts]), Prefix.joined([p for _, p in parts])
    final = segment.run(rest, start=2, hidden=hidden, prefix=prefix)
    theirs = full_logits(decoder, batch)[:, 4:]
    assert (real(rest, decoder.logits(final)) - real(rest, theirs)).abs().max() < 1e-5


@torch.no_grad()
def test_rows_of_prefix_and_batch_go_together(decoder):
    batch = pad_around(ROWS, PIVOTS, 0)
    columns, keep = max(PIVOTS), torch.tensor([2, 0])
    segment = Segment(decoder)
    hidden, prefix = segment.with_prefix(batch, columns, keep=1)
    rest = batch.columns(slice(columns, None))
    final = segment.run(rest.rows(keep), start=1, hidden=hidden[keep], prefix=prefix.rows(keep))
    theirs = segment.run(rest, start=1, hidden=hidden, prefix=prefix)[keep]
    assert torch.allclose(real(rest.rows(keep), final), real(rest.rows(keep), theirs), atol=1e-5)


def test_layout_of_the_rows_does_not_matter(decoder):
    with torch.no_grad():
        around = pad_around(ROWS, PIVOTS, 0)
        one = full_logits(decoder, pad_around(ROWS[2:3], [0], 0))[0, -1]
        other = full_logits(decoder, around)[2][around.attention_mask[2].bool()][-1]
    assert torch.allclose(one, other, atol=1e-5)


def test_a_model_is_left_as_it_was(decoder):
    batch = pad_around(ROWS, PIVOTS, 0)
    Segment(decoder).run(batch, stop=2)
    assert not any("forward" in module.__dict__ for module in decoder.model.modules())
    assert all(p.requires_grad for p in decoder.model.parameters())


def test_missing_parts_are_named():
    with pytest.raises(ModelError, match="decoder"):
        find_decoder(torch.nn.Linear(2, 2))


@torch.no_grad()
def test_the_suffix_carries_gradients_to_what_was_added(decoder):
    batch = pad_around(ROWS, PIVOTS, 0)
    columns = max(PIVOTS)
    segment = Segment(decoder)
    hidden, prefix = segment.with_prefix(batch, columns, keep=2)
    rest = batch.columns(slice(columns, None))
    with torch.enable_grad():
        delta = torch.zeros(len(ROWS), hidden.shape[-1], requires_grad=True)
        moved = torch.cat([hidden[:, :1] + delta[:, None], hidden[:, 1:]], dim=1)
        final = segment.run(rest, start=2, hidden=moved, prefix=prefix)
        real(rest, decoder.logits(final)).square().sum().backward()
    assert delta.grad is not None
    assert (delta.grad.abs().sum(dim=1) > 0).all()
