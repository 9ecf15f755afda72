"""What looks at an input quickly never answers otherwise than looking at every key would."""

from __future__ import annotations

import pytest
import torch
from families import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from safeedit import codebooks
from safeedit.codebooks import Codebook
from safeedit.memory import Hook
from safeedit.sidememory import SideMemory

CPU = torch.device("cpu")
SCALES = (0.0, 1e-14, 1e-6, 1.0, 1e6, 1e12, 1e19, 1e30)
types = st.sampled_from([torch.float32, torch.bfloat16])


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- codebooks ----------------------------------------------------------------------------------


def book(keys: Tensor, radii: Tensor) -> Codebook:
    """Each key's value is its number and one."""
    return Codebook({"keys": keys, "radii": radii, "values": torch.arange(1.0, len(keys) + 1)[:, None]})


def answers(memory: Codebook, inputs: Tensor) -> list[int]:
    """The number of each input's key and one; 0 for those that pass."""
    given = torch.zeros(len(inputs), 1)
    return [int(x) for x in memory.output(memory.on(CPU), inputs, given)[:, 0]]


def away(memory: Codebook, inputs: Tensor) -> Tensor:
    """(inputs, keys) every distance by itself."""
    keys = memory.tensors["keys"]
    return torch.stack([torch.linalg.vector_norm(keys - x, dim=1) for x in inputs.float()])


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 150),
    width=st.integers(1, 80),
    groups=st.integers(1, 5),
    scale=st.sampled_from([1e-14, 1e-6, 1.0, 1e6, 1e10]),
    spread=st.sampled_from([0.0, 1e-3, 0.3, 2.0]),
    radius=st.sampled_from([0.0, 1e-3, 0.1, 1.0, 5.0]),
    dtype=types,
)
def test_a_codebook_answers_as_if_every_key_were_looked_at(
    seed: int,
    count: int,
    width: int,
    groups: int,
    scale: float,
    spread: float,
    radius: float,
    dtype: torch.dtype,
) -> None:
    middles = normal(groups, width, seed=seed)
    keys = scale * (middles[torch.arange(count) % groups] + spread * normal(count, width, seed=seed + 1))
    keys[::7] = keys[0].clone()
    keys[3::11] = 0
    radii = scale * radius * torch.rand(count, generator=torch.Generator().manual_seed(seed))
    # Some radii end exactly where an input lies.
    at_edge = keys + scale * 0.1 * normal(count, width, seed=seed + 2)
    radii[::3] = torch.linalg.vector_norm((keys - at_edge)[::3], dim=1)
    others = [size * normal(2, width, seed=seed + 3) for size in SCALES]
    inputs = torch.cat([keys, at_edge, *others, scale * others[3], torch.zeros(1, width)]).to(dtype)
    memory = book(keys, radii)
    distances = away(memory, inputs)
    nearest, first = distances.min(1)
    expected = torch.where(nearest <= memory.tensors["radii"][first], first + 1, 0).tolist()
    assert answers(memory, inputs) == expected


@pytest.mark.parametrize("scale", [1e-15, 1e16])
def test_keys_whose_squares_float32_cannot_tell_apart_are_looked_at_one_by_one(scale: float) -> None:
    keys = scale * torch.eye(6, 40)
    memory = book(keys, torch.full((6,), 0.5 * scale))
    assert "beyond" not in memory.on(CPU)
    inputs = torch.cat([keys, keys * 1.2, -keys])
    assert answers(memory, inputs) == [*range(1, 7), *range(1, 7), *[0] * 6]


def test_what_is_no_number_passes_and_spoils_nothing_beside_it() -> None:
    keys = normal(200, 60, seed=1)
    bad = torch.zeros(4, 60)
    bad[0], bad[1, 3], bad[2, 5], bad[3, 7] = torch.nan, torch.nan, torch.inf, -torch.inf
    memory = book(keys, torch.full((200,), 0.1))
    assert answers(memory, torch.cat([bad, keys])) == [0, 0, 0, 0, *range(1, 201)]
    assert answers(memory, torch.cat([keys, bad])) == [*range(1, 201), 0, 0, 0, 0]


def test_more_inputs_than_are_looked_at_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = normal(70, 50, seed=2)
    inputs = torch.cat([keys, -keys, keys.flip(0)])
    memory = book(keys, torch.full((70,), 0.5))
    whole = answers(memory, inputs)
    assert whole == [*range(1, 71), *[0] * 70, *range(70, 0, -1)]
    monkeypatch.setattr(codebooks, "CHUNK", 13)
    monkeypatch.setattr(codebooks, "NUMBERS", 60)
    assert answers(memory, inputs) == whole
    assert not answers(memory, inputs[:0])


def test_the_nearest_key_decides_even_if_its_radius_is_too_small() -> None:
    keys = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    memory = book(keys, torch.tensor([0.9, 0.1]))
    assert answers(memory, torch.tensor([[0.4, 0.0], [0.6, 0.0], [0.95, 0.0]])) == [1, 0, 2]


def test_inputs_far_from_all_keys_are_never_compared_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = 20 * torch.nn.functional.normalize(normal(2000, 300, seed=4), dim=1)
    memory = book(keys, torch.full((2000,), 1.0))
    tensors = memory.on(CPU)

    def refuse(*_: object) -> None:
        raise AssertionError("looked at exactly")

    monkeypatch.setattr(codebooks, "_distances", refuse)
    given, inputs = torch.zeros(50, 1), normal(50, 300, seed=5)
    assert memory.output(tensors, inputs, given) is given
    with pytest.raises(AssertionError, match="looked at exactly"):
        memory.output(tensors, keys[:1], given[:1])


# --- side memories ------------------------------------------------------------------------------


