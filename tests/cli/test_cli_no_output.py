"""What is told when standard output cannot take the result."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from command_types import SCRIPT, Command
from safeedit_cli.failures import failure_of
from safeedit_cli.output import OutputError, tell, write


class Full(io.StringIO):
    """A stream on a disk that has no room left."""

    encoding = "utf-8"

    def __init__(self, handle: int) -> None:
        super().__init__()
        self._handle = handle

    def fileno(self) -> int:
        return self._handle

    def write(self, text: str) -> int:
        if not text:
            return 0
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def full() -> Any:
    with tempfile.TemporaryFile() as file:
        yield Full(os.dup(file.fileno()))


def test_a_full_disk_is_no_defect(full: Full, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", full)
    with pytest.raises(OutputError) as caught:
        write("the result\n")
    told = failure_of(caught.value)
    assert (told.kind, told.exit_code) == ("machine", 4)
    assert told.message == "standard output cannot be written (no space left on device)"
    assert told.advice == "What was to be done is done; only its result could not be shown."
    # Nothing is left in the stream for the interpreter to fail on when it ends.
    assert os.fstat(full.fileno()).st_rdev == os.stat(os.devnull).st_rdev


def test_a_verb_whose_result_cannot_be_written(
    safeedit: Command, full: Full, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", full)
    for words in (("sign-off", "--schema"), ("editors",), ("editors", "--json")):
        done = safeedit(*words)
        assert (done.code, done.out) == (4, "")
        assert "standard output cannot be written (no space left on device)" in done.err
        assert "defect" not in done.err


def test_the_process_ends_without_another_word(here: Path) -> None:
    """A file may not grow, as on a full disk; at its end the interpreter flushes standard output again."""
    words = f"ulimit -f 0; exec '{SCRIPT}' sign-off --schema > out"
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 4
    assert done.stderr.splitlines() == [
        "╷ Error: standard output cannot be written (file too large)",
        "╵ What was to be done is done; only its result could not be shown.",
    ]


def test_standard_error_that_is_full_changes_nothing(full: Full, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", full)
    tell("progress\n")
