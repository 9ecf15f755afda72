from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from safeedit.tensors import atomic
from safeedit.tensors.atomic import TEMP_PREFIX, atomic_path, atomic_write, sweep


def only_file(folder: Path) -> str:
    (one,) = folder.iterdir()
    return one.read_text()


def test_writes_bytes_and_text(tmp_path: Path) -> None:
    atomic_write(tmp_path / "a", b"\x00\xff")
    atomic_write(tmp_path / "b", "Ærø")
    assert (tmp_path / "a").read_bytes() == b"\x00\xff"
    assert (tmp_path / "b").read_text("utf-8") == "Ærø"


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), ValueError(), OSError(errno.ENOSPC, "No space left on device")]
)
def test_an_exception_in_the_middle_leaves_the_old_content(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "run.json"
    atomic_write(target, "old")

    def write_half() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half of the ne")
            raise error

    with pytest.raises(type(error)):
        write_half()
    assert only_file(tmp_path) == "old"


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failing_disk_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    target = tmp_path / "run.json"
    atomic_write(target, "old")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic.os, call, fail)
    with pytest.raises(OSError, match="No space"):
        atomic_write(target, "new")
    assert only_file(tmp_path) == "old"


def test_nothing_appears_where_nothing_was(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "new"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_content_is_on_the_disk_before_it_has_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(atomic.os, "fsync", lambda handle: (order.append("fsync"), fsync(handle))[1])
    monkeypatch.setattr(atomic.os, "replace", lambda a, b: (order.append("replace"), replace(a, b))[1])
    atomic_write(tmp_path / "a", "x")
    assert order == ["fsync", "replace", "fsync"]


def test_the_temporary_name_is_recognisable_and_keeps_the_suffix(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "patch.safetensors") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(TEMP_PREFIX)
        assert temporary.suffix == ".safetensors"
        temporary.write_bytes(b"")


def test_sweep_removes_what_killed_processes_left_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "patch").mkdir()
    for name in (f"{TEMP_PREFIX}1.json", f"patch/{TEMP_PREFIX}2", "keep.json", "patch/keep"):
        (tmp_path / name).write_text("x")
    assert sweep(tmp_path) == 2
    assert {path.name for path in tmp_path.rglob("*")} == {"patch", "keep.json", "keep"}
