"""Whatever is done to a workspace is found, and named rightly; what people do with it is not.

`SAFEEDIT_SOAK=1` runs a thousand random tamperings, and a hundred honest workspaces.
"""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from workspaces import ALL, NAMES, RING, Clock, Tamper, Tampering, honest, make_workspace

from safeedit.evidence.workspace import WorkspaceReport, verify_workspace
from safeedit.runs.folder import RunFolder
from safeedit.runs.keys import state_folder

SOAK = os.environ.get("SAFEEDIT_SOAK") == "1"
EACH, HONEST = (70, 100) if SOAK else (4, 3)


@pytest.fixture(scope="module")
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, clock: Clock, state: Path) -> Path:
    """A sound workspace, and beside it (`earlier`) what its runs were before their last events."""
    path = make_workspace(tmp_path_factory.mktemp("tampering") / "runs", clock)
    shutil.copytree(path, path.parent / "earlier")
    for name in NAMES:
        RunFolder.open(path / name, clock).update("report.written", {"format": "md"})
    shutil.copytree(path, path.parent / "sound")
    shutil.copytree(state, path.parent / "state")
    return path


@pytest.fixture(autouse=True)
def _sound_again(workspace: Path) -> Iterator[None]:
    yield
    restore(workspace)


def restore(workspace: Path) -> None:
    for kept, place in (
        (workspace.parent / "sound", workspace),
        (workspace.parent / "state", state_folder()),
    ):
        shutil.rmtree(place)
        shutil.copytree(kept, place)


def is_named(report: WorkspaceReport, done: Tampering) -> bool:
    """Whether a finding is about what was changed, by file and by kind."""
    named = {finding.file for finding in report.findings}
    codes = {finding.code for finding in report.findings}
    return bool(named & done.files) and (not done.codes or bool(codes & done.codes))


def test_the_workspace_is_sound(workspace: Path) -> None:
    report = verify_workspace(workspace, RING)
    assert report.findings == ()
    assert len(report.runs) == 4
    assert sum("checkpoints" in check.what for check in report.checks) == 2


@pytest.mark.parametrize("tamper", ALL, ids=lambda tamper: tamper.__name__)
def test_what_is_done_to_a_workspace_is_found_and_named(tamper: Tamper, workspace: Path) -> None:
    rng, missed, count = random.Random(f"{tamper.__name__}-7"), Counter[str](), 0
    while count < EACH:
        done = tamper(workspace, rng)
        if done is None:
            continue
        count += 1
        report = verify_workspace(workspace, RING)
        if not is_named(report, done):
            missed[f"{done.name} {sorted(done.files)}: {[str(one) for one in report.findings]}"] += 1
        restore(workspace)
    assert not missed
    assert verify_workspace(workspace, RING).ok


def test_what_people_do_with_a_workspace_is_no_finding(workspace: Path, clock: Clock) -> None:
    alarms = []
    for seed in range(HONEST):
        for done in honest(workspace, clock, random.Random(seed), 6):
            alarms += [f"{seed} {done}: {finding}" for finding in verify_workspace(workspace, RING).findings]
        restore(workspace)
    assert alarms == []


def test_the_search_can_miss(workspace: Path) -> None:
    report = verify_workspace(workspace, RING)
    assert not is_named(report, Tampering("nothing", frozenset({"ledger.jsonl"})))
