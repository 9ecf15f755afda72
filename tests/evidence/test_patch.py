from __future__ import annotations

import copy as copies
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from safeedit import applied as applied_module
from safeedit.deltas import DenseDelta, LowRankDelta, add
from safeedit.errors import EditorError, IntegrityError, ModelError, UsageError
from safeedit.memories import Codebook, nearest
from safeedit.patch import Patch
from safeedit.sidememory import SideMemory
from safeedit.tensors.digest import file_digest, model_digest, named_digests

CONV1D = "transformer.h.0.mlp.c_proj.weight"
LINEAR = "model.layers.1.mlp.down_proj.weight"
TIED = "transformer.wte.weight"


def gpt2() -> GPT2LMHeadModel:
    config = GPT2Config(
        n_embd=32, n_layer=2, n_head=2, vocab_size=64, n_positions=32, bos_token_id=0, eos_token_id=1
    )
    return GPT2LMHeadModel(config).eval()


def llama() -> LlamaForCausalLM:
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=64,
        max_position_embeddings=32,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(params=["gpt2-float32", "gpt2-bfloat16", "llama-float32", "llama-bfloat16"])
def model(request: pytest.FixtureRequest) -> torch.nn.Module:
    torch.manual_seed(0)
    family, dtype = request.param.split("-")
    return {"gpt2": gpt2, "llama": llama}[family]().to(getattr(torch, dtype))


@pytest.fixture
def small() -> torch.nn.Module:
    torch.manual_seed(0)
    return gpt2()


def random(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.1


def weight_name(model: torch.nn.Module) -> str:
    return CONV1D if isinstance(model, GPT2LMHeadModel) else LINEAR


def patch_for(model: torch.nn.Module, rank: int = 2, seed: int = 1) -> Patch:
    """A low-rank change of a down-projection and a dense one of a norm."""
    name = weight_name(model)
    transposed = isinstance(model, GPT2LMHeadModel)
    rows, columns = model.get_parameter(name).shape
    out, inner = (columns, rows) if transposed else (rows, columns)
    norm = next(one for one in dict(model.named_parameters()) if "norm" in one or "ln_f.weight" in one)
    delta = LowRankDelta.oriented(
        random(out, rank, seed=seed), random(rank, inner, seed=seed + 1), transposed
    )
    deltas = {name: delta, norm: DenseDelta(random(32, seed=seed))}
    return Patch.of(model, deltas, editor="memit", params={"layers": [0]}, meta={"loss": 0.5, "facts": 2})


def bits(model: torch.nn.Module) -> dict[str, bytes]:
    return {
        name: tensor.detach().contiguous().view(torch.uint8).numpy().tobytes()
        for name, tensor in model.state_dict().items()
    }


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(8)[None]).logits


# --- on and off ---------------------------------------------------------------------------------


def test_on_then_off_again_bit_for_bit(model: torch.nn.Module) -> None:
    before, was = bits(model), logits(model)
    patch = patch_for(model)
    assert bits(model) == before
    with patch.applied(model) as applied:
        assert bits(model) != before
        assert not torch.equal(logits(model), was)
        assert applied.digest() == model_digest(model) != patch.base_digest
    assert bits(model) == before
    assert torch.equal(logits(model), was)


def test_subtracting_the_delta_would_not_do(model: torch.nn.Module) -> None:
    before = bits(model)
    patch, name = patch_for(model), weight_name(model)
    patch.apply(model)
    weight = model.get_parameter(name)
    with torch.no_grad():
        weight.copy_((weight.float() - patch.deltas[name].dense()).to(weight.dtype))
    assert bits(model)[name] != before[name]