def side(seed: int, keys: int, taken: int, width: int, limits: Tensor, shift: float = 1.0) -> SideMemory:
    unit = torch.nn.functional.normalize(normal(width, keys, seed=seed), dim=0)
    tensors = {
        "change": normal(3, 4, taken, seed=seed + 1),
        "basis": 50 * normal(taken, width, seed=seed + 2),
        "shift": shift * normal(width, seed=seed + 3),
        "keys": unit,
        "limits": limits,
        "owner": torch.arange(keys).float() % 3,
    }
    return SideMemory(tensors, {"router": "keys", "route": "token"})


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    keys=st.integers(1, 60),
    taken=st.integers(40, 90),
    width=st.integers(1, 40),
    limit=st.sampled_from([0.5, 0.9, 0.99, 0.9999]),
    shift=st.sampled_from([0.0, 1.0, 1e4]),
    dtype=types,
)
def test_a_side_memory_routes_as_if_every_direction_were_looked_at(
    seed: int, keys: int, taken: int, width: int, limit: float, shift: float, dtype: torch.dtype
) -> None:
    limits = limit + (1 - limit) * torch.rand(keys, generator=torch.Generator().manual_seed(seed))
    memory = side(seed, keys, taken, width, limits, shift)
    basis, key = memory.tensors["basis"], memory.tensors["keys"]
    # What is projected to where the keys are, more or less, and anything else.
    wanted = key.T * 100 + 30 * (1 - limits[:, None]) * normal(keys, width, seed=seed + 4)
    near = (wanted + memory.tensors["shift"]) @ torch.linalg.pinv(basis)
    others = [size * normal(2, taken, seed=seed + 5) for size in SCALES]
    middle = (memory.tensors["shift"] @ torch.linalg.pinv(basis))[None]
    inputs = torch.cat([near, *others, middle, middle + 1e-6 * others[3]]).to(dtype)
    # One by one, as the products of a whole batch are rounded in other ways.
    expected = [which for x in inputs for which in memory._routed(memory.tensors, x[None])]
    tensors = memory.on(CPU)
    assert [int(memory.routed(tensors, x[None])) for x in inputs] == expected
    close = memory._near(tensors, inputs)
    assert close is None or {row for row, which in enumerate(expected) if which} <= set(close)


def test_limits_that_are_too_low_for_a_quick_look_are_taken_as_they_are() -> None:
    memory = side(1, 40, 60, 40, torch.linspace(-0.5, 0.5, 40))
    tensors = memory.on(CPU)
    assert "turned" not in tensors
    inputs = normal(30, 60, seed=9)
    assert memory.routed(tensors, inputs).tolist() == memory._routed(memory.tensors, inputs)
    assert memory.routed(tensors, inputs).any()


def test_most_inputs_are_no_keys_at_a_glance_and_pass_as_they_are() -> None:
    memory = side(2, 300, 200, 128, torch.full((300,), 0.99))
    inputs, given = normal(40, 200, seed=3), normal(40, 4, seed=4)
    tensors = memory.on(CPU)
    assert memory._near(tensors, inputs) == []
    assert memory.output(tensors, inputs, given) is given
    inputs[7, 0] = torch.nan
    assert torch.equal(memory.output(tensors, inputs, given), given)


@torch.no_grad()
def test_by_sequence_a_row_is_routed_from_its_first_routed_token_on_whatever_came_before() -> None:
    model = tiny("llama")
    memory = SideMemory(
        {"change": torch.ones(1, 32, 80), "limits": torch.tensor([1.0])},
        {"router": "activation", "route": "sequence"},
    )
    module, seen = model.model.layers[2].mlp.down_proj, []
    detach = memory.put(module, model)
    taken: list[Tensor] = [torch.full((2, 3, 80), 1e-3), *(torch.full((2, 1, 80), 1e-3) for _ in range(4))]
    taken[2][1] = 1.0
    queue = iter(taken)
    handle = module.register_forward_pre_hook(lambda *_: (next(queue),))
    watch = module.register_forward_hook(lambda _, __, out: seen.append(out))
    cache = None
    for step in taken:
        ids = torch.full(step.shape[:2], 5)
        cache = model(ids, past_key_values=cache, use_cache=True).past_key_values
    moved = [
        (out - torch.nn.functional.linear(x, module.weight))[:, -1, 0] > 0.01
        for out, x in zip(seen, taken, strict=True)
    ]
    assert [row.tolist() for row in moved] == [[False, False]] * 2 + [[False, True]] * 3
    for undo in (detach, handle.remove, watch.remove):
        undo()


# --- at work ------------------------------------------------------------------------------------


def test_routing_does_not_depend_on_autocast_or_inference_mode() -> None:
    keys = normal(40, 64, seed=6)
    inputs = torch.cat([keys * 1.0001, keys * 1.02])
    code = book(keys, torch.full((40,), 0.01))
    limits = torch.full((40,), 0.99999)
    other = side(3, 40, 64, 32, limits)
    wanted = 100 * other.tensors["keys"].T
    near = (wanted + other.tensors["shift"]) @ torch.linalg.pinv(other.tensors["basis"])
    for memory, taken in ((code, inputs), (other, torch.cat([near, near * 1.001 + 0.01]))):
        module = torch.nn.Linear(64, memory.given)
        expected = memory.output(memory.on(CPU), taken, torch.zeros(len(taken), memory.given)) != 0
        assert expected[:40].all()
        hook = Hook(memory)
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
            found = hook(module, (taken,), {}, torch.zeros(len(taken), memory.given)) != 0
        assert torch.equal(found, expected)
        taken.requires_grad_(True)
        assert torch.equal(hook(module, (taken,), {}, torch.zeros(len(taken), memory.given)) != 0, expected)
