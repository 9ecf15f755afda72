"""Patches as PEFT adapters and back, checked by `peft` itself on every decoder shape."""

import json
import math

import pytest
import torch
from families import FAMILIES, tiny
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from weights import same, state

from safeedit.adapters import CONFIG, WEIGHTS, adapter_of, from_adapter
from safeedit.deltas import DenseDelta, LowRankDelta
from safeedit.errors import EditorError, UsageError
from safeedit.models.linear import linears
from safeedit.models.structure import find_decoder
from safeedit.patch import Patch

IDS = torch.tensor([[34, 35, 12, 7, 9], [37, 38, 12, 4, 4]])


@torch.no_grad()
def logits(model):
    return model(input_ids=IDS).logits


def drawn(model, ranks, seed=0, dense=False):
    """A patch of the down-projections of as many blocks, each of its own rank."""
    generator = torch.Generator().manual_seed(seed)
    deltas = {}
    for rank, projection in zip(ranks, find_decoder(model).projections, strict=False):
        out = torch.randn(projection.outer, rank, generator=generator)
        into = torch.randn(rank, projection.inner, generator=generator) * 0.1
        delta = LowRankDelta.oriented(out, into, projection.transposed)
        deltas[projection.name] = DenseDelta(delta.dense()) if dense else delta
    return Patch.of(model, deltas, editor="drawn")


def merged(model, patch):
    with patch.applied(model):
        return logits(model)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_peft_loads_what_is_written_and_says_the_same(family, tmp_path):
    model = tiny(family)
    patch = drawn(model, (3, 5))
    wanted, before = merged(model, patch), logits(model)
    adapter = adapter_of(model, patch)
    adapter.save(tmp_path)
    assert (adapter.rank, adapter.lost_in_total) == (5, 0.0)
    assert (wanted - before).abs().max() > 0.05
    found = logits(PeftModel.from_pretrained(tiny(family), tmp_path))
    assert torch.allclose(found, wanted, atol=1e-5, rtol=0)
    config = json.loads((tmp_path / CONFIG).read_text())
    assert (config["r"], config["lora_alpha"]) == (5, 5)
    assert all(min(t.shape) == 5 for t in load_file(tmp_path / WEIGHTS).values())