def test_the_change_is_the_one_asked_for_in_the_weights_own_shape(model: torch.nn.Module) -> None:
    name = weight_name(model)
    weight = model.get_parameter(name)
    before = weight.detach().clone()
    transposed = isinstance(model, GPT2LMHeadModel)
    rows, columns = before.shape
    outputs, inputs = (columns, rows) if transposed else (rows, columns)
    left, right = random(outputs, 3), random(3, inputs, seed=2)
    patch = Patch.of(model, {name: LowRankDelta.oriented(left, right, transposed)}, editor="x")
    change = (left @ right).T if transposed else left @ right
    applied = patch.apply(model)
    assert weight.dtype == before.dtype
    torch.testing.assert_close(weight.detach(), (before.float() + change).to(before.dtype))
    realised = applied.realised[name]
    if before.dtype == torch.float32:
        assert realised.cosine == pytest.approx(1, abs=1e-5)
        assert realised.norm == pytest.approx(float(change.norm()), rel=1e-4)
    assert realised.weight_norm == pytest.approx(float(before.float().norm()), rel=1e-4)


def test_half_precision_that_rounds_a_change_away_is_recorded(small: torch.nn.Module) -> None:
    model = small.to(torch.bfloat16)
    weight = model.get_parameter(CONV1D)
    with torch.no_grad():
        weight.fill_(1)
    cosines = []
    for size in (1e-5, 2e-3, 1.0):
        patch = Patch.of(model, {CONV1D: DenseDelta(random(*weight.shape) * 10 * size)}, editor="x")
        with patch.applied(model) as applied:
            cosines.append(applied.realised[CONV1D].cosine)
    assert cosines[0] == 0
    assert 0.3 < cosines[1] < 0.95
    assert cosines[2] > 0.99


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_parameters_may_be_on_different_devices(small: torch.nn.Module) -> None:
    patch, before = patch_for(small), bits(small)
    small.transformer.h[0].cuda()
    with patch.applied(small) as applied:
        assert small.get_parameter(CONV1D).is_cuda
        assert applied.digest() != patch.base_digest
    small.cpu()
    assert bits(small) == before


