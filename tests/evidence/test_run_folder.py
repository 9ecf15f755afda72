from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from safeedit.errors import EditorError, IntegrityError, UsageError
from safeedit.runs import folder as module
from safeedit.runs.folder import RunFolder
from safeedit.runs.plain import FreeTextError
from safeedit.runs.record import RunRecord, model_name
from safeedit.runs.verify import verify_run

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

Clock = Callable[[], datetime]
Make = Callable[[Path], Path]
Write = Callable[[RunFolder], None]


def codes(path: Path) -> list[str]:
    return [finding.code for finding in verify_run(path).findings]


def key_files(state: Path) -> set[str]:
    return {path.stem for path in (state / "keys").glob("*.key")}


def events(path: Path) -> list[str]:
    return [entry.event for entry in RunFolder.open(path).log.entries()]


@pytest.fixture
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAFEEDIT_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


# --- a run from start to end --------------------------------------------------------------------


def test_the_record_of_a_finished_run(tmp_path: Path, make_run: Make) -> None:
    path = make_run(tmp_path / "run")
    record = json.loads((path / "run.json").read_bytes())
    assert RunFolder.open(path).record == RunRecord.model_validate(record)
    assert record["id"] == "dsar-2026-0142"
    assert (record["status"], record["verdict"], record["grade"], record["exit_code"]) == (
        "finished",
        "PASS",
        "G1",
        0,
    )
    assert record["started"] < record["finished"]
    assert record["model"] == "reference"
    assert record["digests"].keys() == {"policy", "base_model", "patch"}
    assert record["log"]["length"] == 5
    assert set(record["files"]) == {
        *("patch/patch.json", "patch/patch.safetensors", "probes.json", "report.html"),
        *("vault/generations.bin", "vault/request.bin"),
    }
    assert events(path) == [
        *("run.started", "policy.registered", "edit.started", "edit.made", "probes.measured", "run.finished")
    ]
    assert [found.name for found in path.rglob("*") if found.name.startswith((".tmp-", ".next-"))] == []


def test_a_run_whose_folder_cannot_be_made_leaves_no_key(own_state: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="is no folder"):
        RunFolder.create(tmp_path / "file", "a")
    with pytest.raises(UsageError, match=r"run\.id is free text"):
        RunFolder.create(tmp_path / "run", "no spaces allowed")
    assert not own_state.exists()
    assert not (tmp_path / "run").exists()


def test_creation_that_fails_is_undone(
    own_state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.AuditLog, "append", fail)
    with pytest.raises(OSError, match="No space"):
        RunFolder.create(tmp_path / "run", "a")
    assert not (tmp_path / "run").exists()
    assert key_files(own_state) == set()


@pytest.mark.parametrize("name", ["notes.txt", ".lock2", "audit.jsonl", "patch"])
def test_a_folder_with_anything_else_in_it_is_refused_and_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text("mine")
    with pytest.raises(UsageError, match=r"not empty.*give a new folder"):
        RunFolder.create(tmp_path / "run", "a")
    assert [(path.name, path.read_text()) for path in (tmp_path / "run").iterdir()] == [(name, "mine")]


def test_a_finished_run_is_never_replaced(tmp_path: Path, make_run: Make) -> None:
    path = make_run(tmp_path / "run")
    with pytest.raises(UsageError, match="already holds a finished run of dsar-2026-0142"):
        RunFolder.create(path, "dsar-2026-0142")
    assert verify_run(path).ok


def test_two_processes_cannot_write_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("safeedit.runs.lock._PATIENCE_S", 0.05)
    with RunFolder.create(tmp_path / "run", "a") as run:
        with pytest.raises(UsageError, match="another process is writing"):
            RunFolder.create(tmp_path / "run", "a")
        with pytest.raises(UsageError, match="another process is writing"):
            RunFolder.open(tmp_path / "run").note("edit.made")
        run.note("edit.made")


