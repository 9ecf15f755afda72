"""Where a verb writes what it is asked for: never into a sealed run, over a ledger, or over a device."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from command_types import Command, WritePolicy
from policies_in_text import CANARIES, ERASURE
from signed_runs import Clock, make_run

from safeedit.errors import UsageError
from safeedit.runs.folder import RunFolder
from safeedit.runs.keys import STATE_VARIABLE, RunKey, key_path
from safeedit.runs.targets import check_file, check_folder

FILES: dict[str, tuple[str, ...]] = {
    "ledger prove": ("ledger", "prove", "runs/one", "-o", "{}"),
    "report": ("report", "runs/one", "--format", "md", "-o", "{}"),
    "report as sarif": ("report", "runs/one", "--format", "sarif", "-o", "{}"),
    "locate": ("locate", "--policy", "../policy.yaml", "-q", "-o", "{}.svg"),
    "keys trust": ("keys", "trust", "bob", "key/auditor.pub", "--keyring", "{}"),
}
FOLDERS: dict[str, tuple[str, ...]] = {
    "export": ("export", "runs/one", "--format", "hf", "-o", "{}"),
    "locate": ("locate", "--policy", "../policy.yaml", "-q", "-o", "{}"),
    "keys new": ("keys", "new", "bob", "--no-passphrase", "-o", "{}"),
    "erase": ("erase", "--policy", "../policy.yaml", "-q", "--out", "{}"),
    "model sign": ("model", "sign", "{}", "--key", "key/auditor.pem"),
    "world train": ("world", "train", "--steps", "1", "-q", "--out", "{}"),
    "request received": ("request", "received", "case-9", "--regime", "gdpr-17", "--in", "{}"),
}
SEALED = "whose files are sealed"


@pytest.fixture
def runs(
    here: Path, safeedit: Command, policy: WritePolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A signed workspace of two runs, with a key beside it and a state folder of its own."""
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path / "state"))
    policy(ERASURE)
    clock = Clock(datetime(2024, 11, 2, tzinfo=UTC))
    for name in ("one", "two"):
        make_run(here / "runs" / name, clock)
    assert safeedit("keys", "new", "auditor", "--no-passphrase", "-o", "key").code == 0
    assert safeedit("keys", "trust", "auditor", "key/auditor.pub").code == 0
    assert safeedit("ledger", "checkpoint", "runs", "--key", "key/auditor.pem").code == 0
    return here / "runs"