@pytest.mark.parametrize("family", ["gpt2", "llama", "gptj"])
@pytest.mark.parametrize(
    "settings",
    [
        {"r": 4, "lora_alpha": 32},
        {"r": 4, "lora_alpha": 7, "use_rslora": True, "lora_dropout": 0.1},
        {"r": 4, "lora_alpha": 8, "rank_pattern": {"2.mlp.*": 2}, "alpha_pattern": {"1.mlp.*": 3}},
    ],
    ids=["plain", "rslora", "patterns"],
)
def test_what_peft_writes_becomes_a_patch(family, settings, tmp_path):
    model = tiny(family)
    inside = [name for name in linears(model) if "lm_head" not in name]
    ends = {name.rpartition(".")[2] for name in inside}
    config = LoraConfig(target_modules=sorted(ends), fan_in_fan_out=family == "gpt2", **settings)
    wrapped = get_peft_model(model, config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    wanted = logits(wrapped.eval())
    wrapped.save_pretrained(tmp_path)
    base = tiny(family)
    before = state(base)
    patch = from_adapter(base, tmp_path)
    assert same(base, before)
    assert (wanted - logits(base)).abs().max() > 0.05
    assert torch.allclose(merged(base, patch), wanted, atol=1e-5, rtol=0)
    assert patch.deltas.keys() == {f"{name}.weight" for name in inside}
    again = adapter_of(base, patch)
    assert again.rank == 4
    assert again.lost_in_total == 0.0


def test_a_rank_that_is_larger_than_needed_is_made_smaller():
    model = tiny("gpt2")
    patch = drawn(model, (3, 2))
    name, delta = next(iter(patch.deltas.items()))
    left, right = torch.cat([delta.left] * 20, dim=1), torch.cat([delta.right / 20] * 20)
    twice = LowRankDelta(left, right, delta.transposed)
    assert twice.rank > min(twice.shape)
    repeated = Patch.of(model, {**patch.deltas, name: twice}, editor="drawn")
    adapter = adapter_of(model, repeated)
    assert adapter.rank == 3
    assert 0 < adapter.lost_in_total < 1e-6
    into, out = adapter.factors[name.removesuffix(".weight")]
    assert torch.allclose((out @ into).T, delta.dense(), atol=1e-5)


def test_whole_matrices_are_cut_where_a_rank_is_given_and_the_loss_is_told():
    model = tiny("llama")
    low, whole = drawn(model, (6, 4)), drawn(model, (6, 4), dense=True)
    with pytest.raises(UsageError, match=r"2 of 2 changes are whole matrices .*--rank N"):
        adapter_of(model, whole)
    assert adapter_of(model, whole, 16).rank == 6
    for patch in (low, whole):
        adapter = adapter_of(model, patch, 3)
        assert adapter.rank == 3
        missing = norm = 0.0
        for name, delta in patch.deltas.items():
            module = name.removesuffix(".weight")
            into, out = adapter.factors[module]
            left = float((delta.dense() - out @ into).norm())
            best = float(torch.linalg.svdvals(delta.dense())[3:].norm())
            assert left == pytest.approx(best, rel=1e-4)
            assert adapter.lost[module] == pytest.approx(left / float(delta.dense().norm()), rel=1e-4)
            missing, norm = missing + left**2, norm + float(delta.dense().norm()) ** 2
        assert adapter.lost_in_total == pytest.approx(math.sqrt(missing / norm), rel=1e-4)
        assert adapter.lost_in_total > 0.1


def test_a_change_of_nothing_is_an_adapter_of_nothing(tmp_path):
    model = tiny("gpt2")
    projection = find_decoder(model).projections[0]
    patch = Patch.of(model, {projection.name: DenseDelta(torch.zeros_like(projection.weight))}, editor="idle")
    adapter = adapter_of(model, patch, 4)
    assert (adapter.rank, adapter.lost_in_total) == (1, 0.0)
    adapter.save(tmp_path)
    assert torch.equal(logits(PeftModel.from_pretrained(tiny("gpt2"), tmp_path)), logits(model))


def test_what_no_adapter_can_hold_is_refused():
    model = tiny("gpt2")
    weights = dict(model.named_parameters())
    for name in ("transformer.wte.weight", "transformer.ln_f.weight", "transformer.h.0.mlp.c_fc.bias"):
        patch = Patch.of(model, {name: DenseDelta(torch.zeros_like(weights[name]))}, editor="drawn")
        with pytest.raises(UsageError, match=f"{name} is not the weight of a linear layer"):
            adapter_of(model, patch, 4)
    with pytest.raises(UsageError, match="changes no weight"):
        adapter_of(model, Patch.of(model, {}, editor="drawn"))
    tied = tiny("gpt2")
    tied.transformer.h[1].mlp.c_proj.weight = tied.transformer.h[0].mlp.c_proj.weight
    with pytest.raises(UsageError, match="tied"):
        adapter_of(tied, drawn(tied, (2,)))


@pytest.fixture
def written(tmp_path):
    model = tiny("llama")
    adapter_of(model, drawn(model, (2, 2))).save(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("use_dora", True),
        ("bias", "all"),
        ("modules_to_save", ["lm_head"]),
        ("init_lora_weights", "pissa"),
        ("layer_replication", [[0, 2]]),
        ("something_to_come", 1),
    ],
)
def test_what_a_patch_cannot_hold_is_named(setting, value, written):
    config = json.loads((written / CONFIG).read_text())
    assert from_adapter(tiny("llama"), written).params == {"rank": 2}
    (written / CONFIG).write_text(json.dumps({**config, setting: value}))
    with pytest.raises(UsageError, match=setting):
        from_adapter(tiny("llama"), written)


def test_an_adapter_for_another_model_is_refused(written):
    with pytest.raises(UsageError, match="not the weight of a linear layer"):
        from_adapter(tiny("gpt2"), written)
    model = tiny("llama")
    down = model.model.layers[0].mlp.down_proj
    down.weight = torch.nn.Parameter(down.weight[:, :40].clone())
    with pytest.raises(UsageError, match="another shape"):
        from_adapter(model, written)


def test_a_damaged_adapter_is_refused(written):
    tensors = load_file(written / WEIGHTS)
    first = sorted(tensors)[0]
    model = tiny("llama")
    for changed, message in (
        ({n: t for n, t in tensors.items() if n != first}, "one factor only"),
        ({**tensors, f"{first}.more": tensors[first].clone()}, "no low-rank change"),
        ({}, "changes nothing"),
    ):
        save_file(changed, written / WEIGHTS)
        with pytest.raises(UsageError, match=message):
            from_adapter(model, written)
    save_file({**tensors, first: tensors[first] * torch.inf}, written / WEIGHTS)
    with pytest.raises(EditorError, match="finite"):
        from_adapter(model, written)
    for spoil in ("{", "[]", '{"peft_type": "IA3"}'):
        (written / CONFIG).write_text(spoil)
        with pytest.raises(UsageError, match="adapter"):
            from_adapter(model, written)
    (written / CONFIG).unlink()
    with pytest.raises(UsageError, match=CONFIG):
        from_adapter(model, written)