def test_what_is_no_run_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no run"):
        RunFolder.open(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(IntegrityError, match="not the record of a run"):
        RunFolder.open(tmp_path)


# --- no text of the request ---------------------------------------------------------------------


def test_free_text_gets_into_neither_record_nor_log(tmp_path: Path, canaries: dict[str, str]) -> None:
    text = canaries["subject"]
    for fields in (
        {"device": text},
        {"versions": {"torch": text}},
        {"editor": {"name": "x", "params": {"a": text}}},
    ):
        with pytest.raises(FreeTextError) as caught:
            RunFolder.create(tmp_path / "run", "a", **fields)
        assert text not in f"{caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r}"
    assert not (tmp_path / "run").exists()
    with RunFolder.create(tmp_path / "run", "a") as run:
        before = (run.path / "run.json").read_bytes()
        with pytest.raises(FreeTextError):
            run.update("edit.made", {"reason": text})
        with pytest.raises(FreeTextError):
            run.update("edit.made", digests={"policy": text})
        with pytest.raises(FreeTextError):
            run.note("edit.made", reason=text)
        with pytest.raises(UsageError, match=r"colour cannot stand in run\.json"):
            run.update("edit.made", colour="red")
        assert (run.path / "run.json").read_bytes() == before
        run.update("edit.made", {"reason": run.redactor.digest(text)})
        assert text not in repr(run)


@pytest.mark.parametrize("field", ["started", "verdict", "device", "id"])
def test_a_record_made_by_hand_is_checked_and_its_error_repeats_nothing(
    field: str, canaries: dict[str, str]
) -> None:
    sound = {"id": "a", "uuid": "00000000-0000-0000-0000-000000000000", "started": "2026-11-02T12:00:00Z"}
    sound |= {"log": {"length": 0, "head": "0" * 64}}
    RunRecord.model_validate(sound)
    with pytest.raises(ValueError, match="validation error") as caught:
        RunRecord.model_validate({**sound, field: canaries["subject"]})
    assert canaries["subject"] not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        *[(None, "reference"), ("gpt2", "gpt2"), ("meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.2-1B")],
        *[("/home/zebulon quackenbush/gpt2-medium", "gpt2-medium"), ("/models/Zebulon Quackenbush", "local")],
    ],
)
def test_a_models_name_in_the_open(source: str | None, name: str) -> None:
    assert model_name(source) == name


def test_an_existing_folder_is_called_by_its_last_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "private" / "model-1").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert model_name("private/model-1") == model_name(tmp_path / "private" / "model-1") == "model-1"


# --- runs that do not come to their end ---------------------------------------------------------


def test_an_error_marks_the_run_as_failed_by_its_type_alone(tmp_path: Path, canaries: dict[str, str]) -> None:
    path = tmp_path / "run"

    def run_that_fails() -> None:
        with RunFolder.create(path, "a") as run:
            run.vault.put("request", 1)
            raise EditorError(canaries["subject"])

    with pytest.raises(EditorError):
        run_that_fails()
    record = RunFolder.open(path).record
    assert (record.status, record.verdict, record.exit_code) == ("failed", "ERROR", 4)
    assert RunFolder.open(path).log.entries()[-1].data["error"] == "EditorError"
    report = verify_run(path)
    assert report.ok
    assert report.status == "failed"
    (path / "vault" / "request.bin").write_bytes(b"")
    assert codes(path) == ["file-changed"]


def test_an_interrupt_is_told_and_the_same_command_starts_again(own_state: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt), RunFolder.create(path, "a") as run:
        raise KeyboardInterrupt
    assert codes(path) == ["interrupted"]
    assert "start it again with the same command" in verify_run(path).findings[0].message
    with RunFolder.create(path, "a") as run:
        run.finish("PASS", None, 0)
    assert verify_run(path).ok
    assert events(path) == ["run.started", "run.interrupted", "run.restarted", "run.finished"]
    assert len(key_files(own_state)) == 1


def test_a_failed_disk_does_not_hide_what_ended_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def run_that_fails() -> None:
        with RunFolder.create(tmp_path / "run", "a"):
            monkeypatch.setattr(module.AuditLog, "append", fail)
            raise EditorError("singular")

    with pytest.raises(EditorError) as caught:
        run_that_fails()
    assert caught.value.__notes__ == ["the run could not be marked as failed: OSError"]
    assert codes(tmp_path / "run") == ["interrupted"]


