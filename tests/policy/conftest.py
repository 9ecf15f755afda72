from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from safeedit.policy import Policy, PolicyError

Errors = Callable[..., list[str]]


@pytest.fixture(scope="session")
def errors_of(tmp_path_factory: pytest.TempPathFactory) -> Errors:
    """What is wrong with a policy's text, as printed, with `p.yaml` as its name; [] if nothing is."""
    folder = tmp_path_factory.mktemp("policies")

    def errors(text: str | bytes, **other_files: str | bytes) -> list[str]:
        for name, content in {"p.yaml": text, **other_files}.items():
            path = folder / name.replace("_jsonl", ".jsonl")
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        before = sorted(os.listdir(folder))
        caught = None
        try:
            Policy.load(folder / "p.yaml")
        except PolicyError as error:
            caught = error
        assert sorted(os.listdir(folder)) == before, "something was written"
        if caught is None:
            return []
        assert caught.exit_code == 2
        # What stands in an error's context is printed with it, values included.
        assert caught.__cause__ is None
        assert caught.__context__ is None
        return str(caught).replace(f"{folder}{os.sep}", "").split("\n")

    return errors


@pytest.fixture(scope="session")
def load_text(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str | bytes], Policy]:
    folder: Path = tmp_path_factory.mktemp("texts")

    def load(text: str | bytes) -> Policy:
        (folder / "p.yaml").write_bytes(text.encode() if isinstance(text, str) else text)
        return Policy.load(folder / "p.yaml")

    return load
