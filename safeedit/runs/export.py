"""A run's edited model for others: a standard checkpoint, or a PEFT adapter; and the log says so."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from safeedit.errors import IntegrityError, UsageError
from safeedit.runs import stored
from safeedit.runs.folder import RunFolder
from safeedit.runs.guard import plainly
from safeedit.runs.loading import base_model, edit_of, edited_model, finished_run
from safeedit.runs.options import ModelSource
from safeedit.runs.outcome import Run
from safeedit.runs.targets import check_folder
from safeedit.runs.verify import verify_alone
from safeedit.tensors.atomic import TEMP_PREFIX, flush_folder
from safeedit.tensors.digest import model_digest, named_digests, root_digest
from safeedit.tensors.places import writable

if TYPE_CHECKING:
    from safeedit.patch import Patch

Format = Literal["hf", "peft"]
_ELSEWHERE = "give a new folder where you can write"


@dataclass(frozen=True)
class Exported:
    """What was written."""

    path: Path
    format: Format
    digest: str
    """Of the exported tensors: for a checkpoint that of the edited model, as the run recorded it."""
    base: str
    """The digest of the model that an adapter is for, and that a checkpoint was made of."""
    rank: int | None = None
    """Of an adapter."""
    lost: float = 0.0
    """What truncation left out of all changes: Frobenius norm, relative to that of the changes."""
    lost_by_module: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As the command line prints it."""
        value: dict[str, Any] = {"out": str(self.path), "format": self.format}
        value |= {"digest": self.digest, "base_model": self.base}
        if self.format == "peft":
            value |= {"rank": self.rank, "lost": self.lost, "lost_by_module": dict(self.lost_by_module)}
        return value


def export(
    run: str | os.PathLike[str] | Run,
    *,
    format: Format,
    out: str | os.PathLike[str],
    rank: int | None = None,
    base: ModelSource = None,
    exact: bool = True,
) -> Exported:
    """Write a run's edited model, or its change, in a format that other software reads.

    Args:
        run: a finished run, or its folder.
        format: `hf` for a checkpoint with its tokenizer, `peft` for a LoRA adapter of the base model.
        out: a folder that does not exist or is empty; it appears whole or not at all.
        rank: for `peft`, the rank that the adapter has at most. By default nothing is lost; whole
            matrices need one.
        base: where the base model is now; see `load`.
        exact: see `load`.

    Raises:
        UsageError: there is no finished run that still stands, it holds what the format cannot, or `out`
            is taken, inside a run, or cannot be written.
        IntegrityError: the run does not verify, or base, patch or edited model is not the recorded one.
    """

    def work() -> Exported:
        target = Path(out)
        _check_request(format, target, rank)
        folder, patch = _exportable(run)
        with _whole_folder(target) as temporary:
            done = (
                _checkpoint(folder, temporary, base, exact)
                if format == "hf"
                else _adapter(folder, patch, temporary, rank, base)
            )
            # The last step before the folder appears: nothing leaves a run that its log does not tell of.
            folder.update("model.exported", _told(done))
        return _at(done, target)

    return plainly(lambda: "the export", work)


def _check_request(format: str, target: Path, rank: int | None) -> None:
    if format not in get_args(Format):
        raise UsageError(f"there is no format {format!r}; there are: {', '.join(get_args(Format))}")
    if rank is not None and format != "peft":
        raise UsageError("a rank is for adapters; a checkpoint holds the whole change (leave rank out)")
    if rank is not None and rank < 1:
        raise UsageError("rank: the adapter's rank is at least 1")
    check_folder(target)
    with writable(target, _ELSEWHERE):
        with suppress(FileNotFoundError):
            os.lstat(target)
        if target.is_symlink() or (target.exists() and not target.is_dir()):
            raise UsageError(f"{target} is no folder; give a new folder")
        if target.is_dir() and any(target.iterdir()):
            raise UsageError(f"{target} is not empty; give a new folder")


def _exportable(run: str | os.PathLike[str] | Run) -> tuple[RunFolder, Patch]:
    folder = finished_run(run)
    folder.recover()
    path, record = folder.path, folder.record
    report = verify_alone(path)
    if not report.ok:
        more = f" (and {len(report.findings) - 1} more)" if len(report.findings) > 1 else ""
        raise IntegrityError(f"{path}: the run does not verify; {report.findings[0]}{more}")
    if record.status != "finished":
        status = record.status.replace("_", " ")
        raise UsageError(f"{path}: the run was {status}, so there is no edited model to export")
    patch = edit_of(folder)
    if patch is None:
        raise UsageError(f"{path}: the run edited nothing, so there is nothing to export")
    if patch.memories:
        raise UsageError(
            f"{path}: the run's editor keeps a memory beside the weights, which neither a checkpoint nor an "
            "adapter can hold; open the run itself with safeedit.load"
        )
    return folder, patch


def _checkpoint(folder: RunFolder, target: Path, base: ModelSource, exact: bool) -> Exported:
    from safetensors.torch import load_file

    from safeedit.applied import memory_digests
    from safeedit.models.load import without_bars

    loaded = edited_model(folder, base=base, exact=exact)
    if memory_digests(loaded.model):
        raise UsageError(
            f"{folder.path}: the model under the run has a memory beside its weights, which no checkpoint "
            "can hold; open the run itself with safeedit.load"
        )
    with without_bars():
        loaded.model.save_pretrained(target)
        loaded.tokenizer.save_pretrained(target)
    # Read back, because what counts is the file; of tied tensors it has one.
    digests = named_digests(loaded.model)
    for path in sorted(target.glob("*.safetensors")):
        for name, digest in named_digests(load_file(path)).items():
            if digests.get(name) != digest:
                raise IntegrityError(f"the checkpoint differs from the run's model in {name}")
    return Exported(target, "hf", root_digest(digests), folder.record.digests[stored.BASE])


def _adapter(folder: RunFolder, patch: Patch, target: Path, rank: int | None, base: ModelSource) -> Exported:
    from safeedit.adapters import adapter_of

    if folder.record.parent is not None:
        raise UsageError(
            f"{folder.path}: the run stands on another one, and an adapter would hold its own change without "
            "that one's; export a checkpoint (hf)"
        )
    loaded = base_model(folder, base, "cpu")
    adapter = adapter_of(loaded.model, patch, rank)
    # A folder's name may tell of the request; an id of the hub is public.
    public = folder.record.model if "/" in folder.record.model else None
    adapter.save(target, public, loaded.revision if public else None)
    digest = model_digest(adapter.tensors())
    based = folder.record.digests[stored.BASE]
    return Exported(target, "peft", digest, based, adapter.rank, adapter.lost_in_total, adapter.lost)


def _told(done: Exported) -> dict[str, object]:
    told: dict[str, object] = {"format": done.format, "weights": done.digest}
    if done.format == "peft":
        told |= {"rank": done.rank, "lost": done.lost}
    return told


def _at(done: Exported, target: Path) -> Exported:
    from dataclasses import replace

    return replace(done, path=target)


@contextmanager
def _whole_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target` that takes its place when the block ends well, or is removed."""
    temporary = target.parent / f"{TEMP_PREFIX}{secrets.token_hex(8)}"
    with writable(target, _ELSEWHERE):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
    try:
        yield temporary
        # A flush does the same for a file as for a folder.
        for path in temporary.rglob("*"):
            flush_folder(path)
        os.replace(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    flush_folder(target.parent)