def test_off_again_after_an_exception_inside(small: torch.nn.Module) -> None:
    before = bits(small)
    patch = patch_for(small)

    def interrupted() -> None:
        with patch.applied(small):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert bits(small) == before
    with patch.applied(small):
        pass


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_edit_leaves_the_model_as_it_was(
    small: torch.nn.Module, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    before, patch = bits(small), patch_for(small)
    copy_, calls = torch.Tensor.copy_, 0

    def fails_half_way(self: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        copy_(self, source)
        if calls == 2:
            assert bits(small) != before
            raise error
        return self

    with monkeypatch.context() as context:
        context.setattr(torch.Tensor, "copy_", fails_half_way)
        with pytest.raises(error):
            patch.apply(small)
    assert calls > 2
    assert bits(small) == before
    patch.apply(small).revert()


def test_a_tied_weight_changes_once_and_stays_tied(small: torch.nn.Module) -> None:
    before = small.get_parameter(TIED).detach().clone()
    delta = DenseDelta(random(64, 32))
    for name in (TIED, "lm_head.weight"):
        patch = Patch.of(small, {name: delta}, editor="x")
        assert list(patch.deltas) == [TIED]
        with patch.applied(small):
            assert small.lm_head.weight.data_ptr() == small.transformer.wte.weight.data_ptr()
            torch.testing.assert_close(small.lm_head.weight.detach(), before + delta.tensor)
    with pytest.raises(EditorError, match="another name of"):
        Patch.of(small, {TIED: delta, "lm_head.weight": delta}, editor="x")


def test_buffers_and_wide_types_can_be_patched_and_integers_not() -> None:
    module = torch.nn.Module()
    module.register_buffer("scale", torch.tensor([1.0, 1 / 3], dtype=torch.float64))
    module.register_buffer("steps", torch.tensor([1, 2]))
    module.register_buffer("scratch", torch.zeros(2), persistent=False)
    patch = Patch.of(module, {"scale": DenseDelta(torch.tensor([1.0, 0.0]))}, editor="x")
    with patch.applied(module):
        assert module.scale.tolist() == [2.0, 1 / 3]
    with pytest.raises(ModelError, match="only floating-point"):
        Patch.of(module, {"steps": DenseDelta(torch.ones(2))}, editor="x")
    with pytest.raises(EditorError, match="not saved with the model"):
        Patch.of(module, {"scratch": DenseDelta(torch.ones(2))}, editor="x")


# --- refusals -----------------------------------------------------------------------------------


def test_a_wrong_base_is_refused_and_left_alone(small: torch.nn.Module) -> None:
    patch = patch_for(small)
    with torch.no_grad():
        small.transformer.h[1].mlp.c_proj.weight[0, 0] += 1
    before = bits(small)
    with pytest.raises(IntegrityError, match="a tensor that the patch does not change differs"):
        patch.apply(small)
    patch.apply(small, check="tensors").revert()
    with torch.no_grad():
        small.get_parameter(CONV1D)[0, 0] += 1
    for check in ("full", "tensors"):
        with pytest.raises(IntegrityError, match=f"not the patch's base: {CONV1D} differs"):
            patch.apply(small, check=check)
    patch.apply(small, check="none").revert()
    with torch.no_grad():
        small.get_parameter(CONV1D)[0, 0] -= 1
        small.transformer.h[1].mlp.c_proj.weight[0, 0] -= 1
    assert bits(small).keys() == before.keys()
    with pytest.raises(IntegrityError, match="has no tensor"):
        patch.apply(llama())
    with pytest.raises(IntegrityError, match="differs"):
        patch.apply(small.to(torch.bfloat16))


def test_a_base_of_another_shape_is_refused() -> None:
    patch = Patch.of(torch.nn.Linear(3, 2), {"weight": DenseDelta(torch.ones(2, 3))}, editor="x")
    with pytest.raises(IntegrityError, match=r"weight has shape \(3, 2\), but the delta for it has \(2, 3\)"):
        patch.apply(torch.nn.Linear(2, 3), check="none")


@pytest.mark.parametrize("check", ["full", "tensors", "none"])
def test_applying_twice_is_refused(small: torch.nn.Module, check: str, tmp_path: Path) -> None:
    patch = patch_for(small)
    patch.save(tmp_path)
    applied = patch.apply(small)
    for again in (patch, Patch.load(tmp_path), patch.with_edited_digest(applied.digest())):
        with pytest.raises(UsageError, match="on the model already"):
            again.apply(small, check=check)
    applied.revert()
    applied.revert()
    patch.apply(small, check=check)


def test_a_model_that_was_saved_with_the_patch_on_is_recognised(small: torch.nn.Module) -> None:
    patch = patch_for(small)
    patch = patch.with_edited_digest(patch.apply(small).digest())
    other = gpt2()
    other.load_state_dict(small.state_dict())
    with pytest.raises(UsageError, match="on the model already"):
        patch.apply(other)


def test_patches_come_off_in_reverse_order_only(small: torch.nn.Module) -> None:
    before = bits(small)
    first = patch_for(small).apply(small)
    second = patch_for(small, seed=5).apply(small)
    with pytest.raises(UsageError, match="revert that one first"):
        first.revert()
    second.revert()
    first.revert()
    assert bits(small) == before


def test_a_model_that_changed_its_type_cannot_be_restored_by_bits(small: torch.nn.Module) -> None:
    applied = patch_for(small).apply(small)
    small.to(torch.bfloat16)
    with pytest.raises(ModelError, match="has another dtype"):
        applied.revert()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_delta_that_is_not_finite_is_refused(value: float) -> None:
    bad = torch.ones(2, 2)
    bad[0, 1] = value
    for make in (lambda: DenseDelta(bad), lambda: LowRankDelta(bad, torch.ones(2, 2))):
        with pytest.raises(EditorError, match="not finite"):
            make()


def test_a_weight_that_would_overflow_its_type_is_refused(small: torch.nn.Module) -> None:
    model = small.to(torch.float16)
    before = bits(model)
    deltas = {
        CONV1D: DenseDelta(torch.full((128, 32), 1e6)),
        "transformer.ln_f.bias": DenseDelta(torch.ones(32)),
    }
    with pytest.raises(EditorError, match=r"c_proj\.weight would not be finite in torch\.float16"):
        Patch.of(model, deltas, editor="x").apply(model)
    assert bits(model) == before


def test_what_does_not_fit_the_model_is_refused(small: torch.nn.Module) -> None:
    with pytest.raises(EditorError, match="has no tensor nope"):
        Patch.of(small, {"nope": DenseDelta(torch.ones(1))}, editor="x")
    with pytest.raises(EditorError, match=r"has shape \(128, 32\), but the delta for it has \(32, 128\)"):
        Patch.of(small, {CONV1D: LowRankDelta(torch.ones(32, 1), torch.ones(1, 128))}, editor="x")
    with pytest.raises(EditorError, match="do not fit each other"):
        LowRankDelta(torch.ones(2, 3), torch.ones(2, 3))
    for bad in ({"params": {"a": object()}}, {"params": {"a": float("nan")}}, {"meta": {"a": "text"}}):
        with pytest.raises(EditorError, match=r"cannot be stored|numbers only"):
            Patch.of(small, {}, editor="x", **bad)


# --- a patch is a value -------------------------------------------------------------------------


def test_a_patch_keeps_what_it_was_made_of(small: torch.nn.Module) -> None:
    left, right, params = random(128, 2), random(2, 32), {"layers": [1]}
    patch = Patch.of(small, {CONV1D: LowRankDelta(left, right)}, editor="x", params=params)
    digest = patch.digest
    left.zero_()
    params["layers"].append(2)
    same = Patch(patch.deltas, patch.base_digest, patch.base_tensors, patch.editor, patch.params)
    assert same == patch
    assert same.digest == digest
    assert len({same, patch}) == 1
    assert patch.params == {"layers": [1]}


def test_everything_in_a_patch_counts(small: torch.nn.Module) -> None:
    base = {"editor": "x", "params": {"a": 1}, "meta": {"b": 1.0}}
    delta = LowRankDelta(random(128, 2), random(2, 32))
    variants = [
        Patch.of(small, {CONV1D: delta}, **base),
        Patch.of(small, {CONV1D: delta}, **{**base, "editor": "y"}),
        Patch.of(small, {CONV1D: delta}, **{**base, "params": {"a": 2}}),
        Patch.of(small, {CONV1D: delta}, **{**base, "meta": {"b": 2.0}}),
        Patch.of(small, {CONV1D.replace(".0.", ".1."): delta}, **base),
        Patch.of(small, {CONV1D: DenseDelta(delta.dense())}, **base),
        Patch.of(small, {CONV1D: LowRankDelta(delta.left, delta.right, transposed=True)}, **base),
        Patch.of(small, {CONV1D: delta}, **base).with_edited_digest("0" * 64),
    ]
    assert len({patch.digest for patch in variants}) == len(variants)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rank=st.integers(1, 5),
    rows=st.integers(1, 6),
    columns=st.integers(1, 6),
    seed=st.integers(0, 1000),
    transposed=st.booleans(),
)
def test_what_is_saved_is_loaded(
    tmp_path: Path, rank: int, rows: int, columns: int, seed: int, transposed: bool
) -> None:
    layer = torch.nn.Linear(columns, rows)
    deltas = {
        "weight": LowRankDelta(
            random(rows, rank, seed=seed), random(rank, columns, seed=seed + 1), transposed
        ),
        "bias": DenseDelta(random(rows, seed=seed)),
    }
    patch = Patch.of(layer, deltas, editor="x", params={"a": [1, 0.5, None, "b"]}, meta={"seed": seed})
    loaded = Patch.load(patch.save(tmp_path))
    assert loaded == patch
    for name, delta in patch.deltas.items():
        assert type(loaded.deltas[name]) is type(delta)
        assert torch.equal(loaded.deltas[name].dense(), delta.dense())
    assert (loaded.params, loaded.meta, loaded.base_tensors) == (patch.params, patch.meta, patch.base_tensors)
    assert patch.with_edited_digest("1" * 64) == Patch.load(patch.with_edited_digest("1" * 64).save(tmp_path))


def test_the_same_patch_is_saved_as_the_same_bytes_without_pickle(
    small: torch.nn.Module, tmp_path: Path
) -> None:
    patch_for(small).save(tmp_path / "a")
    patch_for(small).save(tmp_path / "b")
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["patch.json", "patch.safetensors"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.fixture
def saved(small: torch.nn.Module, tmp_path: Path) -> Path:
    return patch_for(small).save(tmp_path / "patch")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_bit_is_refused_or_changes_nothing(saved: Path, data: st.DataObject) -> None:
    whole = Patch.load(saved)
    path = saved / data.draw(st.sampled_from(["patch.json", "patch.safetensors"]))
    before = path.read_bytes()
    changed = bytearray(before)
    changed[data.draw(st.integers(0, len(before) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(changed)
    try:
        loaded = Patch.load(saved)
    except IntegrityError:
        loaded = None
    finally:
        path.write_bytes(before)
    # White space of the header is nobody's content; verify_run looks at the bytes themselves.
    assert loaded is None or loaded == whole


def test_a_value_changed_with_care_is_refused(saved: Path) -> None:
    header = json.loads((saved / "patch.json").read_bytes())
    header["meta"]["loss"] = 0.25
    (saved / "patch.json").write_text(json.dumps(header))
    with pytest.raises(IntegrityError, match="its digest is not the recorded one"):
        Patch.load(saved)
    header["extra"] = 1
    (saved / "patch.json").write_text(json.dumps(header))
    with pytest.raises(IntegrityError, match="damaged"):
        Patch.load(saved)


def test_a_half_saved_patch_is_no_patch(
    saved: Path, small: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("safeedit.patch.atomic_write", fail)
    with pytest.raises(OSError, match="No space"):
        patch_for(small, seed=9).save(saved)
    with pytest.raises(UsageError, match=r"is no patch: it has no patch\.json"):
        Patch.load(saved)
    (saved / "patch.json").write_text("{}")
    (saved / "patch.safetensors").unlink()
    with pytest.raises(IntegrityError, match="damaged"):
        Patch.load(saved)


def test_a_loaded_patch_does_not_depend_on_its_files(saved: Path, small: torch.nn.Module) -> None:
    patch = Patch.load(saved)
    (saved / "patch.safetensors").write_bytes(bytes((saved / "patch.safetensors").stat().st_size))
    assert patch == patch_for(small)
    patch.apply(small)


# --- stacking -----------------------------------------------------------------------------------


def test_a_stack_does_what_the_two_do_in_turn(small: torch.nn.Module) -> None:
    first = patch_for(small, rank=2)
    applied = first.apply(small)
    first = first.with_edited_digest(applied.digest())
    second = patch_for(small, rank=3, seed=7)
    again = second.apply(small)
    expected = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    again.revert()
    applied.revert()
    stack = Patch.stack(first, second)
    delta = stack.deltas[CONV1D]
    assert isinstance(delta, LowRankDelta)
    assert (delta.rank, delta.transposed) == (5, True)
    assert stack.base_digest == first.base_digest
    assert stack.meta == {"first.facts": 2, "first.loss": 0.5, "second.facts": 2, "second.loss": 0.5}
    with stack.applied(small):
        for name, tensor in small.state_dict().items():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-6, atol=1e-6)
    assert model_digest(small) == first.base_digest


def test_a_stack_of_different_tensors_checks_both(small: torch.nn.Module) -> None:
    one, other = CONV1D, CONV1D.replace(".0.", ".1.")
    first = Patch.of(small, {one: DenseDelta(random(128, 32))}, editor="a")
    with first.applied(small) as applied:
        first = first.with_edited_digest(applied.digest())
        second = Patch.of(small, {other: DenseDelta(random(128, 32))}, editor="b")
    stack = Patch.stack(first, second)
    digests = named_digests(small)
    assert stack.base_tensors == {one: digests[one], other: digests[other]}
    stack.apply(small, check="tensors")


def test_patches_that_do_not_follow_each_other_are_not_stacked(small: torch.nn.Module) -> None:
    first, second = patch_for(small), patch_for(small, seed=3)
    with pytest.raises(UsageError, match="does not say which model it makes"):
        Patch.stack(first, second)
    with pytest.raises(IntegrityError, match="not for the model that the first one makes"):
        Patch.stack(first.with_edited_digest("0" * 64), second)


@settings(max_examples=40, deadline=None)
@given(ranks=st.tuples(st.integers(1, 4), st.integers(1, 4)), dense=st.booleans(), seed=st.integers(0, 99))
def test_deltas_add_up(ranks: tuple[int, int], dense: bool, seed: int) -> None:
    one = LowRankDelta(random(5, ranks[0], seed=seed), random(ranks[0], 6, seed=seed + 1))
    other = LowRankDelta(random(5, ranks[1], seed=seed + 2), random(ranks[1], 6, seed=seed + 3))
    total = add(one, DenseDelta(other.dense()) if dense else other)
    torch.testing.assert_close(total.dense(), one.dense() + other.dense(), rtol=1e-5, atol=1e-6)
    assert isinstance(total, LowRankDelta) == (not dense and sum(ranks) * 11 < 30)
    with pytest.raises(EditorError, match="do not add up"):
        add(one, DenseDelta(torch.ones(6, 5)))


def test_nothing_is_shown_but_names_and_sizes(small: torch.nn.Module) -> None:
    patch = patch_for(small)
    assert repr(patch) == f"<Patch memit: 2 tensors of base {patch.base_digest[:12]}>"
    assert repr(patch.deltas[CONV1D]) == "<LowRankDelta 128x32 of rank 2>"
    assert repr(patch.deltas["transformer.ln_f.weight"]) == "<DenseDelta 32>"
    applied = patch.apply(small)
    assert repr(applied) == "<Applied on: 2 tensors>"
    applied.revert()
    assert repr(applied) == "<Applied off: 2 tensors>"
    assert applied_module.marks(small) == ()


# --- memories -----------------------------------------------------------------------------------


def codebook(seed: int = 3, taken: int = 128, entries: int = 2) -> Codebook:
    return Codebook(
        {
            "keys": random(entries, taken, seed=seed) * 10,
            "values": random(entries, 32, seed=seed + 1) * 50,
            "radii": torch.full((entries,), 0.01),
        }
    )


def seen_by(model: torch.nn.Module, name: str = CONV1D) -> torch.Tensor:
    """(8, inner) what the module of that weight takes in `logits`."""
    found: list[torch.Tensor] = []
    module = model.get_submodule(name.removesuffix(".weight"))
    handle = module.register_forward_pre_hook(lambda _, args: found.append(args[0][0].detach().clone()))
    logits(model)
    handle.remove()
    return found[0]


def routed_patch(model: torch.nn.Module, name: str = CONV1D) -> Patch:
    """A codebook that answers for token 5 of what `logits` runs."""
    parts = {"keys": seen_by(model, name)[5:6], "values": random(1, 32) * 50, "radii": torch.tensor([0.01])}
    return Patch.of(model, {}, editor="grace", memories={name: Codebook(parts)})


def test_a_patch_without_memories_is_the_one_it_always_was(tmp_path: Path) -> None:
    layer = torch.nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.arange(6.0).view(2, 3))
        layer.bias.copy_(torch.tensor([1.0, -1.0]))
    left, right = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.5, 0.25, -1.0]])
    deltas = {"weight": LowRankDelta(left, right), "bias": DenseDelta(torch.tensor([0.5, 0.0]))}
    patch = Patch.of(layer, deltas, editor="x", params={"a": 1}, meta={"b": 0.5})
    assert patch.digest == "ae6b062bc49f19fcbca05b69010244d4cde926c9137fd10507a70bd371483841"
    edited = patch.with_edited_digest("0" * 64)
    assert edited.digest == "4e70c05fba6bcc523b2705a1c96f5622628fa1656cf86a1aecc131a388581597"
    patch.save(tmp_path)
    digests = {name: file_digest(tmp_path / name) for name in ("patch.json", "patch.safetensors")}
    assert digests == {
        "patch.json": "9a5f371ade0e359b6091b2c4381b821b60e32e21f2a07a3e4b1af16aee96bfd9",
        "patch.safetensors": "8a39d456f5247b1beb6e23aaf42f6d3f44505df1525398d9e761fbd185c9aaa5",
    }


def test_a_memory_changes_what_it_is_for_and_the_digest_and_no_weight(model: torch.nn.Module) -> None:
    before, was, keys = bits(model), logits(model), list(model.state_dict())
    patch = routed_patch(model, weight_name(model))
    with patch.applied(model) as applied:
        assert bits(model) == before
        assert list(model.state_dict()) == keys
        now, digest = logits(model), applied.digest()
        assert digest not in (patch.base_digest, patch.digest)
        assert torch.equal(now[0, :5], was[0, :5])
        assert not torch.equal(now[0, 5], was[0, 5])
    assert torch.equal(logits(model), was)
    assert applied.digest() == patch.base_digest
    with routed_patch(model, weight_name(model)).applied(model) as applied:
        assert applied.digest() == digest
    other = Patch.of(
        model, {}, editor="grace", memories={weight_name(model): codebook(taken=keys_width(model))}
    )
    with other.applied(model) as applied:
        assert torch.equal(logits(model), was)
        assert applied.digest() not in (digest, patch.base_digest)


def keys_width(model: torch.nn.Module) -> int:
    return seen_by(model, weight_name(model)).shape[1]


def test_a_memory_and_a_delta_come_off_together_also_after_an_error(
    small: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, was = bits(small), logits(small)
    memories = dict(routed_patch(small).memories) | {CONV1D.replace(".0.", ".1."): codebook()}
    patch = Patch.of(small, {CONV1D: DenseDelta(random(128, 32))}, editor="x", memories=memories)
    with patch.applied(small):
        assert bits(small) != before
        with pytest.raises(UsageError, match="on the model already"):
            patch.apply(small)
    assert bits(small) == before
    attach, calls = Codebook.attach, 0

    def fails_second(self: Codebook, module: torch.nn.Module) -> Callable[[], None]:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return attach(self, module)

    with monkeypatch.context() as context:
        context.setattr(Codebook, "attach", fails_second)
        with pytest.raises(KeyboardInterrupt):
            patch.apply(small)
    assert bits(small) == before
    assert torch.equal(logits(small), was)
    assert not any(module._forward_hooks for module in small.modules())


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1000), entries=st.integers(1, 5), with_delta=st.booleans())
def test_memories_are_saved_and_loaded(tmp_path: Path, seed: int, entries: int, with_delta: bool) -> None:
    layer = torch.nn.Linear(6, 32)
    memory = codebook(seed, 6, entries)
    deltas = {"weight": DenseDelta(random(32, 6, seed=seed))} if with_delta else {}
    patch = Patch.of(layer, deltas, editor="grace", memories={"weight": memory})
    loaded = Patch.load(patch.save(tmp_path))
    assert loaded == patch
    assert loaded.base_tensors == patch.base_tensors
    assert loaded.memories["weight"].digest() == memory.digest()
    assert all(torch.equal(loaded.memories["weight"].tensors[n], t) for n, t in memory.tensors.items())
    other = Patch.of(layer, deltas, editor="grace", memories={"weight": codebook(seed + 1, 6, entries)})
    assert other.digest != patch.digest
    assert Patch.of(layer, deltas, editor="grace").digest != patch.digest


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_bit_of_a_memory_is_refused_or_changes_nothing(
    small: torch.nn.Module, tmp_path: Path, data: st.DataObject
) -> None:
    folder = routed_patch(small).save(tmp_path)
    whole = Patch.load(folder)
    path = folder / data.draw(st.sampled_from(["patch.json", "patch.safetensors"]))
    changed = bytearray(path.read_bytes())
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(changed)
    try:
        loaded = Patch.load(folder)
    except IntegrityError:
        return
    assert loaded == whole


