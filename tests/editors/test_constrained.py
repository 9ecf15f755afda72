"""The algebra of constraints: equalities hold, kept directions are left alone, all forms agree."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from safeedit.editors import constrained
from safeedit.editors.constrained import (
    Projected,
    equal_change,
    main_directions,
    projected_change,
    rank_one,
)
from safeedit.editors.solve import Preservation, least_change
from safeedit.errors import EditorError

INNER, OUTER = 24, 10


def problem(count, seed=0):
    g = torch.Generator().manual_seed(seed)
    spread = torch.logspace(0.5, -1.5, INNER)  # keys have more of some directions than of others
    samples = torch.randn(400, INNER, generator=g) * spread
    turned = samples @ torch.linalg.qr(torch.randn(INNER, INNER, generator=g))[0]
    keys = torch.randn(count, INNER, generator=g)
    return turned.T @ turned / 400, keys, torch.randn(count, OUTER, generator=g)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 20), st.floats(0.1, 1000), st.integers(0, 5))
def test_equalities_hold(count, weight, seed):
    moment, keys, residuals = problem(count, seed)
    change = equal_change(keys, residuals, Preservation.of(moment, weight)).dense()
    assert torch.allclose(change @ keys.T, residuals.T, atol=1e-4 * float(residuals.abs().max()))


def test_no_other_change_with_these_equalities_costs_less():
    moment, keys, residuals = problem(5)
    preserve = Preservation.of(moment, 3.0)
    best = equal_change(keys, residuals, preserve).dense()

    def cost(change):
        return float(torch.trace(change @ preserve.moment @ change.T))

    free = torch.eye(INNER) - keys.T @ torch.linalg.pinv(keys.T)
    for seed in range(20):
        other = 0.03 * torch.randn(best.shape, generator=torch.Generator().manual_seed(seed)) @ free
        assert cost(best) < cost(best + other)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(0, 5))
def test_with_slack_of_one_it_is_memit(count, seed):
    moment, keys, residuals = problem(count, seed)
    preserve = Preservation.of(moment, 5.0)
    soft = equal_change(keys, residuals, preserve, slack=1.0).dense()
    known = least_change(keys, residuals, preserve).dense()
    assert torch.allclose(soft, known, atol=1e-3 * float(known.abs().max()))


def test_the_weight_of_what_is_preserved_does_not_change_equalities():
    moment, keys, residuals = problem(4)
    one, other = (
        equal_change(keys, residuals, Preservation.of(moment, weight)).dense() for weight in (1.0, 500.0)
    )
    assert torch.allclose(one, other, atol=1e-4)


@pytest.mark.parametrize(("count", "slack"), [(20, 0.0), (20, 0.3), (24, 0.0), (70, 0.01), (70, 2.0)])
def test_what_is_done_by_blocks_is_what_is_done_at_once(count, slack, monkeypatch):
    moment, keys, residuals = problem(count)
    preserve = Preservation.of(moment, 5.0)
    whitened = keys.double() @ torch.linalg.inv(preserve.moment.double())  # K^T A^-1
    system = whitened @ keys.T.double() + slack * torch.eye(count)
    plain = residuals.double().T @ torch.linalg.solve(system, whitened)
    for size in (16 * 2**20, 100):
        monkeypatch.setattr(constrained, "AT_ONCE", size)
        found = equal_change(keys, residuals, preserve, slack)
        assert found.left.shape[1] == min(count, INNER)
        assert torch.allclose(found.dense().double(), plain, atol=2e-3 * float(plain.abs().max()))


class Sizes(TorchDispatchMode):
    """Sees the largest tensor that is made."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, tuple | list) else (made,):
            if isinstance(one, torch.Tensor):
                self.largest = max(self.largest, one.numel())
        return made


def test_thousands_of_keys_take_no_system_of_their_number():
    moment, keys, residuals = problem(3000)
    preserve = Preservation.of(moment, 5.0)
    with Sizes() as sizes:
        equal_change(keys, residuals, preserve, slack=1.0)
    assert sizes.largest == keys.numel()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 20))
def test_one_key_is_a_change_of_rank_one(seed):
    moment, keys, residuals = problem(2, seed)
    preserve = Preservation.of(moment, 7.0)
    batch = equal_change(keys[:1], residuals[:1], preserve).dense()
    single = rank_one(keys[0], keys[0], residuals[0], preserve).dense()
    assert torch.allclose(batch, single, atol=1e-5 * float(single.abs().max()) + 1e-7)
    near = keys[0] + 0.1 * keys[1]
    moved = rank_one(near, keys[0], residuals[0], preserve).dense()
    assert torch.allclose(moved @ keys[0], residuals[0], atol=1e-4)
    a = torch.linalg.inv(preserve.moment.double())
    expected = torch.outer(residuals[0].double(), a @ near.double()) / (keys[0].double() @ a @ near.double())
    assert torch.allclose(moved.double(), expected, atol=1e-3 * float(expected.abs().max()))


