from __future__ import annotations

from collections.abc import Callable

import pytest
from scripted_bench import Bench


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Bench]:
    return lambda name, *paths, **options: Bench(monkeypatch, name, paths, **options)
