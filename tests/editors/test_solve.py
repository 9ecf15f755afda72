"""The algebra: both forms of the solution agree with the definition, and bad systems are refused."""

import pytest
import torch
from families import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from safeedit.editors.solve import Preservation, before_modules, least_change
from safeedit.errors import EditorError
from safeedit.models.structure import find_decoder


def problem(count, inner=24, outer=10, seed=0):
    g = torch.Generator().manual_seed(seed)
    samples = torch.randn(400, inner, generator=g)
    keys = torch.randn(count, inner, generator=g)
    residuals = torch.randn(count, outer, generator=g)
    return samples.T @ samples / 400, keys, residuals


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.floats(0.1, 1000), st.integers(0, 5))
def test_solution_is_the_published_one(count, weight, seed):
    moment, keys, residuals = problem(count, seed=seed)
    preserve = Preservation.of(moment, weight)
    found = least_change(keys, residuals, preserve).dense().double()
    k, r, a = keys.T.double(), residuals.T.double(), preserve.moment.double()
    expected = r @ k.T @ torch.linalg.inv(a + k @ k.T)
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()) + 1e-6)


def test_no_other_change_costs_less():
    moment, keys, residuals = problem(5)
    preserve = Preservation.of(moment, 3.0)
    best = least_change(keys, residuals, preserve).dense()

    def cost(change):
        fit = (change @ keys.T - residuals.T).square().sum()
        return float(fit + torch.trace(change @ preserve.moment @ change.T))

    for seed in range(20):
        other = best + 0.01 * torch.randn(best.shape, generator=torch.Generator().manual_seed(seed))
        assert cost(best) < cost(other)


def test_rank_is_no_larger_than_the_number_of_keys():
    moment, keys, residuals = problem(3)
    assert least_change(keys, residuals, Preservation.of(moment, 1.0)).left.shape[1] == 3


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_keys_that_are_not_finite_are_refused(bad):
    moment, keys, residuals = problem(3)
    keys[0, 0] = bad
    with pytest.raises(EditorError):
        least_change(keys, residuals, Preservation.of(moment, 1.0))


@pytest.mark.parametrize("moment", [torch.zeros(4, 4), torch.full((4, 4), torch.nan), -torch.eye(4)])
def test_statistics_that_cannot_be_are_refused(moment):
    with pytest.raises(EditorError, match="statistics"):
        Preservation.of(moment, 1.0)


def test_gains_are_carried_back_through_a_norm():
    projection = find_decoder(tiny("gemma2")).projections[1]
    assert len(projection.after) == 1
    norm = projection.after[0]
    g = torch.Generator().manual_seed(1)
    values = torch.randn(6, 32, generator=g)
    # A norm fixes the length of what it gives, so a gain that can be reached turns and does not stretch.
    other = norm(values + 0.3 * torch.randn(6, 32, generator=g)) - norm(values)
    found = before_modules(values, other.detach(), projection.after)
    assert torch.allclose(norm(values + found) - norm(values), other, atol=1e-2)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gptj"])
def test_plain_blocks_need_no_carrying_back(family):
    assert all(p.after == () for p in find_decoder(tiny(family)).projections)