def test_keys_with_nothing_in_common_are_refused():
    preserve = Preservation.of(torch.eye(4), 1.0)
    with pytest.raises(EditorError, match="r-rome"):
        rank_one(torch.eye(4)[0], torch.eye(4)[1], torch.ones(3), preserve)


def test_equalities_that_cannot_hold_are_refused():
    moment, keys, residuals = problem(INNER + 1)
    preserve = Preservation.of(moment, 1.0)
    with pytest.raises(EditorError, match="24 directions"):
        equal_change(keys, residuals, preserve)
    assert torch.isfinite(equal_change(keys, residuals, preserve, slack=0.1).dense()).all()
    with pytest.raises(EditorError, match=r"alike|one key"):
        equal_change(keys[[0, 0]], residuals[:2], preserve)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", ["keys", "residuals"])
def test_what_is_not_finite_is_refused(bad, place):
    moment, keys, residuals = problem(3)
    {"keys": keys, "residuals": residuals}[place][0, 0] = bad
    preserve = Preservation.of(moment, 1.0)
    free = Projected.within(main_directions(moment, energy=0.9), 0.1)
    for solved in (
        lambda: equal_change(keys, residuals, preserve),
        lambda: rank_one(keys[0], keys[1] + keys[0], residuals[0], preserve),
        lambda: projected_change(keys, residuals, free),
    ):
        with pytest.raises(EditorError):
            solved()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.floats(0.3, 0.99), st.floats(1e-3, 10), st.integers(0, 5))
def test_kept_directions_are_left_alone(count, energy, ridge, seed):
    moment, keys, residuals = problem(count, seed)
    kept = main_directions(moment, energy=energy)
    change = projected_change(keys, residuals, Projected.within(kept, ridge)).dense()
    assert float((change @ kept).norm()) <= 1e-4 * float(change.norm())


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.floats(0.3, 0.95), st.floats(1e-2, 10), st.integers(0, 5), st.booleans())
def test_the_projected_change_is_the_published_one(count, energy, ridge, seed, others):
    moment, keys, residuals = problem(count, seed)
    kept = main_directions(moment, energy=energy)
    preserve = Projected.within(kept, ridge)
    before = torch.randn(7, INNER, generator=torch.Generator().manual_seed(seed + 99))
    if others:
        preserve = preserve.plus(before.T @ before)
    found = projected_change(keys, residuals, preserve).dense().double()
    k, r, b = keys.T.double(), residuals.T.double(), before.T.double() * others
    p = torch.eye(INNER).double() - kept.double() @ kept.T.double()
    expected = r @ k.T @ p @ torch.linalg.inv(k @ k.T @ p + b @ b.T @ p + ridge * torch.eye(INNER))
    assert torch.allclose(found, expected, atol=1e-3 * float(expected.abs().max()) + 1e-6)


def test_small_and_large_systems_agree():
    moment, keys, residuals = problem(INNER - 1)
    preserve = Projected.within(main_directions(moment, energy=0.5), 0.1)
    few = projected_change(keys, residuals, preserve).dense()
    none = torch.zeros(3, INNER), torch.zeros(3, OUTER)  # so that the other form is taken
    many = projected_change(torch.cat([keys, none[0]]), torch.cat([residuals, none[1]]), preserve).dense()
    assert torch.allclose(few, many, atol=1e-4 * float(few.abs().max()))


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 0.999), st.integers(0, 5))
def test_main_directions_are_the_fewest_with_that_energy(energy, seed):
    moment, _, _ = problem(1, seed)
    kept = main_directions(moment, energy=energy)
    rank = kept.shape[1]
    assert torch.allclose(kept.T @ kept, torch.eye(rank), atol=1e-5)

    def held(columns):
        return float(torch.trace(columns.T @ moment @ columns) / torch.trace(moment))

    assert held(kept) >= energy - 1e-5
    assert rank == 0 or held(kept[:, :-1]) <= energy + 1e-5


def test_main_directions_follow_the_scale_only_where_a_threshold_is_asked_for():
    moment, _, _ = problem(1)
    assert torch.equal(main_directions(moment, energy=0.9), main_directions(64 * moment, energy=0.9))
    ranks = [main_directions(scale * moment, threshold=0.02).shape[1] for scale in (1e-3, 1.0, 1e3)]
    assert 0 == ranks[0] < ranks[1] < ranks[2] == INNER
    values = torch.linalg.eigvalsh(moment)
    assert ranks[1] == int((values >= 0.02).sum())


def test_no_free_direction_and_no_statistics_are_refused():
    with pytest.raises(EditorError, match="none is free"):
        Projected.within(torch.eye(4), 1.0)
    with pytest.raises(EditorError, match="statistics"):
        main_directions(torch.full((4, 4), torch.nan), energy=0.9)
    with pytest.raises(ValueError, match="either"):
        main_directions(torch.eye(4))
