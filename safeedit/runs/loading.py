"""The model that a run made: base and patch put together again, every digest checked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safeedit.errors import IntegrityError, UsageError
from safeedit.runs import stored
from safeedit.runs.folder import RunFolder
from safeedit.runs.options import ModelSource
from safeedit.runs.outcome import Run
from safeedit.runs.record import FINAL
from safeedit.tensors.digest import model_digest

if TYPE_CHECKING:
    from safeedit.models.load import LoadedModel
    from safeedit.patch import Patch


def load(
    run: str | os.PathLike[str] | Run,
    *,
    device: str = "auto",
    base: ModelSource = None,
    exact: bool = True,
) -> tuple[Any, Any]:
    """The model that a run left, and its tokenizer: edited, or the base after a rollback.

    Args:
        run: a run, or its folder.
        device: where it shall be; see `load_model`.
        base: where the base model is now, or the base model itself (which is edited in place); by
            default it is taken from where the run took it.
        exact: whether every bit must be as it was judged. Base and patch always are; their sum can
            be rounded differently on another kind of machine.

    Raises:
        UsageError: there is no finished run.
        IntegrityError: base, patch or edited model is not what the run recorded.
    """
    folder = finished_run(run)
    loaded = edited_model(folder, device=device, base=base, exact=exact)
    return loaded.model, loaded.tokenizer


def finished_run(run: str | os.PathLike[str] | Run) -> RunFolder:
    """The folder of a run that came to its end.

    Raises:
        UsageError: there is none.
    """
    path = run.path if isinstance(run, Run) else run
    folder = RunFolder.open(path)
    if folder.record.status not in FINAL:
        raise UsageError(f"{path}: the run has not come to its end ({folder.record.status}); run it again")
    return folder


def edited_model(
    folder: RunFolder, *, device: str = "auto", base: ModelSource = None, exact: bool = True
) -> LoadedModel:
    """As `load`, with where the model came from."""
    from safeedit.models.load import load_model

    record = folder.record
    patch = edit_of(folder)
    saved = folder.path / "model"
    # A checkpoint holds weights only: what sits beside them comes from the patch, on the base.
    if saved.is_dir() and base is None and not (patch and patch.memories):
        loaded = load_model(saved, device=device, dtype=record.dtype or "auto")
        wanted = record.digests[stored.EDITED if patch else stored.BASE]
        if model_digest(loaded.model) != wanted:
            raise IntegrityError(f"{saved}: the model is not the one that the run recorded")
        return loaded
    if patch is None:
        return stored.base_model(folder, base, device)
    # A low-rank patch is multiplied out where the model is, so that is done where the run did it.
    loaded = stored.base_model(folder, base, _home(record.device, device))
    applied = patch.apply(loaded.model, check="none")
    if exact and applied.digest() != record.digests[stored.EDITED]:
        applied.revert()
        raise IntegrityError(
            f"{folder.path}: base and patch are the recorded ones, but their sum is rounded differently on "
            "this machine than where the run was judged; accept that with exact=False"
        )
    if device != "auto" and not isinstance(base, tuple):
        loaded.model.to(device)
    return loaded


def edit_of(folder: RunFolder) -> Patch | None:
    """The patch that makes a run's model of its base; None where nothing was edited, or it was rolled back.

    Raises:
        IntegrityError: it is not the one that the run recorded.
    """
    from safeedit.patch import Patch

    record = folder.record
    if record.status == "rolled_back" or stored.PATCH not in record.digests:
        return None
    path = Path(folder.path) / "patch"
    if not path.is_dir():
        raise IntegrityError(f"{path} is gone")
    patch = Patch.load(path)
    if patch.digest != record.digests[stored.PATCH]:
        raise IntegrityError(f"{path}: the patch is not the one that the run recorded")
    return patch


def _home(recorded: str | None, asked: str) -> str:
    """The kind of device that the run used, if it is here."""
    import torch

    if (recorded or "").startswith("cuda"):
        return asked if asked.startswith("cuda") or not torch.cuda.is_available() else "cuda"
    return "cpu"
