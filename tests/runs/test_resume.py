"""A run that was killed while it edited goes on: what it had found is found no second time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from run_cases import KNOWN, QUICK, another, fact

import safeedit
from safeedit.editors import values
from safeedit.runs import resume
from safeedit.runs.folder import RunFolder
from safeedit.runs.vault import Vault

PEOPLE = [subject for subject, relation in KNOWN if relation == "occupation"][:4]
FACTS = [{**fact(name, "occupation"), "new_object": another(name, "occupation")} for name in PEOPLE]
PARAMS = {**QUICK, "batch_rows": 8, "site": "prompt"}

KILLED = """
import os, signal, sys
import torch
import safeedit
from safeedit.runs import resume

policy, out, params, threads, every = sys.argv[1:]
torch.set_num_threads(int(threads))
resume.EVERY = float(every)

def stop(stage, done, total):
    if stage == "weights" and done:
        os.kill(os.getpid(), signal.SIGKILL)

safeedit.apply(policy, None, out, params=__import__("json").loads(params), device="cpu", progress=stop)
"""


def killed(policy: Path, out: Path) -> None:
    """A run in a process that is killed in the middle of its first insertion."""
    arguments = [str(policy), str(out), json.dumps(PARAMS), str(torch.get_num_threads()), "0"]
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], capture_output=True, check=False)
    assert done.returncode == -9, done.stderr.decode()


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many names each search was for."""
    counts: list[int] = []
    run = values._Chunk.run

    def counted(chunk: Any) -> Any:
        counts.append(chunk.count)
        return run(chunk)

    monkeypatch.setattr(values._Chunk, "run", counted)
    return counts


def entries(out: Path) -> list[str]:
    return sorted(path.stem for path in (out / "vault").glob("values-*"))


def test_a_killed_edit_goes_on_and_ends_bit_for_bit_as_in_one_go(
    given: Any, tmp_path: Path, write_policy: Any, searched: list[int]
) -> None:
    policy, out = write_policy("modify", facts=FACTS), tmp_path / "run"
    whole = safeedit.apply(policy, given.pair, tmp_path / "whole", params=PARAMS)
    assert not entries(whole.path)
    usual = list(searched)
    searched.clear()
    killed(policy, out)
    left = entries(out)
    assert len(left) > 1, "several searches were done"
    assert not (out / "patch").exists()
    assert all(name.encode() not in (out / "vault" / f"{left[0]}.bin").read_bytes() for name in PEOPLE)
    run = safeedit.apply(policy, given.pair, out, params=PARAMS)
    assert searched == usual[len(left) :], "only what came after"
    assert run.patch is not None
    assert whole.patch is not None
    assert run.patch.digest == whole.patch.digest
    assert not entries(out), "the patch says what was found"
    assert safeedit.verify(out).ok


def test_what_cannot_be_read_is_searched_again(tmp_path: Path, own_keys: None) -> None:
    run = RunFolder.create(tmp_path / "run", "a")
    run.vault.put("values-000000", {"x": 1})
    uuid = run.record.uuid
    assert resume.left_by(run.path, uuid) == {"values-000000": {"x": 1}}
    (run.path / "vault" / "values-000000.bin").write_bytes(b"damaged")
    assert resume.left_by(run.path, uuid) == {}
    run.vault.shred()
    assert resume.left_by(run.path, uuid) == {}
    run.close()


def test_values_are_kept_until_the_edit_has_ended(tmp_path: Path, own_keys: None) -> None:
    vault = Vault.create(tmp_path, "00000000-0000-4000-8000-000000000000")
    torch.manual_seed(0)
    loss, steps = torch.tensor([1.0, torch.inf]), torch.tensor([4, 5])
    found = values.Values(torch.randn(2, 3), loss, steps, torch.ones(2))

    def cut_short(base: str) -> Any:
        """What is found in a journal of an edit that is interrupted; it is noted there, if it was not."""
        with resume.resumable(vault, {"base": base}):
            before = values_journal().found("state")
            values_journal().note("state" if before is None else "other", found)
            seen.append(before)
            raise KeyboardInterrupt

    seen: list[Any] = []
    for base in ("a", "b", "a"):
        with pytest.raises(KeyboardInterrupt):
            cut_short(base)
    assert seen[:2] == [None, None], "what another model found is nobody's"
    for name in ("delta", "loss", "steps", "norm"):
        assert torch.equal(getattr(seen[2], name), getattr(found, name))
    assert len(vault.names()) == 3
    with resume.resumable(vault, {"base": "a"}):
        assert values_journal().found("other") is not None
    assert not vault.names()
    assert values_journal() is None


def values_journal() -> Any:
    from safeedit.editors.journal import JOURNAL

    return JOURNAL.get()


@pytest.fixture
def own_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFEEDIT_STATE_DIR", str(tmp_path / "state"))
