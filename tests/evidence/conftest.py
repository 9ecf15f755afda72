from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from safeedit.runs.folder import RunFolder

CANARIES = {
    "subject": "Zebulon Quackenbush",
    "object": "Xylographic Marmalade",
    "prompt": "The favourite zeppelin of Zebulon Quackenbush is",
    "accented": "Þórdís Ærøskøbing-Ñandú",
    "phone": "+99 555 0199 4471",
}


@pytest.fixture(autouse=True, scope="session")
def _offline() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture(autouse=True, scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's state folder, an empty one for every test module."""
    folder = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAFEEDIT_STATE_DIR", str(folder))
        yield folder


@pytest.fixture(scope="session")
def canaries() -> dict[str, str]:
    return CANARIES


@pytest.fixture(scope="session")
def clock() -> Callable[[], datetime]:
    """A clock that goes on by a second whenever it is read."""
    now = datetime(2024, 11, 2, 12, tzinfo=UTC)

    def tick() -> datetime:
        nonlocal now
        now += timedelta(seconds=1)
        return now

    return tick


@pytest.fixture(scope="session")
def write_artefacts(canaries: dict[str, str]) -> Callable[[RunFolder], None]:
    """What the stages of a run write, with canaries wherever text of the request may be."""

    def write(run: RunFolder) -> None:
        run.vault.put("request", {"facts": [canaries], "prompts": [canaries["prompt"]] * 3})
        run.vault.put("generations", [f"{canaries['prompt']} {canaries['object']}"])
        shown = run.redactor.digest(canaries["subject"])
        (run.path / "patch").mkdir(exist_ok=True)
        (run.path / "patch" / "patch.safetensors").write_bytes(bytes(range(256)))
        (run.path / "patch" / "patch.json").write_text('{"format": "safeedit.patch/1"}\n')
        (run.path / "probes.json").write_text(json.dumps({"suite": "smoke", "results": []}, indent=1))
        (run.path / "report.html").write_text(f"<!doctype html><p>{shown}</p>\n")

    return write


@pytest.fixture(scope="session")
def make_run(
    clock: Callable[[], datetime], write_artefacts: Callable[[RunFolder], None], canaries: dict[str, str]
) -> Callable[[Path], Path]:
    """Writes a small finished run into a folder."""

    def make(path: Path) -> Path:
        with RunFolder.create(path, "dsar-2026-0142", clock=clock, seed=1, dtype="float32") as run:
            policy = run.redactor.commitment(canaries)
            run.note("policy.registered", policy=policy, facts=3, subject=run.redactor.digest("x"))
            run.update("edit.started", status="editing", digests={"policy": policy, "base_model": "0" * 64})
            write_artefacts(run)
            run.update("edit.made", {"editor": "memit", "seconds": 1.25}, status="probing")
            run.note("probes.measured", suite="smoke", facts=3)
            run.finish(
                "PASS",
                "G1",
                0,
                seconds={"edit": 1.25},
                digests={"patch": "1" * 64},
                peak_memory_bytes=123_456_789,
            )
        return path

    return make