def test_a_memory_that_does_not_belong_is_refused(small: torch.nn.Module, tmp_path: Path) -> None:
    with pytest.raises(EditorError, match="has no tensor nowhere"):
        Patch.of(small, {}, editor="x", memories={"nowhere.weight": codebook()})
    with pytest.raises(EditorError, match="other widths"):
        Patch.of(small, {}, editor="x", memories={CONV1D: codebook(taken=64)})
    patch = routed_patch(small)
    folder = patch.save(tmp_path)
    header = json.loads((folder / "patch.json").read_bytes())
    header["memories"][CONV1D]["kind"] = "crystal-ball"
    (folder / "patch.json").write_text(json.dumps(header))
    with pytest.raises(IntegrityError, match="a kind that this version does not know"):
        Patch.load(folder)
    wide = torch.nn.Linear(3, 2)
    memory = Codebook({"keys": torch.ones(1, 3), "values": torch.ones(1, 2), "radii": torch.ones(1)})
    made = Patch.of(wide, {}, editor="x", memories={"weight": memory})
    with pytest.raises(IntegrityError, match="other widths"):
        made.apply(torch.nn.Linear(2, 3), check="none")
    with pytest.raises(IntegrityError, match="weight differs"):
        made.apply(torch.nn.Linear(3, 2), check="tensors")
    with patch.applied(small), pytest.raises(IntegrityError, match="a memory is at the model"):
        Patch.of(gpt2_like(small), {}, editor="y").apply(small)


