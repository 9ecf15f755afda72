"""What holds when something goes wrong in a run: plain errors, nothing half-written, the model as it was."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from safeedit.errors import SafeEditError

DEBUG_VARIABLE = "SAFEEDIT_DEBUG"
RESULTS = ("probes.json", "patch", "model")

Result = TypeVar("Result")


def plainly(what: Callable[[], str], work: Callable[[], Result]) -> Result:
    """What `work` gives; whatever it raises is a `SafeEditError`, or an interrupt.

    The text of an unforeseen exception may quote a prompt, so that its class alone is told, and it
    is not carried along as a context. `SAFEEDIT_DEBUG=1` lets it through as it is.

    Args:
        what: says what was being done, when it is asked.
        work: what is done.
    """
    try:
        return work()
    except SafeEditError:
        raise
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE) == "1":
            raise
        reason = type(error).__name__
        if isinstance(error, OSError) and error.strerror:
            reason += f": {error.strerror}"
    raise SafeEditError(
        f"{what()} failed ({reason}); with {DEBUG_VARIABLE}=1 in the environment the whole error is shown, "
        "personal data included"
    )


@contextmanager
def no_remains(folder: Path) -> Iterator[None]:
    """If the block raises, the run folder holds no result of it."""
    try:
        yield
    except BaseException:
        for name in RESULTS:
            path = folder / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        raise


@contextmanager
def unchanged(model: Any) -> Iterator[None]:
    """Every tensor of `model` is bit for bit what it was when the block is left, however that happens.

    Editors promise as much; this holds for one that breaks its promise, too. It takes a copy of the
    model in main memory.
    """
    import torch

    from safeedit.applied import named_tensors

    kept = {name: tensor.detach().to("cpu", copy=True) for name, tensor in _distinct(model)}
    try:
        yield
    finally:
        tensors = named_tensors(model)
        with torch.no_grad():
            for name, original in kept.items():
                tensors[name].detach().copy_(original)


def _distinct(model: Any) -> Iterator[tuple[str, Any]]:
    yield from model.named_parameters()
    yield from model.named_buffers()
