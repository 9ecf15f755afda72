"""Telling a run that is being written from one that was killed: a lock that dies with its process."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from safeedit.errors import UsageError

LOCK = ".lock"
_PATIENCE_S = 1.0


class RunLock:
    """An exclusive lock on a run folder; the operating system releases it when the process ends.

    Raises:
        UsageError: another process holds it.
    """

    def __init__(self, folder: Path) -> None:
        self._handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        deadline = time.monotonic() + _PATIENCE_S
        while not _try(self._handle, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                os.close(self._handle)
                raise UsageError(f"{folder}: another process is writing this run; wait until it has ended")
            # A reader that only looks whether the lock is held has it for an instant.
            time.sleep(0.02)

    def release(self) -> None:
        """Give the lock back."""
        os.close(self._handle)


def is_locked(folder: Path) -> bool:
    """Whether a process is writing the run in `folder` now."""
    try:
        handle = os.open(folder / LOCK, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        return not _try(handle, fcntl.LOCK_SH)
    finally:
        os.close(handle)


def _try(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
