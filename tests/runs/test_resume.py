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
from safeedit.editors import training, values
from safeedit.editors.journal import JOURNAL, Bookmark, Journal, State
from safeedit.errors import IntegrityError
from safeedit.runs import bundles, resume
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

policy, out, editor, params, threads, at = sys.argv[1:]
torch.set_num_threads(int(threads))
resume.EVERY = resume.REST = 0.0

def stop(stage, done, total):
    if stage == at and done:
        os.kill(os.getpid(), signal.SIGKILL)

params = __import__("json").loads(params)
safeedit.apply(policy, None, out, editor=editor, params=params, device="cpu", progress=stop)
"""


def killed(policy: Path, out: Path, editor: str, params: dict[str, Any], stage: str) -> None:
    """A run in a process that is killed after the first step of a stage."""
    arguments = [str(policy), str(out), editor, json.dumps(params), str(torch.get_num_threads()), stage]
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
    return sorted(path.stem for path in (out / "vault").glob("edit-*"))


def test_a_killed_edit_goes_on_and_ends_bit_for_bit_as_in_one_go(
    given: Any, tmp_path: Path, write_policy: Any, searched: list[int]
) -> None:
    policy, out = write_policy("modify", facts=FACTS), tmp_path / "run"
    whole = safeedit.apply(policy, given.pair, tmp_path / "whole", params=PARAMS)
    assert not entries(whole.path)
    usual = list(searched)
    searched.clear()
    killed(policy, out, "memit", PARAMS, "weights")
    left = [name for name in entries(out) if name.count("-") == 2]
    assert len(left) > 1, "several searches were done"
    assert not (out / "patch").exists()
    vault = b"".join(path.read_bytes() for path in (out / "vault").glob("edit-*"))
    assert all(name.encode() not in vault for name in PEOPLE)
    run = safeedit.apply(policy, given.pair, out, params=PARAMS)
    assert searched == usual[len(left) :], "only what came after"
    assert run.patch is not None
    assert whole.patch is not None
    assert run.patch.digest == whole.patch.digest
    assert not entries(out), "the patch says what was found"
    assert safeedit.verify(out).ok


def test_a_killed_training_goes_on_and_ends_bit_for_bit_as_in_one_go(
    given: Any, tmp_path: Path, write_policy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, out, params = write_policy("modify", facts=FACTS[:2]), tmp_path / "run", {"batch_rows": 2}
    taken: list[int] = []
    step = training.Weights.step

    def counted(weights: Any, gradients: Any) -> None:
        taken.append(1)
        step(weights, gradients)

    monkeypatch.setattr(training.Weights, "step", counted)
    whole = safeedit.apply(policy, given.pair, tmp_path / "whole", editor="ft-m", params=params)
    usual = len(taken)
    killed(policy, out, "ft-m", params, "epochs")
    assert next(iter(entries(out))).startswith("edit-reached-")
    taken.clear()
    run = safeedit.apply(policy, given.pair, out, editor="ft-m", params=params)
    assert 0 < len(taken) < usual
    assert run.patch is not None
    assert whole.patch is not None
    assert run.patch.digest == whole.patch.digest
    assert not entries(out)
    assert safeedit.verify(out).ok


def test_what_cannot_be_read_is_searched_again(tmp_path: Path, own_keys: None) -> None:
    run = RunFolder.create(tmp_path / "run", "a")
    run.vault.put("edit-noted-000000", {"x": 1})
    run.vault.put_bytes("edit-noted-000000-000000", b"y")
    uuid = run.record.uuid
    left = {"edit-noted-000000-000000": b"y", "edit-noted-000000": b'{"x":1}'}
    assert list(resume.left_by(run.path, uuid).items()) == list(left.items()), "the head of a bundle is last"
    (run.path / "vault" / "edit-noted-000000.bin").write_bytes(b"damaged")
    assert resume.left_by(run.path, uuid) == {}
    run.vault.shred()
    assert resume.left_by(run.path, uuid) == {}
    run.close()


def same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(value, other[name])
        if isinstance(value, torch.Tensor)
        else (type(value), value) == (type(other[name]), other[name])
        for name, value in one.items()
    )


def test_what_was_found_is_kept_until_the_edit_has_ended(vault: Vault) -> None:
    torch.manual_seed(0)
    odd = torch.tensor([1.0, torch.inf, torch.nan]).nan_to_num(7.0)
    found: State = {"delta": torch.randn(2, 3), "loss": odd, "steps": 4, "norm": 0.1}

    def cut_short(base: str) -> None:
        """What is found in a journal of an edit that is interrupted; it is noted there, if it was not."""
        with resume.resumable(vault, {"base": base}):
            before = journal().found("state")
            journal().note("state" if before is None else "other", found)
            seen.append(before)
            raise KeyboardInterrupt

    seen: list[Any] = []
    for base in ("a", "b", "a"):
        with pytest.raises(KeyboardInterrupt):
            cut_short(base)
    assert seen[:2] == [None, None], "what another model found is nobody's"
    assert same(seen[2], found)
    with resume.resumable(vault, {"base": "a"}):
        assert journal().found("other") is not None
    assert not vault.names()
    assert JOURNAL.get() is None


def test_states_of_any_kind_and_size_come_back(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles, "PART", 100)
    torch.manual_seed(1)
    states: dict[str, State] = {
        "a": {"x": torch.randn(7, 9), "half": torch.randn(5).bfloat16(), "mask": torch.rand(3, 4) < 0.5},
        "b": {"turned": torch.randn(6, 4).T, "none": torch.zeros(0, 3), "one": torch.tensor(2.5)},
        "c": {"random": torch.Generator().manual_seed(3).get_state(), "n": 3, "x": 1 / 3, "yes": True},
    }
    bundles.write(vault, "edit-noted-000000", states)
    assert len(vault.names()) > 20
    assert max(path.stat().st_size for path in vault._folder.glob("*-*-*-*")) < 200
    assert bundles.keys(vault, "edit-noted-000000") == ("a", "b", "c")
    found = bundles.read(vault, "edit-noted-000000")
    assert all(same(found[key], state) for key, state in states.items())
    vault.put_bytes("edit-noted-000000-000000", b"too short")
    with pytest.raises(IntegrityError, match="not whole"):
        bundles.read(vault, "edit-noted-000000")
    bundles.remove(vault, "edit-noted-000000")
    assert not vault.names()


def test_of_what_loops_have_reached_the_newest_alone_is_kept(vault: Vault) -> None:
    def cut_short() -> None:
        with resume.resumable(vault, {}):
            for step in range(5):
                journal().reached("one" if step < 3 else "two", {"step": step, "x": torch.ones(3)})
                assert len(vault.names()) == 2
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut_short()
    # One that was being written when the process was killed is no bundle yet.
    vault.put_bytes("edit-reached-000009-000000", b"half")
    with resume.resumable(vault, {}):
        assert journal().found("one") is None
        found = journal().found("two")
        assert found is not None
        assert found["step"] == 4
        journal().reached("three", {"step": 0})
        assert vault.names() == ("edit-reached-000010",)
    assert not vault.names()


def test_writing_takes_no_more_than_a_tenth_of_the_time(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(resume.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(resume, "EVERY", 10.0)
    monkeypatch.setattr(resume, "REST", 9.0)
    write = bundles.write

    def slow(*args: Any) -> None:
        write(*args)
        now[0] += 4

    monkeypatch.setattr(bundles, "write", slow)
    with resume.resumable(vault, {}):
        bookmark, written = Bookmark(journal(), "key"), []
        for _ in range(100):
            now[0] += 1
            if bookmark.due():
                written.append(now[0])
                bookmark.put({"step": 1})
    assert written == [10.0, 50.0, 90.0]


def test_a_full_disk_ends_the_notes_and_not_the_edit(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    put, room = vault.put_bytes, [1]

    def full(name: str, data: bytes) -> None:
        room[0] -= 1
        if room[0] < 0:
            raise OSError(28, "No space left on device")
        put(name, data)

    monkeypatch.setattr(vault, "put_bytes", full)
    monkeypatch.setattr(bundles, "PART", 100)
    with resume.resumable(vault, {}):
        journal().note("key", {"x": torch.ones(10)})
        assert len(vault.names()) == 2
        journal().reached("other", {"x": torch.ones(100)})
        assert len(vault.names()) == 2, "what is there by half is taken out"
        assert not journal().due()
        journal().note("third", {"x": torch.ones(1)})
    assert not vault.names()


def journal() -> Journal:
    found = JOURNAL.get()
    assert found is not None
    return found


@pytest.fixture
def vault(tmp_path: Path, own_keys: None, monkeypatch: pytest.MonkeyPatch) -> Vault:
    """Everything is written into it as soon as it is found."""
    monkeypatch.setattr(resume, "EVERY", 0.0)
    monkeypatch.setattr(resume, "REST", 0.0)
    return Vault.create(tmp_path, "00000000-0000-4000-8000-000000000000")


@pytest.fixture
def own_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFEEDIT_STATE_DIR", str(tmp_path / "state"))