def content(folder: Path) -> dict[str, bytes | None]:
    """Every file and folder below `folder`."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def words(verb: tuple[str, ...], target: str) -> list[str]:
    return [word.format(target) for word in verb]


@pytest.mark.parametrize("target", ["runs/two/run.json", "runs/two/new", "runs/two/patch/new", "runs/one/x"])
@pytest.mark.parametrize("verb", FILES)
def test_no_file_is_written_into_a_run(
    verb: str, target: str, safeedit: Command, runs: Path, tmp_path: Path
) -> None:
    before = content(tmp_path)
    done = safeedit(*words(FILES[verb], target))
    assert (done.code, done.out) == (2, "")
    assert f"{target}{'.svg' * (verb == 'locate')} is inside a run, {SEALED}; give another file" in done.err
    assert content(tmp_path) == before
    assert not any(canary in done.err for canary in CANARIES)


@pytest.mark.parametrize("target", ["runs/two/new", "runs/two/patch/new"])
@pytest.mark.parametrize("verb", FOLDERS)
def test_no_folder_is_made_in_a_run(
    verb: str, target: str, safeedit: Command, runs: Path, tmp_path: Path
) -> None:
    if verb == "model sign":
        target = "runs/two/patch"
    before = content(tmp_path)
    done = safeedit(*words(FOLDERS[verb], target))
    assert (done.code, done.out) == (2, "")
    assert f"{target} is inside a run, {SEALED}; give another folder" in done.err
    assert content(tmp_path) == before


@pytest.mark.parametrize("verb", ["locate", "keys new", "model sign", "request received"])
def test_a_run_is_no_folder_for_anything_else(
    verb: str, safeedit: Command, runs: Path, tmp_path: Path
) -> None:
    before = content(tmp_path)
    done = safeedit(*words(FOLDERS[verb], "runs/two"))
    assert (done.code, done.out) == (2, "")
    assert f"runs/two is a run, {SEALED}; give another folder" in done.err
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "what"), [("ledger.jsonl", "the ledger"), ("checkpoints.jsonl", "the list of checkpoints")]
)
@pytest.mark.parametrize("verb", [name for name in FILES if name != "locate"])
def test_the_files_of_a_workspace_stay(
    verb: str, name: str, what: str, safeedit: Command, runs: Path, tmp_path: Path
) -> None:
    before = content(tmp_path)
    done = safeedit(*words(FILES[verb], f"runs/{name}"))
    assert (done.code, done.out) == (2, "")
    assert f"runs/{name} is {what} of this workspace; give another file" in done.err
    assert content(tmp_path) == before


def test_a_list_of_checkpoints_that_is_yet_to_come_keeps_its_name(safeedit: Command, runs: Path) -> None:
    make_run(runs.parent / "more" / "one", Clock(datetime(2024, 11, 2, tzinfo=UTC)))
    assert safeedit("report", "more/one", "--format", "md", "-o", "more/checkpoints.jsonl").code == 2
    assert not (runs.parent / "more" / "checkpoints.jsonl").exists()
    assert safeedit("report", "more/one", "--format", "md", "-o", "checkpoints.jsonl").code == 0


@pytest.mark.parametrize("spelling", ["runs/two/../two/x", "elsewhere/x", "runs/one/../two/patch/../x"])
def test_a_run_is_known_by_any_path(spelling: str, safeedit: Command, runs: Path) -> None:
    (runs.parent / "elsewhere").symlink_to(runs / "two")
    done = safeedit("ledger", "prove", "runs/one", "-o", spelling)
    assert (done.code, SEALED in done.err) == (2, True)


@pytest.mark.parametrize("verb", ["ledger prove", "report", "locate"])
def test_what_is_no_regular_file_is_left_alone(verb: str, safeedit: Command, runs: Path) -> None:
    pipe = runs.parent / ("pipe.svg" if verb == "locate" else "pipe")
    os.mkfifo(pipe)
    done = safeedit(*words(FILES[verb], "pipe"))
    assert (done.code, done.out) == (2, "")
    assert f"{pipe.name} is no plain file; give another file" in done.err
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert len(list(runs.parent.iterdir())) == 3


def test_what_was_possible_still_is(safeedit: Command, runs: Path) -> None:
    for where in ("proof.json", "runs/proof.json"):
        for _ in range(2):
            assert safeedit("ledger", "prove", "runs/one", "-o", where).code == 0
    assert safeedit("report", "runs/one", "--format", "md", "-o", "runs/one.md").code == 0
    assert safeedit("report", "runs/one").code == 0
    assert safeedit("keys", "new", "bob", "--no-passphrase", "-o", "key").code == 0
    assert safeedit("keys", "trust", "bob", "key/bob.pub", "--keyring", "runs/keyring.json").code == 0
    assert safeedit("verify", "runs").code == 0


@pytest.mark.parametrize("name", ["run.json", "audit.jsonl"])
def test_a_file_of_another_program_makes_no_run(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text('{"run": "tests"}\n')
    (tmp_path / "below").mkdir()
    check_file(tmp_path / "below" / "report.md")
    check_folder(tmp_path / "new")


@pytest.mark.parametrize("gone", ["run.json", "audit.jsonl"])
def test_what_is_left_of_a_run_is_one(gone: str, runs: Path) -> None:
    (runs / "two" / gone).unlink()
    with pytest.raises(UsageError, match="is inside a run"):
        check_file(runs / "two" / gone)
    (runs / "one" / gone).write_text("destroyed")
    with pytest.raises(UsageError, match="is inside a run"):
        check_folder(runs / "one" / "new")


# --- where nothing can be written ----------------------------------------------------------------

LONG = "x" * 300


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("../policy.yaml/run", "not a directory"),
        ("../policy.yaml/runs/run", "not a directory"),
        (LONG, "file name too long"),
        (f"new/{LONG}/run", "file name too long"),
    ],
)
def test_a_run_that_cannot_be_written_is_refused_by_its_path(
    target: str, why: str, safeedit: Command, policy: WritePolicy, here: Path
) -> None:
    done = safeedit("erase", "--policy", policy(ERASURE), "-q", "--out", target)
    assert (done.code, done.out) == (2, "")
    assert f"{target} cannot be written ({why}); give a folder that you can write in with --out" in done.err
    assert content(here) == {}


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Lets nothing be made in a folder, as the system does for those who may not write in it."""

    def refuse(folder: Path) -> None:
        def guarded(real: Any, flagged: bool) -> Any:
            def call(path: Any, *more: Any, **named: Any) -> Any:
                makes = not flagged or (more and more[0] & os.O_CREAT)
                inside = isinstance(path, str | os.PathLike) and folder in Path(os.path.abspath(path)).parents
                if makes and inside and not os.path.exists(path):
                    raise PermissionError(errno.EACCES, "Permission denied", str(path))
                return real(path, *more, **named)

            return call

        monkeypatch.setattr(os, "mkdir", guarded(os.mkdir, False))
        monkeypatch.setattr(os, "open", guarded(os.open, True))

    return refuse