def gpt2_like(model: torch.nn.Module) -> torch.nn.Module:
    other = gpt2()
    other.load_state_dict(model.state_dict())
    return other


@pytest.mark.parametrize(
    "change",
    [
        {"radii": torch.tensor([0.1])},
        {"radii": torch.tensor([0.1, -0.1])},
        {"keys": torch.ones(2)},
        {"values": torch.tensor([[1.0], [float("nan")]])},
        {"more": torch.ones(1)},
    ],
)
def test_a_codebook_of_parts_that_do_not_fit_is_refused(change: dict[str, torch.Tensor]) -> None:
    parts = {"keys": torch.ones(2, 3), "values": torch.ones(2, 1), "radii": torch.ones(2)}
    Codebook(parts)
    with pytest.raises(EditorError):
        Codebook({**parts, **change})
    with pytest.raises(EditorError):
        Codebook(parts, {"heat": 1.0})


def test_memories_of_different_modules_are_stacked(small: torch.nn.Module) -> None:
    other = CONV1D.replace(".0.", ".1.")
    first = routed_patch(small)
    with first.applied(small) as applied:
        first = first.with_edited_digest(applied.digest())
        second, again = routed_patch(small, other), routed_patch(small)
        assert second.base_digest == first.edited_digest
        with second.applied(small) as both:
            expected, digest = logits(small), both.digest()
    with Patch.stack(first, second).applied(small) as applied:
        assert torch.equal(logits(small), expected)
        assert applied.digest() != first.edited_digest
        assert len(digest) == 64
    with pytest.raises(UsageError, match="both patches have a memory"):
        Patch.stack(first, again)


