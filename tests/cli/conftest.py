"""The command as it is installed: its entry point called in this process, or the script as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from command_types import SCRIPT, Command, Done, WritePolicy


@pytest.fixture(autouse=True)
def _plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE", "SAFEEDIT_DEBUG", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is the current one."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def safeedit(here: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command in this process, in an empty folder."""
    (script,) = entry_points(group="console_scripts", name="safeedit")
    main = script.load()

    def run(*words: object) -> Done:
        capsys.readouterr()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["safeedit", *map(str, words)])
            with pytest.raises(SystemExit) as ended:
                main()
        out, err = capsys.readouterr()
        return Done(int(ended.value.code or 0), out, err)

    return run


@pytest.fixture
def process(here: Path) -> Command:
    """Runs the installed script as a process of its own, in an empty folder."""

    def run(*words: object, env: Mapping[str, str] | None = None) -> Done:
        done = subprocess.run(
            [str(SCRIPT), *map(str, words)],
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def policy(tmp_path: Path) -> WritePolicy:
    """Writes a policy beside the current folder, and gives its path."""

    def write(text: str, name: str = "policy.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write
