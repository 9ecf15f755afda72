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
from safeedit.runs.loading import finished_run
from safeedit.runs.options import ModelSource
from safeedit.runs.record import RunRecord
from safeedit.runs.verify import verify_run
from safeedit.tensors.digest import file_digest

if TYPE_CHECKING:
    from safeedit.models.load import LoadedModel


def rollback(run_path: str | os.PathLike[str], *, base: ModelSource = None) -> RunRecord:
    """Make the run's model the base model again; `safeedit.load` gives that one from then on.

    The base model itself was never changed. A checkpoint that the run saved is replaced by the base
    weights. Log and patch stay, as evidence of what was done.

    Args:
        run_path: the run folder.
        base: where the base model is now; by default where the run took it from.

    Returns:
        the run's new record.

    Raises:
        UsageError: there is no finished run, it changed nothing, or it was rolled back before.
        IntegrityError: the run does not verify, or the base model is not the recorded one.
    """

    def work() -> RunRecord:
        folder = finished_run(run_path)
        report = verify_run(run_path)
        if not report.ok:
            more = f" (and {len(report.findings) - 1} more)" if len(report.findings) > 1 else ""
            raise IntegrityError(f"{run_path}: the run does not verify; {report.findings[0]}{more}")
        if folder.record.status == "rolled_back":
            raise UsageError(f"{run_path}: the run was rolled back already")
        if stored.PATCH not in folder.record.digests:
            raise UsageError(f"{run_path}: the run edited nothing, so there is nothing to take back")
        loaded = stored.base_model(folder, base, "cpu")
        digests = folder.record.digests
        return folder.update(
            "rollback.done",
            {stored.BASE: digests[stored.BASE], stored.EDITED: digests[stored.EDITED]},
            files=_base_files(folder, loaded),
            status="rolled_back",
        )

    return plainly(lambda: "the rollback", work)


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