def side_patch(model: torch.nn.Module, route: str) -> Patch:
    """A side memory that token 5 of what `logits` runs is routed to."""
    key = seen_by(model, CONV1D)[5]
    width = len(key)
    parts = {
        "change": random(1, 32, width) * 50,
        "basis": torch.eye(width),
        "shift": torch.zeros(width),
        "keys": (key / key.norm())[:, None],
        "limits": torch.tensor([0.9999]),
        "owner": torch.zeros(1),
    }
    memory = SideMemory(parts, {"router": "keys", "route": route})
    return Patch.of(model, {}, editor="wise", memories={CONV1D: memory})


@pytest.mark.parametrize("route", [None, "token", "sequence"])
def test_a_model_with_a_memory_can_be_copied_and_saved(
    small: torch.nn.Module, tmp_path: Path, route: str | None
) -> None:
    was = logits(small)
    with (routed_patch(small) if route is None else side_patch(small, route)).applied(small):
        edited = logits(small)
        assert not torch.equal(edited, was)
        copied = copies.deepcopy(small)
        small.save_pretrained(tmp_path)
    assert torch.equal(logits(copied), edited)
    assert torch.equal(logits(GPT2LMHeadModel.from_pretrained(tmp_path).eval()), was)


def test_the_nearest_key_of_many_is_found_exactly() -> None:
    keys = random(300, 64) * 100 + 50
    inputs = torch.cat([keys, keys + random(300, 64, seed=2) * 0.01])
    index, distance = nearest(inputs, keys)
    assert index.tolist() == [*range(300)] * 2
    assert not distance[:300].any()
    expected = (inputs[300:] - keys).norm(dim=1)
    torch.testing.assert_close(distance[300:], expected)
