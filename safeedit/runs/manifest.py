"""Which files a run consists of, and whether they are still what they were."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from safeedit.errors import IntegrityError
from safeedit.runs.findings import Finding
from safeedit.runs.lock import LOCK
from safeedit.runs.record import RECORD, FileRecord
from safeedit.tensors.atomic import TEMP_PREFIX
from safeedit.tensors.digest import file_digest

LOG = "audit.jsonl"
NEXT_PREFIX = ".next-"
"""A file that takes the place of the one named after the prefix once the log tells of it."""
_OUTSIDE = frozenset({RECORD, LOG, LOCK})

Waiting = Literal["none", "due", "undone"]


def next_path(path: Path) -> Path:
    """Where the coming content of `path` waits."""
    return path.with_name(NEXT_PREFIX + path.name)


def list_files(folder: Path) -> dict[str, FileRecord]:
    """Every file of the run with its digest, by its path inside `folder`.

    Raises:
        IntegrityError: something in the folder is a link or no file at all.
    """
    found: dict[str, FileRecord] = {}
    for name in _names(folder):
        if not _is_plain(folder / name):
            raise IntegrityError(f"{name!r} in the run folder is a link; a run consists of plain files")
        found[name] = record_of(folder / name)
    return found


def record_of(content: Path | bytes) -> FileRecord:
    """Digest and size of a file, or of the bytes that it will hold."""
    if isinstance(content, bytes):
        return FileRecord(sha256=hashlib.sha256(content).hexdigest(), size=len(content))
    return FileRecord(sha256=file_digest(content), size=content.stat().st_size)


def compare(
    folder: Path,
    recorded: Mapping[str, FileRecord],
    waiting: Waiting = "none",
) -> list[Finding]:
    """Everything in which the files differ from the record; nothing is changed.

    Args:
        folder: the run folder.
        recorded: what the record lists.
        waiting: what to make of files that wait (`next_path`): there may be `none`; they are `due`
            and count as the content of their files; or they belong to a change that is `undone`.
    """
    paths = {name: folder / name for name in _names(folder)}
    if waiting != "none":
        paths = {name: path for name, path in paths.items() if not path.name.startswith(NEXT_PREFIX)}
    if waiting == "due":
        paths |= {name: next_path(folder / name) for name in recorded if next_path(folder / name).is_file()}
    findings: list[Finding] = []
    missing = {name for name in recorded if name not in paths}
    for name, path in sorted(paths.items()):
        if path.name.startswith(TEMP_PREFIX) and name not in recorded:
            message = "was left by a command that was killed; the next one removes it"
            findings.append(Finding("file-leftover", name, message))
            continue
        if not _is_plain(path):
            findings.append(Finding("file-link", name, "is a link; a run consists of plain files"))
            continue
        content = record_of(path)
        if name in recorded:
            if content != recorded[name]:
                findings.append(Finding("file-changed", name, "was changed after the run was sealed"))
            continue
        origin = next((old for old in sorted(missing) if recorded[old] == content), None)
        if origin is None:
            findings.append(Finding("file-extra", name, "was added after the run was sealed"))
        else:
            missing.discard(origin)
            findings.append(Finding("file-renamed", name, f"was {origin} when the run was sealed"))
    findings += [Finding("file-missing", name, "is gone") for name in sorted(missing)]
    return findings


def _names(folder: Path) -> Iterator[str]:
    for root, folders, files in os.walk(folder):
        linked = [name for name in folders if (Path(root) / name).is_symlink()]
        for name in [*files, *linked]:
            path = (Path(root) / name).relative_to(folder).as_posix()
            if path not in _OUTSIDE:
                yield path


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()
