"""Files that are either the old one or the new one, whole, whatever happens in between.

What is written goes to a temporary name in the same folder, is flushed to the disk and renamed
over the target. A process that is killed can leave a temporary file behind; its name starts with
`TEMP_PREFIX`, so that `sweep` finds it.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safeedit.errors import UsageError

TEMP_PREFIX = ".tmp-"


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path in the folder of `path` that takes its place when the block ends well.

    If the block raises anything, an interrupt and a full disk included, the temporary file is
    removed and what was at `path` is untouched. The temporary name keeps the suffix of `path`.

    Raises:
        UsageError: what is at `path` is a device, a pipe or a socket, which a file would replace.
    """
    target = Path(path)
    _refuse_special(target)
    temporary = target.parent / f"{TEMP_PREFIX}{secrets.token_hex(8)}{target.suffix}"
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    flush_folder(target.parent)


def atomic_write(path: str | os.PathLike[str], data: bytes | str) -> None:
    """`path` holds exactly `data` (text as UTF-8) afterwards, or, on any error, what it held before."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def sweep(folder: str | os.PathLike[str]) -> int:
    """Remove the temporary files that killed processes left anywhere below `folder`; how many."""
    stale = [found for found in Path(folder).rglob(f"{TEMP_PREFIX}*") if found.is_file()]
    for found in stale:
        found.unlink()
    return len(stale)


def flush_folder(folder: Path) -> None:
    """Make renames and removals in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _refuse_special(path: Path) -> None:
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode) or stat.S_ISDIR(mode)):
        raise UsageError(f"{path} is no plain file; give another file")


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
