"""The files that a scorer is made of: which they are, what they hold, whether they have changed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from safeedit.canonical import canonical_json
from safeedit.errors import UsageError
from safeedit.policy.files import shown_path
from safeedit.tensors.digest import file_digest

DECIDING = ("*.json", "*.txt", "*.model")
"""Files of a model's folder that decide, beside weights: settings, vocabulary."""
WEIGHTS = ("*.safetensors",)


class Stamp:
    """What the file system says of some files: that they changed is seen without hashing them again.

    A folder among them changes when a file is put there or taken away.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        """Raises OSError where one cannot be found."""
        self._seen = {path: _status(path) for path in paths}

    def changed(self) -> bool:
        """Whether one was written since, or is gone."""
        try:
            return any(_status(path) != seen for path, seen in self._seen.items())
        except OSError:
            return True


def _status(path: Path) -> tuple[int, ...]:
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns, found.st_ino


def deciding(folder: Path, *, weights: bool) -> list[Path]:
    """The files of a model's folder that decide what it says, sorted by name."""
    patterns = (*DECIDING, *WEIGHTS) if weights else DECIDING
    return sorted(path for pattern in patterns for path in folder.glob(pattern) if path.is_file())


def joint_digest(paths: Iterable[Path], settings: object) -> str:
    """One digest of several files by name, and of what was decided besides (JSON values)."""
    files = {path.name: file_digest(path) for path in paths}
    return hashlib.sha256(canonical_json({"files": files, "settings": settings})).hexdigest()


def offline() -> bool:
    """Whether nothing may be fetched (`HF_HUB_OFFLINE`)."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def model_folder(place: str, what: str, *, weights: bool) -> Path:
    """The folder that `place` names: one here, or one of the hub's, fetched where that is allowed.

    Args:
        place: a folder, or an id of the hub.
        what: what is looked for there, for a message.
        weights: whether its weights are wanted, as safetensors, beside settings and vocabulary.

    Raises:
        UsageError: neither is there.
    """
    shown = shown_path(place)
    if os.path.isdir(place):
        return Path(place)
    if os.path.isabs(place) or place.startswith((".", "~")) or place.count("/") > 1:
        raise UsageError(f"there is no folder {shown}, which should hold {what}")
    from huggingface_hub import snapshot_download

    from safeedit.models.load import without_bars

    found, patterns = "", [*DECIDING, *(WEIGHTS if weights else ())]
    try:
        with without_bars():
            found = snapshot_download(place, allow_patterns=patterns, local_files_only=offline())
    except Exception:
        found = ""
    if not found or not os.path.isfile(os.path.join(found, "config.json")):
        reach = "and HF_HUB_OFFLINE forbids to fetch it" if offline() else "and the hub did not give it"
        raise UsageError(f"{what} should be in {shown}: it is no folder, not in the hub's cache, {reach}")
    return Path(found)