def test_a_restart_removes_what_was_left_and_keeps_the_log(
    own_state: Path, tmp_path: Path, write_artefacts: Write
) -> None:
    path = tmp_path / "run"
    run = RunFolder.create(path, "a", seed=1)
    write_artefacts(run)
    run.update("edit.started", status="editing")
    run.note("edit.made")
    (path / ".tmp-0123.json").write_text("half")
    first = run.record.uuid
    run.close()
    with (path / "audit.jsonl").open("ab") as stream:
        stream.write(b'{"data":{"half')
    assert codes(path) == ["log-half-line", "interrupted"]
    assert key_files(own_state) == {first}
    with RunFolder.create(path, "a", seed=2) as again:
        second = again.record.uuid
        assert sorted(found.name for found in path.iterdir()) == [".lock", "audit.jsonl", "run.json", "vault"]
        assert again.record.seed == 2
        assert again.vault.names() == ()
        assert again.log.entries()[-1].data["previous"] == first
        assert again.log.entries()[-1].data["previous_status"] == "editing"
        again.finish("FAIL", "G1", 1)
    assert key_files(own_state) == {second}
    assert verify_run(path).ok
    assert events(path) == ["run.started", "edit.started", "edit.made", "run.restarted", "run.finished"]


def test_an_unfinished_run_is_not_replaced_by_another_policy_or_against_the_will(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "run", "a").close()
    with pytest.raises(UsageError, match="holds an unfinished run of a; give a new folder"):
        RunFolder.create(tmp_path / "run", "b")
    with pytest.raises(UsageError, match="restart it"):
        RunFolder.create(tmp_path / "run", "a", restart=False)
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds more than a run"):
        RunFolder.create(tmp_path / "run", "a")


@pytest.mark.parametrize("name", ["run.json", "audit.jsonl"])
def test_a_tampered_unfinished_run_is_not_restarted_over(own_state: Path, tmp_path: Path, name: str) -> None:
    with RunFolder.create(tmp_path / "run", "a") as run:
        run.note("edit.made", layers=[3])
    path = tmp_path / "run" / name
    path.write_bytes(path.read_bytes().replace(b"2", b"3", 1))
    before = path.read_bytes()
    with pytest.raises(IntegrityError, match=r"does not verify|not the record of a run"):
        RunFolder.create(tmp_path / "run", "a")
    assert path.read_bytes() == before
    assert len(key_files(own_state)) == 1


def test_a_sealed_run_stays_sealed(tmp_path: Path, make_run: Make) -> None:
    run = RunFolder.open(make_run(tmp_path / "run"))
    with pytest.raises(UsageError, match="is sealed"):
        run.note("edit.made")
    with pytest.raises(ValueError, match="stays sealed"):
        run.update("edit.started", status="editing")
    for name in ("run.json", "../x", "vault/../run.json", "notes.txt", "/etc/x", "patch//x"):
        with pytest.raises(ValueError, match="named by its path"):
            run.update("report.written", files={name: b""})
    assert verify_run(run.path).ok


# --- killed at any moment -----------------------------------------------------------------------

CALLS = ("open", "write", "fsync", "replace", "unlink", "ftruncate")


def killed(action: Callable[[], object], at: int) -> bool:
    """Run `action` in a child that is killed before its disk call number `at`; whether it was."""
    child = os.fork()
    if not child:
        left = at
        for name in CALLS:
            original = getattr(os, name)

            def counted(
                *args: object, original: Callable[..., object] = original, **kwargs: object
            ) -> object:
                nonlocal left
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(*args, **kwargs)

            setattr(os, name, counted)
        action()
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def at_every_moment(action: Callable[[], object], check: Callable[[bool], None], step: int = 1) -> int:
    """Kill `action` at each of its disk calls in turn and `check` what is left; how many there were."""
    for at in range(0, 1000, step):
        was_killed = killed(action, at)
        check(was_killed)
        if not was_killed:
            return at
    raise AssertionError("the action does not come to its end")


