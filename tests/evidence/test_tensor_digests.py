from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from safeedit.errors import ModelError
from safeedit.tensors import digest as module
from safeedit.tensors.digest import file_digest, model_digest, named_digests, root_digest, tensor_digest

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.bool]


def sample(dtype: torch.dtype) -> torch.Tensor:
    return torch.arange(24).reshape(4, 6).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_bytes_have_equal_digests_however_they_are_laid_out(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHUNK_BYTES", 5)
    plain = sample(dtype)
    strided = torch.stack([plain, plain], dim=-1)[..., 0]
    assert not strided.is_contiguous()
    assert tensor_digest(strided) == tensor_digest(plain) == tensor_digest(plain.T.contiguous().T)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_device_does_not_matter(dtype: torch.dtype) -> None:
    tensor = sample(dtype)
    assert (
        tensor_digest(tensor.cuda()) == tensor_digest(tensor.cuda().T.contiguous().T) == tensor_digest(tensor)
    )


def test_the_digest_is_over_type_shape_and_little_endian_bytes() -> None:
    tensor = torch.tensor([[1.0, -2.0]])
    raw = bytes.fromhex("0000803f000000c0")
    assert tensor_digest(tensor) == hashlib.sha256(b"torch.float32\0(1, 2)\0" + raw).hexdigest()


def test_type_shape_and_every_value_count() -> None:
    base = torch.zeros(2, 3)
    others = [base.reshape(3, 2), base.to(torch.int32), base + 1, -base, torch.zeros(6), torch.zeros(())]
    assert len({tensor_digest(tensor) for tensor in [base, *others]}) == len(others) + 1


@given(st.integers(0, 23), st.integers(0, 31))
def test_any_flipped_bit_changes_it(index: int, bit: int) -> None:
    tensor = torch.randn(24, generator=torch.Generator().manual_seed(0))
    flipped = tensor.clone()
    flipped.view(torch.int32)[index] ^= torch.tensor(1 << bit if bit < 31 else -(1 << 31), dtype=torch.int32)
    assert tensor_digest(flipped) != tensor_digest(tensor)


def test_scalars_and_empty_tensors_have_digests() -> None:
    assert tensor_digest(torch.tensor(1.0)) != tensor_digest(torch.tensor([1.0]))
    assert tensor_digest(torch.zeros(0, 4)) != tensor_digest(torch.zeros(4, 0))


def test_a_tensor_without_bytes_is_refused() -> None:
    with pytest.raises(ModelError, match="no plain bytes"):
        tensor_digest(torch.zeros(2, device="meta"))
    with pytest.raises(ModelError, match="no plain bytes"):
        tensor_digest(torch.eye(2).to_sparse())


class Tied(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.embed = torch.nn.Parameter(torch.randn(5, 3, generator=generator))
        self.head = torch.nn.Linear(3, 5)
        self.head.weight = self.embed
        torch.nn.init.zeros_(self.head.bias)
        self.register_buffer("kept", torch.ones(2))
        self.register_buffer("scratch", torch.ones(2), persistent=False)


def test_names_are_part_of_a_models_digest() -> None:
    a, b = torch.zeros(2), torch.ones(2)
    assert model_digest({"x": a, "y": b}) == model_digest({"y": b, "x": a})
    assert (
        len({model_digest(m) for m in ({"x": a, "y": b}, {"x": b, "y": a}, {"x": a, "z": b}, {"x": a})}) == 4
    )


def test_a_module_has_the_digest_of_its_state_whatever_the_threads() -> None:
    model = Tied()
    expected = model_digest(model.state_dict(), threads=1)
    assert {model_digest(model), model_digest(model, threads=3)} == {expected}


def test_tied_tensors_are_hashed_once_and_named_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[torch.Tensor] = []
    monkeypatch.setattr(module, "tensor_digest", lambda t: (hashed.append(t), tensor_digest(t))[1])
    digests = named_digests(Tied(), threads=1)
    assert digests.keys() == {"embed", "head.weight", "head.bias", "kept"}
    assert digests["embed"] == digests["head.weight"]
    assert len(hashed) == 3


def test_what_a_model_does_not_save_does_not_count() -> None:
    model = Tied()
    before = model_digest(model)
    model.scratch += 1
    assert model_digest(model) == before
    model.kept += 1
    assert model_digest(model) != before


def test_hostile_names_and_foreign_state_are_refused() -> None:
    with pytest.raises(ModelError, match="control character"):
        root_digest({"a\nb": "0"})
    with pytest.raises(ModelError, match="no tensor"):
        model_digest({"a": "text"})  # type: ignore[dict-item]


def test_file_digest(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert file_digest(tmp_path / "f") == hashlib.sha256(b"abc").hexdigest()
