"""The model that a run made: base and patches put together again, every digest checked.

A run on a run is put together from the bottom: the first run's base, then the patch of each run in
their order. A checkpoint that one of them saved spares what is below it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safeedit.errors import IntegrityError, UsageError
from safeedit.runs import lineage, stored
from safeedit.runs.folder import RunFolder
from safeedit.runs.options import ModelSource
from safeedit.runs.outcome import Run
from safeedit.runs.record import FINAL

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
            default it is taken from where the run took it. For a run on a run: the model that the
            first of them started from, or any on the way; or the folder of the run that it stands on.
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
    patch = edit_of(folder)
    # A checkpoint holds weights only: what sits beside them comes from the patch, on the base.
    if base is None and not (patch and patch.memories):
        saved = _saved(folder, device)
        if saved is not None:
            return saved
    if patch is None or _idle(folder):
        return base_model(folder, base, device, exact=exact)
    # A low-rank patch is multiplied out where the model is, so that is done where the run did it.
    loaded = base_model(folder, base, _home(folder.record.device, device), exact=exact)
    applied = patch.apply(loaded.model, check="none")
    if exact and applied.digest() != folder.record.digests[stored.EDITED]:
        applied.revert()
        raise _rounded(folder)
    if device != "auto" and not isinstance(base, tuple):
        loaded.model.to(device)
    return loaded


def base_model(
    folder: RunFolder, base: ModelSource = None, device: str = "auto", *, exact: bool = True
) -> LoadedModel:
    """The model that a run started from, loaded or put together again, and checked.

    Args:
        folder: a run.
        base: see `load`.
        device: see `load_model`.
        exact: see `load`.

    Raises:
        UsageError: the run does not say where its model came from (give `base`), or a run that it
            stands on is not to be found or was rolled back.
        IntegrityError: the model is not the one that the run started from.
    """
    told = base if isinstance(base, str | Path) and lineage.is_run(base) else None
    if told is not None and folder.record.parent is None:
        raise UsageError(f"{folder.path}: the run stands on no other; give the model that it started from")
    below = lineage.ancestors(folder, told)
    loaded, done = _start((*below, folder), None if told is not None else base, device)
    if done == len(below):
        return loaded
    on = []
    try:
        for run in below[done:]:
            patch = edit_of(run)
            if patch is not None and not _idle(run):
                if not isinstance(base, tuple):
                    loaded.model.to(_home(run.record.device, device))
                on.append(patch.apply(loaded.model, check="none"))
        if exact and _identity(loaded) != _base(folder):
            raise _rounded(below[-1])
    except BaseException:
        for applied in reversed(on):
            applied.revert()
        raise
    if device != "auto" and not isinstance(base, tuple):
        loaded.model.to(device)
    return loaded


def _start(runs: Sequence[RunFolder], base: ModelSource, device: str) -> tuple[LoadedModel, int]:
    """The base of one of `runs`, each of which stands on the one before it, and of which."""
    from safeedit.models.load import given_model, load_model

    last = runs[-1]
    if base is None:
        for number in range(len(runs) - 1, 0, -1):
            saved = _saved(runs[number - 1], device)
            if saved is not None:
                return saved, number
    if isinstance(base, tuple):
        loaded = given_model(*base)
    else:
        source, revision = (base, None) if base is not None else stored.source_of(runs[0])
        loaded = load_model(source, device=device, dtype=last.record.dtype or "auto", revision=revision)
    found = _identity(loaded)
    for number in range(len(runs) - 1, -1, -1):
        if _base(runs[number]) == found:
            return loaded, number
    raise IntegrityError(
        f"{last.path}: the model {loaded.source_name} is not the one that the run started from: its "
        "digest differs; give that one (base=)"
    )


def _saved(run: RunFolder, device: str) -> LoadedModel | None:
    """The checkpoint that a run saved, known by where the run's model came from; None where there is none.

    Raises:
        IntegrityError: it is not the model that the run left.
    """
    from safeedit.models.load import load_model

    folder = run.path / "model"
    if not folder.is_dir():
        return None
    loaded = load_model(folder, device=device, dtype=run.record.dtype or "auto")
    if _identity(loaded) != lineage.left_by(run.record):
        raise IntegrityError(f"{folder}: the model is not the one that the run recorded")
    return _known_as(loaded, run)


def _known_as(loaded: LoadedModel, run: RunFolder) -> LoadedModel:
    """A checkpoint under the name of what it was made of, whose controls are the ones that belong to it."""
    from safeedit.models.load import reference_folder

    source = revision = None
    try:
        source, revision = stored.source_of(run)
        reloadable = True
    except UsageError:
        reloadable = False
    folder = Path(source) if source and Path(source).is_dir() else None
    if run.record.model == "reference" and source is None:
        folder = reference_folder()
    return replace(
        loaded,
        source_name=run.record.model,
        folder=folder,
        source=source,
        revision=revision,
        reloadable=reloadable,
    )


def _base(run: RunFolder) -> str | None:
    return run.record.digests.get(stored.BASE)


def _idle(run: RunFolder) -> bool:
    """Whether a run's patch changes nothing; it is left off, as two of them could not be told apart."""
    return run.record.digests.get(stored.EDITED) == _base(run)


def _rounded(run: RunFolder) -> IntegrityError:
    return IntegrityError(
        f"{run.path}: base and patch are the recorded ones, but their sum is rounded differently on "
        "this machine than where the run was judged; accept that with exact=False"
    )


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


def _identity(loaded: LoadedModel) -> str:
    from safeedit.applied import identity

    return identity(loaded.model)