def test_a_change_killed_at_any_moment_is_whole_or_not_at_all(tmp_path: Path, make_run: Make) -> None:
    original = make_run(tmp_path / "original")
    path = tmp_path / "workspace" / "run"
    shutil.copytree(original, path)
    outcomes: set[tuple[str, ...]] = set()

    def change() -> None:
        files = {"report.html": b"<p>new", "patch/more.json": b"{}"}
        RunFolder.open(path).update("report.written", {"format": "html"}, files=files)

    def check(was_killed: bool) -> None:
        found = tuple(codes(path))
        outcomes.add(found)
        # Never as tampering: a half-written file, a waiting one, or nothing at all.
        assert set(found) <= {"file-leftover", "sealing-interrupted", "log-half-line"}
        run = RunFolder.open(path)
        run.recover()
        assert codes(path) == []
        done = run.log.entries()[-1].event == "report.written"
        assert (path / "patch" / "more.json").exists() == done
        assert ((path / "report.html").read_bytes() == b"<p>new") == done
        assert done or was_killed
        change()
        assert codes(path) == []
        # The ledger knows of a run that is put back to an earlier state, so it goes too.
        shutil.rmtree(path.parent)
        shutil.copytree(original, path)

    assert at_every_moment(change, check) > 15
    assert {(), ("file-leftover",), ("sealing-interrupted",)} <= outcomes


@pytest.mark.parametrize("action", ["recover", "update"])
def test_a_line_that_a_kill_left_in_a_finished_run_is_told_by_the_next_entry(
    action: str, tmp_path: Path, make_run: Make
) -> None:
    path = make_run(tmp_path / "run")
    log = path / "audit.jsonl"
    with log.open("ab") as stream:
        stream.write(b'{"data":{"format')
    left = log.read_bytes()
    assert codes(path) == ["log-half-line"]
    run = RunFolder.open(path)
    if action == "recover":
        assert run.recover()
        assert not run.recover()
    else:
        run.update("report.written", {"format": "html"})
    assert log.read_bytes().startswith(left)
    entry = run.log.entries()[-1]
    assert entry.event == ("run.recovered" if action == "recover" else "report.written")
    assert entry.data["repaired"]["bytes"] == 16
    assert codes(path) == []


def finished(path: Path) -> None:
    with RunFolder.create(path, "a") as run:
        run.vault.put("request", 1)
        run.update("edit.made", status="editing")
        (path / "probes.json").write_text("{}")
        run.finish("PASS", None, 0)


def test_a_run_killed_at_any_moment_can_be_started_again(own_state: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"

    def check(was_killed: bool) -> None:
        if is_run(path) and codes(path):
            assert set(codes(path)) <= {
                "interrupted",
                "sealing-interrupted",
                "log-half-line",
                "file-leftover",
            }
        if not (was_killed and is_final(path)):
            if was_killed:
                finished(path)
            assert verify_run(path).ok
            assert len(key_files(own_state)) == 1
        shutil.rmtree(path, ignore_errors=True)
        shutil.rmtree(own_state, ignore_errors=True)

    assert at_every_moment(lambda: finished(path), check, step=5) > 30


def is_run(path: Path) -> bool:
    return any((path / name).exists() for name in ("run.json", ".next-run.json", "audit.jsonl"))


def is_final(path: Path) -> bool:
    """Whether the kill came after the log told that the run was finished."""
    return is_run(path) and (path / "run.json").exists() and RunFolder.open(path).record.status == "finished"


def test_a_restart_killed_at_any_moment_can_be_repeated(
    own_state: Path, tmp_path: Path, write_artefacts: Write
) -> None:
    path, kept = tmp_path / "run", tmp_path / "kept"
    run = RunFolder.create(path, "a")
    write_artefacts(run)
    run.close()
    shutil.copytree(path, kept / "run")
    shutil.copytree(own_state, kept / "state")

    def check(was_killed: bool) -> None:
        if was_killed:
            RunFolder.create(path, "a").close()
        assert codes(path) == ["interrupted"]
        assert not (path / "probes.json").exists()
        assert len(key_files(own_state)) == 1
        shutil.rmtree(path)
        shutil.rmtree(own_state)
        shutil.copytree(kept / "run", path)
        shutil.copytree(kept / "state", own_state)

    assert at_every_moment(lambda: RunFolder.create(path, "a").close(), check, step=3) > 20
