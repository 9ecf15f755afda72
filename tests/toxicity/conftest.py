"""A small checkpoint in Detoxify's format, made once by the project's own script."""

from __future__ import annotations

from pathlib import Path

import pytest

from safeedit.toxicity.fit import examples
from safeedit.toxicity.small import make


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("detoxify") / "small.ckpt"
    make(path, *examples(17, 300), steps=70)
    return path
