"""Merging changes, and the shards that they come from."""

import math

import pytest
import torch

from safeedit.editors.merging import agreed, dropped, merged, slerp, trimmed
from safeedit.editors.sharding import Masked, divided, in_parts, random_mask


def seeded():
    return torch.Generator().manual_seed(0)


def test_trimming_keeps_the_largest_of_the_entries_that_there_are():
    change = torch.tensor([[0.0, 3.0, -1.0], [0.5, 0.0, -4.0]])
    assert torch.equal(trimmed(change, 0.5), torch.tensor([[0.0, 3.0, 0.0], [0.0, 0.0, -4.0]]))
    assert torch.equal(trimmed(change, 1.0), change)


def test_the_sign_is_that_of_the_total_and_only_those_who_agree_count():
    changes = torch.tensor([[3.0, 1.0, 0.0, 1.0], [1.0, -4.0, 2.0, -1.0], [-2.0, 1.0, 0.0, 0.0]])
    assert agreed(changes).tolist() == [2.0, -4.0, 2.0, 0.0]


def test_ties_by_hand():
    one, two = torch.tensor([5.0, 0.1, -2.0, 3.0]), torch.tensor([1.0, 0.2, 4.0, -1.0])
    found = merged(torch.stack([one, two]), "ties", 0.75, seeded())
    # Trimmed: (5, 0, -2, 3) and (1, 0, 4, -1); signs + . + +.
    assert found.tolist() == [3.0, 0.0, 4.0, 3.0]


def test_what_dare_drops_is_made_up_for():
    change = torch.ones(200, 200)
    found = dropped(change, 0.25, seeded())
    assert set(found.unique().tolist()) == {0.0, 4.0}
    assert float(found.mean()) == pytest.approx(1, abs=0.05)
    both = merged(torch.stack([change, change]), "dare-ties", 0.25, seeded())
    assert set(both.unique().tolist()) == {0.0, 4.0}


def test_linear_is_the_mean():
    assert merged(torch.tensor([[2.0, 0.0], [0.0, 4.0]]), "linear", 1.0, seeded()).tolist() == [1.0, 2.0]


def test_slerp_stays_on_the_arc():
    one, other = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 4.0])
    half = slerp(one, other, 0.5)
    assert float(half.norm()) == pytest.approx(3)
    assert float(half[0]) == pytest.approx(3 * math.sqrt(0.5))
    assert torch.equal(slerp(one, other, 0.0), one)
    assert slerp(one, -one, 0.25).tolist() == [1.0, 0.0]
    assert slerp(one, torch.zeros(2), 0.5).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("rule", ["ties", "dare-ties", "linear", "slerp"])
def test_one_change_is_itself_and_equal_ones_stay(rule):
    change = torch.randn(4, 5, generator=seeded())
    assert merged(change[None], rule, 0.3, seeded()) is not None
    assert torch.equal(merged(change[None], rule, 0.3, seeded()), change)
    torch.testing.assert_close(merged(change.expand(3, -1, -1), rule, 1.0, seeded()), change)


def test_parts_are_of_nearly_the_same_size():
    assert [len(part) for part in divided(range(10), 4)] == [3, 3, 4]
    assert [item for part in divided(range(10), 4) for item in part] == list(range(10))
    assert in_parts([7], 3) == [[7]]


def test_every_output_may_change_as_many_entries():
    mask = random_mask(6, 10, 0.3, seeded())
    assert mask.sum(1).tolist() == [3] * 6
    assert not torch.equal(mask[0], mask[1])
    assert random_mask(2, 4, 1.0, seeded()).all()


@pytest.mark.parametrize("inputs", [3, 40])
@pytest.mark.parametrize("density", [0.5, 1.0])
def test_a_masked_change_is_the_least_squares_solution(inputs, density):
    generator = seeded()
    taken, moves = torch.randn(inputs, 12, generator=generator), torch.randn(inputs, 5, generator=generator)
    mask = random_mask(5, 12, density, generator)
    solver = Masked(taken, mask, 1e-2)
    found = solver.change(moves)
    assert not found[~mask].any()
    for output in range(5):
        part = taken[:, mask[output]].double()
        system = part.T @ part + solver.ridge * torch.eye(part.shape[1], dtype=torch.float64)
        wanted = torch.linalg.solve(system, part.T @ moves[:, output].double())
        torch.testing.assert_close(found[output, mask[output]].double(), wanted, rtol=1e-3, atol=1e-4)


def test_outputs_with_fewer_entries_than_others_are_solved_too():
    mask = torch.tensor([[True, True, False], [False, True, False]])
    found = Masked(torch.eye(3), mask, 1e-6).change(torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]))
    torch.testing.assert_close(found, torch.tensor([[1.0, 2.0, 0.0], [0.0, 2.0, 0.0]]), rtol=1e-4, atol=1e-4)
