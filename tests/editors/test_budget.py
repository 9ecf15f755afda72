"""What a pass keeps on the device is counted, and values are searched in parts that fit."""

import dataclasses

import pytest
import torch
from families import tiny
from test_values import EDITS, LOOK, task
from torch import nn

from safeedit.editors import budget, values
from safeedit.editors.budget import allowed, kept_by
from safeedit.models.hooks import frozen
from safeedit.models.segment import Segment
from safeedit.models.structure import find_decoder


def test_what_backward_needs_is_counted_once_and_weights_are_not():
    model, given = nn.Linear(5, 7, bias=False), torch.randn(3, 5, requires_grad=True)
    assert kept_by(model, lambda: given.exp()) == 3 * 5 * 4, "its result"
    assert kept_by(model, lambda: given * given) == 3 * 5 * 4, "one tensor, though both factors are kept"
    assert kept_by(model, lambda: model(given.sigmoid()).sigmoid()) == 3 * (5 + 7) * 4
    assert kept_by(model, lambda: given.detach().exp()) == 0


def test_more_is_allowed_for_a_larger_model(monkeypatch):
    model = nn.Linear(100, 100, bias=False)
    assert allowed(model) == budget.LEAST
    monkeypatch.setattr(budget, "LEAST", 1)
    assert allowed(model) == int(budget.SHARE * 40_000)


@pytest.mark.parametrize("beside", [False, True])
def test_values_searched_in_parts_are_those_searched_together(beside, monkeypatch):
    segment, seen = Segment(find_decoder(tiny("llama"))), []
    module = segment.decoder.projections[1].module if beside else None
    ran = values._Chunk.run
    monkeypatch.setattr(values._Chunk, "run", lambda chunk: seen.append(chunk.count) or ran(chunk))

    def found():
        seen.clear()
        with frozen(segment.decoder.model):
            how = dataclasses.replace(LOOK, steps=3)
            return values.search(segment, 1, task(segment, EDITS), how, fill=0, beside=module), list(seen)

    together, groups = found()
    assert groups == [2]
    monkeypatch.setattr(budget, "LEAST", 1)
    monkeypatch.setattr(budget, "SHARE", 1e-6)
    apart, groups = found()
    assert groups == [1, 1]
    assert torch.allclose(apart.delta, together.delta, atol=1e-4)
