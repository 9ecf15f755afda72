"""Folders that are made whole or not at all, and places that cannot be written, told by their paths."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safeedit.errors import UsageError

_ELSEWHERE = frozenset(
    {
        *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR),
        *(errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL),
    }
)
"""What another place would mend; a full disk, or one that fails, is the machine's fault."""


@contextmanager
def writable(path: str | os.PathLike[str], advice: str) -> Iterator[None]:
    """A place that cannot be written is refused by its path, and is no failure of the machine.

    Args:
        path: where the block writes.
        advice: what would be right.

    Raises:
        UsageError: it lacks a permission, a folder, or a name that the file system takes.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _ELSEWHERE:
            raise
        raise UsageError(f"{path} cannot be written ({why_unwritable(error)}); {advice}") from None


def why_unwritable(error: OSError) -> str:
    """The system's own words, in the middle of a sentence."""
    return (error.strerror or type(error).__name__).lower()


def make_folders(folder: Path) -> tuple[Path, ...]:
    """Make `folder`, and those that it needs: all of them, which are given the innermost first, or none."""
    missing = tuple(path for path in (folder, *folder.parents) if not path.exists())
    try:
        folder.mkdir(parents=True)
    except BaseException:
        remove_folders(missing)
        raise
    return missing


def remove_folders(folders: Iterable[Path]) -> None:
    """Remove folders, the innermost first, as far as nobody else has put anything into them."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