@pytest.mark.parametrize("there", [False, True])
def test_a_run_in_a_folder_of_somebody_else(
    there: bool, safeedit: Command, policy: WritePolicy, here: Path, refuse: Any
) -> None:
    target = here / "ro" / "run"
    (target if there else target.parent).mkdir(parents=True)
    refuse(here / "ro")
    done = safeedit("erase", "--policy", policy(ERASURE), "-q", "--out", target, "--json")
    assert done.code == 2
    assert done.json()["error"] == {
        "kind": "usage",
        "message": f"{target} cannot be written (permission denied); "
        "give a folder that you can write in with --out",
        "problems": [],
    }


def test_keys_that_cannot_be_written(
    safeedit: Command, policy: WritePolicy, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = policy(ERASURE)
    for state, why in ((path, "not a directory"), (tmp_path / LONG, "file name too long")):
        monkeypatch.setenv(STATE_VARIABLE, str(state))
        for place, verb in (
            (state / "keys", ("erase", "--policy", path, "-q", "--out", "new/run")),
            (state, ("keys", "new", "a", "--no-passphrase")),
        ):
            done = safeedit(*verb)
            assert (done.code, done.out) == (2, "")
            assert f"{place} cannot be written ({why}); " in done.err
            assert f"give a folder that you can write in with {STATE_VARIABLE}" in done.err
            assert content(here) == {}


@pytest.mark.parametrize(
    "verb", ["ledger prove", "report", "locate", "export", "keys new"], ids=lambda verb: str(verb)
)
@pytest.mark.parametrize("target", ["../policy.yaml/new", LONG])
def test_other_targets_that_cannot_be_written(
    verb: str, target: str, safeedit: Command, runs: Path, tmp_path: Path
) -> None:
    before = content(tmp_path)
    done = safeedit(*words({**FILES, **FOLDERS, "locate": FILES["locate"]}[verb], target))
    assert (done.code, done.out) == (2, "")
    if verb != "locate":
        assert f"{target} cannot be written (" in done.err
    assert content(tmp_path) == before


def test_a_full_disk_is_no_fault_of_whoever_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "mkdir", full)
    with pytest.raises(OSError, match="No space"):
        RunFolder.create(tmp_path / "run", "a")


def test_nothing_is_written_among_the_keys_of_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path / "state"))
    key = RunKey.create("01234567-89ab-cdef-0123-456789abcdef")
    kept = key_path(key.uuid).read_bytes()
    (tmp_path / "link").symlink_to(tmp_path / "state" / "keys")
    for folder in (tmp_path / "state" / "keys", tmp_path / "link"):
        with pytest.raises(UsageError, match="among the keys"):
            check_file(folder / f"{key.uuid}.key")
        for target in (folder, folder / "new"):
            with pytest.raises(UsageError, match="among the keys"):
                check_folder(target)
    check_folder(tmp_path / "state" / "other")
    assert key_path(key.uuid).read_bytes() == kept
