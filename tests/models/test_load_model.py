"""Loading models: what is refused, in one line, and what comes out."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from safeedit.errors import ModelError, SafeEditError, UsageError
from safeedit.models.load import given_model, load_model, reference_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the reference model."""
    return Path(shutil.copytree(reference_folder(), tmp_path / "copy"))


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def pickled(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")


def rubbish(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"x" * 200)


def with_a_tensor_less(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    del state[sorted(state)[5]]
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def with_own_code(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text("raise SystemExit('the code of the checkpoint ran')")


def not_causal(folder: Path) -> None:
    config = {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "d_model": 8}
    (folder / "config.json").write_text(json.dumps(config))


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def without_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (without_weights, "no weights as safetensors"),
        (pickled, "no weights as safetensors"),
        (rubbish, "could not be loaded"),
        (with_a_tensor_less, "is not whole"),
        (with_own_code, "could not be loaded"),
        (not_causal, "could not be loaded"),
        (broken_config, "could not be loaded"),
        (without_tokenizer, "tokenizer of .* could not be loaded"),
    ],
)
def test_what_cannot_be_loaded_is_told_in_one_line(
    spoil: Callable[[Path], None], told: str, folder: Path
) -> None:
    spoil(folder)
    with pytest.raises(ModelError, match=told) as caught:
        load_model(folder)
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    "source", ["./nowhere", "/nowhere/at/all", "a/b/c", "bad name", "..", Path("nowhere"), ""]
)
def test_a_folder_that_is_not_there_is_the_caller_s_mistake(
    source: str | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        load_model(source)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_a_file_or_a_run_is_not_a_model(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UsageError, match="is a run, not a model"):
        load_model(tmp_path)
    with pytest.raises(UsageError, match="is a file"):
        load_model(tmp_path / "run.json")


def test_the_hub_is_not_reached_offline() -> None:
    with pytest.raises(ModelError, match="neither a folder here nor in the local cache"):
        load_model("nobody/nothing-of-the-kind")


@pytest.mark.parametrize(("device", "dtype"), [("tpu", "auto"), ("cuda:x", "auto"), ("cpu", "int8")])
def test_unknown_devices_and_dtypes_are_refused(device: str, dtype: str) -> None:
    with pytest.raises(UsageError, match="there are: "):
        load_model(None, device=device, dtype=dtype)


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match="no device 'cuda:99'"):
        load_model(None, device="cuda:99")


def test_the_reference_model_is_the_default_and_is_loaded_in_silence(
    capfd: pytest.CaptureFixture[str],
) -> None:
    loaded = load_model(None, device="cpu")
    assert (loaded.source_name, loaded.source, loaded.device, loaded.dtype) == (
        "reference",
        None,
        "cpu",
        "float32",
    )
    assert loaded.folder == reference_folder()
    assert not loaded.model.training
    assert loaded.tokenizer.is_fast
    printed = capfd.readouterr()
    assert printed.out + printed.err == ""


def test_half_precision_becomes_float32_on_a_cpu_unless_it_is_asked_for(folder: Path) -> None:
    load_model(folder, device="cpu", dtype="bfloat16").model.save_pretrained(folder)
    assert next(iter(load_file(folder / "model.safetensors").values())).dtype == torch.bfloat16
    wide, half = load_model(folder, device="cpu"), load_model(folder, device="cpu", dtype="bfloat16")
    assert (wide.dtype, half.dtype) == ("float32", "bfloat16")
    name = next(iter(dict(half.model.named_parameters())))
    assert torch.equal(wide.model.get_parameter(name), half.model.get_parameter(name).float())
    tied = wide.model.get_input_embeddings().weight, wide.model.get_output_embeddings().weight
    assert tied[0].data_ptr() == tied[1].data_ptr()


def test_the_progress_bars_of_others_come_back() -> None:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    load_model(None, device="cpu")
    assert logging.is_progress_bar_enabled() is shown


def test_a_given_model_needs_a_fast_tokenizer(reference: Any) -> None:
    class Slow:
        is_fast = False

    with pytest.raises(ModelError, match="no character offsets"):
        given_model(reference.model, Slow())
    found = given_model(reference.model, reference.tokenizer)
    assert (found.source_name, found.folder, found.reloadable) == (
        "reference",
        reference_folder().resolve(),
        True,
    )


def test_checking_a_source_does_not_import_torch() -> None:
    import subprocess

    code = (
        "import sys; from safeedit.models.load import check_source; check_source(None); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_every_error_is_one_of_ours(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("[]")
    with pytest.raises(SafeEditError):
        load_model(folder)
