"""Seeds: what no generator takes is refused before anything is measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_cases import JOB

import safeedit
from safeedit.calibration import calibrate
from safeedit.errors import UsageError
from safeedit.runs.folder import RunFolder
from safeedit.runs.plan import plan
from safeedit.runs.reprobe import probe
from safeedit.seeds import LAST, check_seed

CALLS: dict[str, Callable[[Path, Path, Any], object]] = {
    "apply": lambda policy, out, seed: safeedit.apply(policy, out=out, seed=seed),
    "plan": lambda policy, out, seed: plan(policy, seed=seed),
    "probe": lambda policy, out, seed: probe(policy=policy, model="no/such/model", seed=seed),
    "calibrate": lambda policy, out, seed: calibrate("memit", seed=seed),
}


@pytest.mark.parametrize("seed", [-1, 2**32, 10**23, 1.5, "7"])
@pytest.mark.parametrize("call", CALLS)
def test_a_seed_that_no_generator_takes(
    call: str, seed: Any, tmp_path: Path, write_policy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import safeedit.models.load as loading

    def load(*_: object, **__: object) -> None:
        pytest.fail("a model was loaded")

    monkeypatch.setattr(loading, "load_model", load)
    with pytest.raises(UsageError, match=r"^seed must be from 0 to 4294967295$"):
        CALLS[call](write_policy(facts=[JOB]), tmp_path / "run", seed)
    assert not (tmp_path / "run").exists()


def test_the_last_seed_serves_everywhere(tmp_path: Path, given: Any, write_policy: Any) -> None:
    check_seed(LAST)
    np.random.RandomState(LAST)
    policy = write_policy(facts=[JOB])
    run = safeedit.apply(policy, given.pair, tmp_path / "run", editor="idle", seed=LAST)
    assert RunFolder.open(run.path).record.seed == LAST
