"""Rounding weights: the numbers, by a slow second implementation; what is rounded; and that it is undone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from statistics import NormalDist

import pytest
import torch
from families import FAMILIES, tiny
from torch import Tensor, nn
from transformers import GptOssConfig, GptOssForCausalLM, MixtralConfig, MixtralForCausalLM

from safeedit.errors import ModelError, UsageError
from safeedit.models.quantise import (
    SCHEMES,
    changed_codes,
    coded,
    nf4_levels,
    quantisable,
    quantised,
)
from safeedit.tensors.digest import model_digest, named_digests

ALL = tuple(SCHEMES)


def weights(outputs: int, inputs: int, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    made = torch.randn(outputs, inputs) * torch.rand(outputs, 1)
    made[:, 0] *= 6  # outliers, so that groups differ
    return made


# The slow way: one number at a time, in double precision, as the papers put it.


def nearest(levels: list[float], x: float) -> float:
    return min(levels, key=lambda level: (abs(level - x), level))


def even(x: float) -> int:
    return round(x)  # Python rounds halves to even, as tensors do


def slow(rows: list[list[float]], scheme: str) -> list[list[float]]:
    if scheme == "nf4":
        flat = [x for row in rows for x in row]
        found = [y for start in range(0, len(flat), 64) for y in slow_nf4(flat[start : start + 64])]
        width = len(rows[0])
        return [found[start : start + width] for start in range(0, len(found), width)]
    size = {"int8": len(rows[0]), "int4": 128, "int4-symmetric": 128}[scheme]
    one = {"int8": slow_int8, "int4": slow_int4, "int4-symmetric": slow_symmetric}[scheme]
    return [[y for s in range(0, len(row), size) for y in one(row[s : s + size])] for row in rows]


def slow_int8(group: list[float]) -> list[float]:
    scale = max(map(abs, group)) / 127 or 1.0
    return [even(x / scale) * scale for x in group]


def slow_int4(group: list[float]) -> list[float]:
    low, high = min(0.0, *group), max(0.0, *group)
    scale = (high - low) / 15 or 1.0
    zero = even(-low / scale)
    return [(min(15, max(0, even(x / scale) + zero)) - zero) * scale for x in group]


def slow_symmetric(group: list[float]) -> list[float]:
    scale = 2 * max(map(abs, group)) / 15 or 1.0
    return [min(7, max(-8, even(x / scale))) * scale for x in group]


def slow_nf4(block: list[float]) -> list[float]:
    scale = max(map(abs, block)) or 1.0
    return [nearest(slow_levels(), x / scale) * scale for x in block]


@cache
def slow_levels() -> list[float]:
    quantile = NormalDist().inv_cdf
    offset = 0.5 * ((1 - 1 / 32) + (1 - 1 / 30))
    positive = [quantile(0.5 + (offset - 0.5) * k / 8) for k in range(1, 9)]
    negative = [-quantile(0.5 + (offset - 0.5) * k / 7) for k in range(7, 0, -1)]
    return [x / positive[-1] for x in (*negative, 0.0, *positive)]


@pytest.mark.parametrize("scheme", ["int8", "int4", "int4-symmetric", "nf4"])
@pytest.mark.parametrize(("outputs", "inputs"), [(5, 256), (3, 130), (4, 40), (2, 1)])
def test_the_numbers_are_those_of_a_slow_second_implementation(
    scheme: str, outputs: int, inputs: int
) -> None:
    made = weights(outputs, inputs, seed=outputs)
    wanted = torch.tensor(slow(made.double().tolist(), scheme))
    found = coded(made, scheme).values
    # Halfway between two levels either is right; the largest magnitude of a symmetric group lies there.
    same = torch.isclose(found, wanted, rtol=1e-5, atol=1e-6)
    halfway = torch.isclose((found - made).abs(), (wanted - made).abs(), rtol=1e-4)
    assert (same | halfway).all()
    assert (~same).sum() <= 2 * outputs * -(-inputs // 64)


def test_the_levels_of_nf4_are_the_published_ones() -> None:
    published = [-1.0, -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0.0]
    published += [0.07958030, 0.16093020, 0.24611230, 0.33791524, 0.44070983, 0.56261700, 0.72295684, 1.0]
    assert nf4_levels().tolist() == pytest.approx(published, abs=2e-7)


def test_no_scheme_is_coarser_than_its_step_and_zero_stays_zero() -> None:
    made = weights(6, 200)
    made[2] = 0.0
    steps = {"int8": 1 / 127, "int4": 2 / 15, "int4-symmetric": 2 / 15, "nf4": 0.31, "bfloat16": 2**-8}
    for scheme, step in steps.items():
        found = coded(made, scheme).values
        largest = made.abs().max()
        assert torch.isfinite(found).all()
        assert (found - made).abs().max() <= step * largest
        assert torch.equal(found[2], torch.zeros(200))
        assert found.unique().numel() > 10


@pytest.mark.parametrize("scheme", ALL)
def test_codes_are_few_and_rounding_again_changes_next_to_nothing(scheme: str) -> None:
    once = coded(weights(4, 300), scheme)
    most = {"int8": 255, "int4": 16, "int4-symmetric": 16, "nf4": 16, "bfloat16": 2**16}[scheme]
    assert once.codes.unique().numel() <= most
    again = coded(once.values, scheme).values
    assert torch.allclose(again, once.values, rtol=0.0, atol=1e-5) or scheme in ("int4", "int4-symmetric")


def test_a_transposed_weight_has_its_groups_along_its_inputs() -> None:
    made = weights(7, 260)
    for scheme in ALL:
        assert torch.equal(
            coded(made.T.contiguous(), scheme, transposed=True).values, coded(made, scheme).values
        )


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("scheme", ["int4", "nf4"])
def test_linear_layers_are_rounded_and_nothing_else_and_all_is_put_back(family: str, scheme: str) -> None:
    model = tiny(family)
    before, whole = named_digests(model), model_digest(model)
    meant = {linear.name for linear in quantisable(model)}
    ids = torch.arange(3, 11)[None]
    with torch.no_grad():
        plain = model(input_ids=ids).logits
        with quantised(model, scheme) as changed:
            rounded = model(input_ids=ids).logits
            now = named_digests(model)
        after = model(input_ids=ids).logits
    assert {name for name in now if now[name] != before[name]} == meant
    assert changed > 0
    # Six or seven matrices a block (fewer where some are fused), never a table of the vocabulary.
    assert 4 * 4 <= len(meant) <= 4 * 7
    assert not any("embed" in name or "wte" in name or "head" in name for name in meant)
    assert not torch.equal(plain, rounded)
    assert torch.equal(plain, after)
    assert model_digest(model) == whole
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


@pytest.mark.parametrize("scheme", ALL)
def test_bfloat16_models_keep_their_type(scheme: str) -> None:
    model = tiny("llama").bfloat16()
    before = model_digest(model)
    with quantised(model, scheme) as changed:
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
        assert (changed == 0) == (scheme == "bfloat16")
    assert model_digest(model) == before


def test_bfloat16_values_are_those_of_the_type() -> None:
    model = tiny("gpt2")
    weight = quantisable(model)[0].weight
    short = weight.detach().bfloat16().float()
    with quantised(model, "bfloat16"):
        assert torch.equal(weight, short)


def test_tied_weights_stay_tied() -> None:
    model = tiny("gpt2")
    assert model.lm_head.weight is model.transformer.wte.weight
    table = model.lm_head.weight.detach().clone()
    with quantised(model, "int8"):
        assert torch.equal(model.lm_head.weight, table)
    with quantised(model, "int8", head=True):
        assert model.lm_head.weight is model.transformer.wte.weight
        assert not torch.equal(model.lm_head.weight, table)
    assert torch.equal(model.lm_head.weight, table)
    # Two layers that share one weight are rounded once, and still share it.
    model.transformer.h[1].mlp.c_fc.weight = model.transformer.h[0].mlp.c_fc.weight
    shared = model.transformer.h[0].mlp.c_fc.weight
    wanted = coded(shared, "nf4", transposed=True).values.T
    with quantised(model, "nf4"):
        assert model.transformer.h[1].mlp.c_fc.weight is shared
        assert torch.equal(shared, wanted)


def test_an_untied_head_is_rounded_only_if_asked() -> None:
    model = tiny("gptj")
    assert "lm_head.weight" not in {linear.name for linear in quantisable(model)}
    assert "lm_head.weight" in {linear.name for linear in quantisable(model, head=True)}
    assert not any("wte" in linear.name for linear in quantisable(model, head=True))


SMALL = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 3,
    "num_experts_per_tok": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
}


def experts() -> Iterator[tuple[nn.Module, bool]]:
    torch.manual_seed(0)
    yield MixtralForCausalLM(MixtralConfig(**SMALL)).eval(), False
    yield GptOssForCausalLM(GptOssConfig(**SMALL)).eval(), True


def test_experts_are_rounded_along_their_inputs() -> None:
    for model, transposed in experts():
        with torch.no_grad():
            for parameter in model.parameters():
                if not torch.isfinite(parameter).all() or parameter.ndim == 3:
                    parameter.normal_()
        stacks = [linear for linear in quantisable(model) if linear.weight.ndim == 3]
        assert len(stacks) == 2 * 2
        assert {linear.transposed for linear in stacks} == {transposed}
        before = model_digest(model)
        first = stacks[0].weight.detach().clone()
        one = coded(first[1], "int8", transposed=transposed).values
        with quantised(model, "int8"):
            assert torch.equal(stacks[0].weight[1], one.T if transposed else one)
        assert model_digest(model) == before


class BoomError(Exception):
    pass


@pytest.mark.parametrize("scheme", ALL)
def test_an_exception_inside_leaves_the_model_as_it_was(scheme: str) -> None:
    model = tiny("qwen3")
    before = model_digest(model)

    def fail() -> None:
        with quantised(model, scheme):
            assert model_digest(model) != before
            raise BoomError

    with pytest.raises(BoomError):
        fail()
    assert model_digest(model) == before


def test_what_cannot_be_rounded_is_refused_and_nothing_is_left_behind() -> None:
    model = tiny("llama")
    with torch.no_grad():
        quantisable(model)[-1].weight[0, 0] = math.inf
    before = model_digest(model)
    with pytest.raises(ModelError, match="not finite"), quantised(model, "int4"):
        pass
    assert model_digest(model) == before
    with pytest.raises(UsageError, match="int4"), quantised(tiny("llama"), "int3"):
        pass
    with torch.device("meta"):
        empty = type(model)(model.config)
    with pytest.raises(ModelError, match="not in memory"), quantised(empty, "int4"):
        pass


def test_changed_codes_tell_a_small_diffuse_change_from_a_large_one() -> None:
    base, edited = tiny("llama"), tiny("llama")
    assert changed_codes(base, edited, "int4") == 0.0
    shares = []
    for size in (1e-5, 1e-3, 1e-1):
        edited.load_state_dict(base.state_dict())
        torch.manual_seed(1)
        with torch.no_grad():
            for linear in quantisable(edited):
                linear.weight.add_(size * linear.weight.std() * torch.randn_like(linear.weight))
        shares.append(changed_codes(base, edited, "int4"))
    assert shares == sorted(shares)
    assert shares[0] < 0.001 < 0.1 < shares[2] < 0.9
    with pytest.raises(ModelError, match="same linear layers"):
        changed_codes(base, tiny("gpt2"), "int4")
    # One weight alone: it counts whole or not at all.
    edited.load_state_dict(base.state_dict())
    with torch.no_grad():
        row = edited.model.layers[0].mlp.down_proj.weight[0]
        row[row.abs().argmin()] += row.abs().max() / 2
    assert changed_codes(base, edited, "int8") == 1.0
