"""Taking an edit back: the base model in its place again, bit for bit, and the log says so."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from safeedit.errors import IntegrityError, UsageError
from safeedit.runs import stored
from safeedit.runs.folder import RunFolder
from safeedit.runs.guard import plainly
from safeedit.runs.lineage import standing_on
from safeedit.runs.loading import base_model, finished_run
from safeedit.runs.options import ModelSource
from safeedit.runs.record import FINAL, RunRecord
from safeedit.runs.verify import verify_alone
from safeedit.tensors.digest import file_digest

if TYPE_CHECKING:
    from safeedit.models.load import LoadedModel


def rollback(run_path: str | os.PathLike[str], *, base: ModelSource = None, stack: bool = False) -> RunRecord:
    """Make the run's model the base model again; `safeedit.load` gives that one from then on.

    The base model itself was never changed. A checkpoint that the run saved is replaced by the base
    weights. Log and patch stay, as evidence of what was done.

    Args:
        run_path: the run folder.
        base: where the base model is now; by default where the run took it from.
        stack: also roll back the runs that stand on this one, before it.

    Returns:
        the run's new record.

    Raises:
        UsageError: there is no finished run, it changed nothing, it was rolled back before, or other
            runs stand on it.
        IntegrityError: a run does not verify, or the base model is not the recorded one.
    """
    return rollback_all(run_path, base=base, stack=stack)[-1][1]


def rollback_all(
    run_path: str | os.PathLike[str],
    *,
    base: ModelSource = None,
    stack: bool = False,
    replaced_by: str | None = None,
) -> list[tuple[Path, RunRecord]]:
    """As `rollback`; every run that was rolled back with its record, in the order in which they were.

    The newest is rolled back first, so that what is left at any time stands on what is there.

    Args:
        run_path: see `rollback`.
        base: see `rollback`.
        stack: see `rollback`.
        replaced_by: the uuid of the run that takes its place, if one does.
    """

    def work() -> list[tuple[Path, RunRecord]]:
        folder = finished_run(run_path)
        above = standing_on(folder)
        if above and not stack:
            raise UsageError(
                f"{run_path}: other runs stand on this one, the newest first: "
                f"{', '.join(str(one.path) for one in above)}; roll those back before it, or all of them at "
                "once with --stack"
            )
        for one in (*above, folder):
            _check(one)
        done = [(one.path, _take_back(one, None, None)) for one in above]
        return [*done, (folder.path, _take_back(folder, base, replaced_by))]

    return plainly(lambda: "the rollback", work)


def _check(folder: RunFolder) -> None:
    if folder.record.status not in FINAL:
        raise UsageError(f"{folder.path}: the run has not come to its end; wait for it, or run it again")
    folder.recover()
    report = verify_alone(folder.path)
    if not report.ok:
        more = f" (and {len(report.findings) - 1} more)" if len(report.findings) > 1 else ""
        raise IntegrityError(f"{folder.path}: the run does not verify; {report.findings[0]}{more}")
    if folder.record.status == "rolled_back":
        raise UsageError(f"{folder.path}: the run was rolled back already")
    if stored.PATCH not in folder.record.digests:
        raise UsageError(f"{folder.path}: the run edited nothing, so there is nothing to take back")


def _take_back(folder: RunFolder, base: ModelSource, replaced_by: str | None) -> RunRecord:
    loaded = base_model(folder, base, "cpu")
    about = {name: folder.record.digests[name] for name in (stored.BASE, stored.EDITED)}
    return folder.update(
        "rollback.done",
        about if replaced_by is None else {**about, "replaced_by": replaced_by},
        files=_base_files(folder, loaded),
        status="rolled_back",
        replaced_by=replaced_by,
    )


def _base_files(folder: RunFolder, loaded: LoadedModel) -> dict[str, bytes]:
    """The files of the saved checkpoint that differ from those of the base model, and what they become."""
    from safeedit.models.load import without_bars

    saved = folder.path / "model"
    if not saved.is_dir():
        return {}
    with tempfile.TemporaryDirectory(prefix="safeedit-") as temporary, without_bars():
        loaded.model.save_pretrained(temporary)
        weights = {path.name: path for path in Path(temporary).glob("*.safetensors*")}
        there = {path.name for path in saved.glob("*.safetensors*")}
        if weights.keys() != there:
            raise IntegrityError(f"{saved}: the checkpoint is not laid out as the base model's would be")
        return {
            f"model/{name}": path.read_bytes()
            for name, path in weights.items()
            if file_digest(path) != file_digest(saved / name)
        }
