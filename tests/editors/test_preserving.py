"""What the changes of several layers must leave alone: the same however little of it is kept ready."""

import pytest
import torch

from safeedit.editors import preserving
from safeedit.editors.preserving import Preserved
from safeedit.editors.solve import Preservation
from safeedit.errors import EditorError

INNER = 12
SIZE = 2 * INNER * INNER * 4
"""Bytes of a layer that is ready."""


def moment(seed):
    keys = torch.randn(40, INNER, generator=torch.Generator().manual_seed(seed))
    return keys.T @ keys / 40


MOMENTS = {layer: moment(layer) for layer in (3, 4, 5)}


class Made:
    """A store over `MOMENTS`, which counts how often each layer is made ready."""

    def __init__(self, moments=MOMENTS):
        self.times = dict.fromkeys(moments, 0)
        self.store = Preserved(moments, self.base, torch.device("cpu"))

    def base(self, layer, second):
        self.times[layer] += 1
        return Preservation.of(second, 2.0)


def test_everything_that_was_added_counts():
    store, first = Made().store, Preservation.of(MOMENTS[3], 2.0).moment
    store.anchor(3, moment(7))
    store.protect(3, moment(8))
    assert torch.allclose(store[3].moment, first + moment(8) + moment(7))
    store.relax(0.25)
    assert torch.allclose(store[3].moment, first + moment(8) + 0.25 * moment(7))
    assert torch.equal(store[4].moment, Preservation.of(MOMENTS[4], 2.0).moment)
    store.protect(3, moment(9))
    assert torch.allclose(store[3].moment, first + moment(8) + moment(9) + 0.25 * moment(7))
    lower = store[3].factor
    assert torch.allclose(lower @ lower.T, store[3].moment, atol=1e-5)


@pytest.mark.parametrize(("room", "ready"), [(3 * SIZE, 3), (2 * SIZE, 2), (SIZE // 2, 1)])
def test_few_layers_are_ready_and_the_last_one_always(room, ready, monkeypatch):
    monkeypatch.setattr(preserving, "READY", room)
    made = Made()
    for layer in (3, 4, 5, 5):
        made.store[layer].factor  # noqa: B018
    assert made.times == {3: 1, 4: 1, 5: 1}, "the one in use is never made twice in a row"
    again = [layer for layer in (5, 4, 3) if made.store[layer] is not None and made.times[layer] > 1]
    assert len(again) == 3 - ready


def test_a_layer_is_made_anew_when_what_it_must_leave_alone_changes():
    made = Made()
    for change in (lambda: made.store.protect(3, moment(8)), lambda: made.store.anchor(3, moment(7))):
        before = made.store[3]
        change()
        assert made.store[3] is not before
    same = made.store[4]
    made.store.relax(0.5)
    assert made.store[4] is same, "it has no anchors"


def test_statistics_that_are_no_use_are_refused_when_they_are_needed():
    store = Made({3: torch.full((4, 4), torch.nan), 4: torch.ones(4, 4) - 2 * torch.eye(4)}).store
    for layer in (3, 4):
        with pytest.raises(EditorError, match="key statistics"):
            store[layer].factor  # noqa: B018
