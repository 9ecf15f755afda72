"""Exact traces are what whole forward passes give, whatever the shape, the batch and the padding."""

import itertools

import numpy as np
import pytest
import torch
from families import FAMILIES, tiny
from tracing import TEXTS, plainly_restored, prompts, traced, work_for
from weights import same, state

from safeedit.errors import ModelError
from safeedit.locate.attribution import trace_fast
from safeedit.locate.sites import KINDS, Sites, recorded
from safeedit.locate.states import States
from safeedit.locate.trace import trace_exact
from safeedit.models.hooks import frozen
from safeedit.models.structure import find_decoder

every_family = pytest.mark.parametrize("family", sorted(FAMILIES))
NORMS_AFTER = {"gemma2"}
"""What their attention and MLP give is normed before the residual stream gets it."""


@every_family
def test_every_cell_is_what_whole_passes_give(family):
    model, asked = tiny(family), prompts(TEXTS[:3], "whole")
    with frozen(model), torch.no_grad():
        work = work_for(model, asked, samples=2, window=2)
        maps = trace_exact(work, asked)
        for prompt, found in zip(asked, maps, strict=True):
            cells = itertools.product(KINDS, range(4), range(prompt.end + 1))
            for kind, layer, token in list(cells)[::5]:
                plain = plainly_restored(work, prompt, kind, work.window(kind, layer), token)
                assert found.corrupted + found.effects[kind][token, layer] == pytest.approx(plain, rel=1e-3)


@every_family
def test_attention_and_mlp_are_all_that_a_block_adds(family):
    model, (prompt, *_) = tiny(family), prompts()
    with frozen(model), torch.no_grad():
        sites = Sites.of(find_decoder(model))
        with recorded(sites, KINDS) as seen:
            model(input_ids=torch.tensor([prompt.ids]))
    assert [len(seen[kind]) for kind in KINDS] == [4, 4, 4]
    assert not set(sites.modules["attention"]) & set(sites.modules["mlp"])
    if family not in NORMS_AFTER:
        for layer in range(1, 4):
            added = seen["hidden"][layer] - seen["hidden"][layer - 1]
            assert (added - seen["mlp"][layer] - seen["attention"][layer]).abs().max() < 1e-4


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "qwen3-local"])
@pytest.mark.parametrize("layer", [0, 2])
def test_all_clean_is_the_clean_run_and_none_is_the_corrupted_one(family, layer):
    model, asked = tiny(family), prompts(part="whole")
    with frozen(model):
        work = work_for(model, asked, samples=3)
        batch = work.asked(asked)
        columns = batch.batch.input_ids.shape[1]
        states = States.of(
            work.segment, work.sites, batch, work.noise(asked, columns), 3, ("hidden", "mlp", "attention")
        )
        rows = torch.arange(len(states.log_p))
        first = torch.tensor([prompt.first for prompt in asked]).repeat_interleave(3)
        for start in (first, torch.zeros_like(first)):
            every = torch.ones(len(rows), columns, dtype=torch.bool)
            whole = states.restored("hidden", range(layer, layer + 1), rows, start, every)
            assert torch.allclose(whole, states.clean_log_p[states.prompt], atol=1e-5)
            for kind in KINDS:
                none = states.restored(kind, range(layer, layer + 1), rows, start, ~every)
                assert torch.allclose(none, states.log_p, atol=1e-5)
    assert (states.log_p - states.clean_log_p[states.prompt]).abs().max() > 0.1


@pytest.mark.parametrize("how", [trace_exact, trace_fast])
def test_neither_batches_nor_memory_nor_company_change_a_map(how):
    model, asked = tiny("llama"), prompts()
    whole = traced(model, asked, how, samples=3)
    small = traced(model, asked, how, samples=3, batch_rows=2, memory=1)
    with frozen(model):
        scale = work_for(model, asked).scale
        alone = [how(work_for(model, [one], scale, samples=3), [one])[0] for one in asked]
    for one, other, third in zip(whole, small, alone, strict=True):
        assert one.prompt == other.prompt == third.prompt
        assert one.corrupted == pytest.approx(third.corrupted, abs=1e-6)
        for kind in KINDS:
            assert np.allclose(one.effects[kind], other.effects[kind], atol=1e-5)
            assert np.allclose(one.effects[kind], third.effects[kind], atol=1e-5)


@pytest.mark.parametrize("how", [trace_exact, trace_fast])
def test_the_seed_decides_and_the_model_stays(how):
    model, asked = tiny("gpt2"), prompts()
    before = state(model)
    first, again, other = (traced(model, asked, how, samples=2, seed=seed) for seed in (0, 0, 1))
    for kind in KINDS:
        assert np.array_equal(first[0].effects[kind], again[0].effects[kind])
        assert not np.allclose(first[0].effects[kind], other[0].effects[kind], atol=1e-4)
    assert same(model, before)
    assert not any(module._forward_hooks or "forward" in module.__dict__ for module in model.modules())


def test_before_the_subject_nothing_has_an_effect():
    (found, *_) = traced(tiny("llama"), prompts(TEXTS[2:3]), samples=2)
    for grid in found.effects.values():
        assert grid.shape == (8, 4) if len(found.prompt.pieces) == 8 else grid.shape[1] == 4
        assert not grid[: found.prompt.first].any()
        assert grid[found.prompt.first :].any()


def test_half_precision_gives_nearly_the_same_map():
    model, asked = tiny("llama"), prompts()
    exact = traced(model, asked, samples=2)
    rounded = traced(model.to(torch.bfloat16), asked, samples=2)
    for one, other in zip(exact, rounded, strict=True):
        assert np.abs(one.effects["hidden"] - other.effects["hidden"]).max() < 0.05


@pytest.mark.parametrize("how", [trace_exact, trace_fast])
def test_what_is_not_finite_is_no_map(how):
    model = tiny("llama")
    with torch.no_grad():
        model.lm_head.weight[5] = torch.nan
    with pytest.raises(ModelError, match="not finite"):
        traced(model, prompts(), how, samples=1)
    assert not any(module._forward_hooks for module in model.modules())


class Folded(torch.nn.Module):
    """Gives what a linear layer gives, and is none."""

    def __init__(self, linear):
        super().__init__()
        self.linear = linear

    def forward(self, states):
        return torch.nn.functional.linear(states, self.linear.weight)


def test_a_block_without_attention_is_named():
    model = tiny("llama")
    attention = model.model.layers[2].self_attn
    attention.o_proj, attention.q_proj = Folded(attention.o_proj), Folded(attention.q_proj)
    with frozen(model), pytest.raises(ModelError, match="attention in block 2"):
        Sites.of(find_decoder(model))
