"""Loading a model and its tokenizer: from a folder, from the hub, or the embedded reference model.

Weights come from safetensors alone and no code of the checkpoint is run. Everything that can go
wrong has one line of words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from safeedit.errors import ModelError, UsageError
from safeedit.runs.record import model_name

DTYPES = ("auto", "float32", "bfloat16", "float16")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(?:/[A-Za-z0-9][\w.-]{0,95})?")
_DEVICE = re.compile(r"auto|cpu|cuda(?::(\d{1,3}))?")


@dataclass(frozen=True, repr=False)
class LoadedModel:
    """A causal language model ready to run, its tokenizer, and where they came from."""

    model: Any
    tokenizer: Any
    source_name: str
    """The public name: a hub id, a folder's last name, `reference`, or `local`."""
    folder: Path | None
    """The folder that it was loaded from, if it was one."""
    source: str | None = None
    """What to give to `load_model` to get it again; None for the embedded reference model."""
    revision: str | None = None
    """The commit of a hub repository."""
    reloadable: bool = True
    """False for a model that the caller made and that no source gives again."""

    def __repr__(self) -> str:
        return f"<LoadedModel {self.source_name}>"

    @property
    def device(self) -> str:
        """Where the weights are: `cpu`, `cuda:0`."""
        return str(next(self.model.parameters()).device)

    @property
    def dtype(self) -> str:
        """The number format of the weights: `float32`, `bfloat16`, `float16`."""
        return str(next(self.model.parameters()).dtype).removeprefix("torch.")


def reference_folder() -> Path:
    """The folder of the embedded reference model."""
    return Path(str(files("safeedit") / "world" / "reference"))


def load_model(
    source: str | Path | None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    revision: str | None = None,
) -> LoadedModel:
    """A causal language model in evaluation mode, with its fast tokenizer.

    Args:
        source: a folder, or a hub id (`HF_HUB_OFFLINE` is honoured); None for the reference model.
        device: `auto` (CUDA where there is one), `cpu`, `cuda` or `cuda:N`.
        dtype: `float32`, `bfloat16`, `float16`; `auto` is the checkpoint's own, except on a CPU,
            where half precision is slow and rounds edits away and float32 is taken instead.
        revision: commit, branch or tag of a hub repository.

    Raises:
        UsageError: there is no such folder, device or dtype; nothing was loaded.
        ModelError: what is there cannot be loaded as a causal language model.
    """
    check_source(source, device, dtype)
    place = reference_folder() if source is None else source
    where = "the embedded reference model" if source is None else str(source)
    folder = Path(place) if Path(place).is_dir() else None
    target = _device(device)
    options = {"revision": revision, "trust_remote_code": False}
    model, tokenizer = _from_pretrained(str(place), where, _dtype(dtype), options)
    if dtype == "auto" and target.type == "cpu" and next(model.parameters()).element_size() < 4:
        model = model.float()
    return LoadedModel(
        model=model.to(target).eval(),
        tokenizer=tokenizer,
        source_name=model_name(source),
        folder=folder,
        source=None if source is None else str(folder.resolve() if folder else source),
        revision=None if folder else getattr(model.config, "_commit_hash", None),
    )


def check_source(source: str | Path | None, device: str = "auto", dtype: str = "auto") -> None:
    """Return only if `load_model` may be tried; loads nothing and does not import torch.

    Raises:
        UsageError: no such folder, something that is no folder, or an unknown device or dtype.
    """
    if not _DEVICE.fullmatch(device):
        raise UsageError(f"unknown device {device!r}; there are: auto, cpu, cuda, cuda:N")
    if dtype not in DTYPES:
        raise UsageError(f"unknown dtype {dtype!r}; there are: {', '.join(DTYPES)}")
    if source is None:
        return
    path = Path(source)
    if path.is_dir():
        if (path / "run.json").is_file() or (path / "audit.jsonl").is_file():
            raise UsageError(
                f"{source} is a run, not a model; give its model/ folder (written by --save-model), "
                "or the model that the run started from"
            )
        if not (path / "config.json").is_file():
            raise UsageError(f"{source} holds no model: it has no config.json")
    elif path.exists():
        raise UsageError(f"{source} is a file; give the folder of a model, or a Hugging Face id")
    elif isinstance(source, Path) or not _HUB_ID.fullmatch(source):
        raise UsageError(f"there is no folder {source}; give the folder of a model, or a Hugging Face id")


def given_model(model: Any, tokenizer: Any) -> LoadedModel:
    """A model that the caller has loaded.

    Raises:
        ModelError: its tokenizer gives no character offsets.
    """
    _check_fast(tokenizer, "the tokenizer that was given")
    source = str(getattr(model, "name_or_path", "") or "")
    folder = Path(source).resolve() if source and Path(source).is_dir() else None
    reference = folder is not None and folder == reference_folder().resolve()
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        source_name=model_name(None if reference else source or "local"),
        folder=folder,
        source=None if reference or not source else str(folder or source),
        revision=None if folder else getattr(model.config, "_commit_hash", None),
        reloadable=bool(source),
    )


def _device(name: str) -> Any:
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"there is no device {name!r} on this machine; use auto or cpu")
    return device


def _dtype(name: str) -> Any:
    import torch

    return "auto" if name == "auto" else getattr(torch, name)


def _from_pretrained(place: str, where: str, dtype: Any, options: dict[str, Any]) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    failure: Exception | None = None
    try:
        with without_bars():
            model, loading = AutoModelForCausalLM.from_pretrained(
                place, dtype=dtype, use_safetensors=True, output_loading_info=True, **options
            )
    except Exception as error:
        failure = error
    if failure is not None:
        raise ModelError(f"{where} could not be loaded: {_reason(failure)}")
    # A tensor that the checkpoint lacks would silently be drawn at random.
    wrong = sorted(loading["missing_keys"]) + sorted(str(key[0]) for key in loading["mismatched_keys"])
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise ModelError(f"{where} is not whole: {wrong[0]}{more} is missing or has another shape")
    try:
        with without_bars():
            tokenizer = AutoTokenizer.from_pretrained(place, use_fast=True, **options)
    except Exception as error:
        failure = error
    if failure is not None:
        raise ModelError(f"the tokenizer of {where} could not be loaded: {_reason(failure)}")
    _check_fast(tokenizer, f"the tokenizer of {where}")
    return model, tokenizer


def _check_fast(tokenizer: Any, what: str) -> None:
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(f"{what} gives no character offsets; a fast one is needed (tokenizer.json)")


def _reason(error: Exception) -> str:
    """The first line of what the loader says, and what would be right where that is known."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if "safetensors" in first and "no file named" in first:
        return "it has no weights as safetensors (pickled weights are not read; convert them first)"
    if isinstance(error, OSError) and "connect" in first:
        return "it is neither a folder here nor in the local cache, and the hub cannot be reached"
    return f"{type(error).__name__}: {first[:300]}" if first else type(error).__name__


@contextmanager
def without_bars() -> Iterator[None]:
    """`transformers` draws no progress bars inside; the caller's setting comes back."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
