from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safeedit.errors import IntegrityError, UsageError
from safeedit.evidence.shred import shred
from safeedit.runs.folder import RunFolder
from safeedit.runs.keys import KeyMissingError
from safeedit.runs.verify import verify_run

Make = Callable[[Path], Path]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, make_run: Make) -> Path:
    """A finished run that no test may leave changed."""
    return make_run(tmp_path_factory.mktemp("verify") / "run")


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "copy"))


def codes(path: Path) -> list[str]:
    return [finding.code for finding in verify_run(path).findings]


def files(path: Path) -> list[Path]:
    return sorted(found for found in path.rglob("*") if found.is_file() and found.stat().st_size)


def lines(path: Path) -> list[bytes]:
    return (path / "audit.jsonl").read_bytes().splitlines(keepends=True)


def test_a_finished_run_verifies(run: Path) -> None:
    report = verify_run(run)
    assert report.findings == ()
    assert report.ok
    assert report.status == "finished"
    assert report.record is not None
    assert report.record.verdict == "PASS"
    assert report.entries == len(lines(run)) == 6
    assert report.files == len(files(run)) - 2 == 6


@settings(max_examples=250, deadline=None)
@given(data=st.data())
def test_any_single_flipped_bit_of_any_file_is_noticed(run: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(files(run)))
    before = path.read_bytes()
    offset = data.draw(st.integers(0, len(before) - 1))
    changed = bytearray(before)
    changed[offset] ^= 1 << data.draw(st.integers(0, 7))
    try:
        path.write_bytes(changed)
        report = verify_run(run)
    finally:
        path.write_bytes(before)
    assert not report.ok
    name = path.relative_to(run).as_posix()
    assert name in {finding.file for finding in report.findings}


@pytest.mark.parametrize("name", ["run.json", "audit.jsonl", "vault/request.bin"])
def test_every_byte_counts(copy: Path, name: str) -> None:
    path = copy / name
    before = path.read_bytes()
    unnoticed = []
    for offset in range(0, len(before), 11):
        path.write_bytes(before[:offset] + bytes([before[offset] ^ 0x20]) + before[offset + 1 :])
        if verify_run(copy).ok:
            unnoticed.append(offset)
    assert unnoticed == []


def test_only_the_changed_file_is_named(copy: Path) -> None:
    (copy / "probes.json").write_text("{}")
    (finding,) = verify_run(copy).findings
    assert (finding.code, finding.file) == ("file-changed", "probes.json")
    assert str(finding) == "probes.json: was changed after the run was sealed"


def test_added_renamed_and_missing_files_each_say_so(copy: Path) -> None:
    (copy / "patch" / "modeling_x.py").write_text("x")
    assert codes(copy) == ["file-extra"]
    (copy / "patch" / "modeling_x.py").unlink()
    (copy / "probes.json").rename(copy / "patch" / "probes.json")
    (finding,) = verify_run(copy).findings
    assert (finding.code, finding.file) == ("file-renamed", "patch/probes.json")
    assert finding.message == "was probes.json when the run was sealed"
    (copy / "patch" / "probes.json").unlink()
    assert [(found.code, found.file) for found in verify_run(copy).findings] == [
        ("file-missing", "probes.json")
    ]


@pytest.mark.parametrize("name", [".next-evil", ".hidden", "vault/.next-x", "run.json.bak", ".lock2"])
def test_hidden_files_are_no_exception(copy: Path, name: str) -> None:
    (copy / name).write_text("x")
    assert codes(copy) == ["file-extra"]


def test_links_are_findings(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes((copy / "probes.json").read_bytes())
    (copy / "probes.json").unlink()
    (copy / "probes.json").symlink_to(tmp_path / "target")
    (copy / "more").symlink_to(tmp_path)
    assert codes(copy) == ["file-link", "file-link"]


def test_the_lock_file_can_hide_nothing(copy: Path) -> None:
    (copy / ".lock").write_text("x")
    assert codes(copy) == ["file-changed"]
    (copy / ".lock").unlink()
    assert codes(copy) == []


def test_each_way_to_tamper_with_the_log_has_its_own_message(copy: Path) -> None:
    log, good = copy / "audit.jsonl", lines(copy)
    found = {}
    for name, bad in {
        "edited": [*good[:4], good[4].replace(b'"facts":3', b'"facts":9'), *good[5:]],
        "dropped": good[:4] + good[5:],
        "reordered": [*good[:2], good[3], good[2], *good[4:]],
        "truncated": good[:-1],
        "cut": [*good[:-1], good[-1][:-9]],
        "extended": [*good, b"{}\n"],
        "emptied": [],
    }.items():
        log.write_bytes(b"".join(bad))
        assert b"".join(bad) != b"".join(good)
        found[name] = codes(copy)
    assert found == {
        "edited": ["log-edited"],
        "dropped": ["log-dropped"],
        "reordered": ["log-reordered"],
        "truncated": ["log-truncated"],
        "cut": ["log-half-line", "log-truncated"],
        "extended": ["log-bad-json"],
        "emptied": ["log-truncated"],
    }
    log.unlink()
    assert codes(copy) == ["log-missing"]


def test_an_entry_added_to_a_sealed_run_by_hand_is_noticed(copy: Path) -> None:
    RunFolder.open(copy).log.append("edit.made")
    assert codes(copy) == ["log-extended"]


def test_a_changed_missing_or_foreign_record_says_so(copy: Path, tmp_path: Path, make_run: Make) -> None:
    record, good = copy / "run.json", (copy / "run.json").read_bytes()
    record.write_bytes(good.replace(b'"PASS"', b'"FAIL"'))
    assert codes(copy) == ["record-changed"]
    record.write_bytes(good + b"\n")
    assert codes(copy) == ["record-changed"]
    record.write_bytes(good.replace(b'"verdict"', b'"verdikt"'))
    assert codes(copy) == ["record-invalid"]
    record.unlink()
    assert codes(copy) == ["record-missing"]
    other = make_run(tmp_path / "other")
    shutil.copy(other / "run.json", record)
    assert codes(copy) == ["log-foreign", "record-changed"]
    assert verify_run(copy).status == "unreadable"


def test_a_folder_that_is_no_run_is_a_usage_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(UsageError, match=r"is no run: it has no run\.json"):
            verify_run(path)


def spellings(text: str) -> Iterator[bytes]:
    yield from (text.encode(), text.encode("utf-16-le"), json.dumps(text)[1:-1].encode())
    yield from (text.lower().encode(), text.encode().hex().encode())


def test_no_text_of_the_vault_is_anywhere_else(run: Path, state: Path, canaries: dict[str, str]) -> None:
    content = {path: path.read_bytes() for folder in (run, state) for path in files(folder)}
    words = {
        *canaries.values(),
        *(word for text in canaries.values() for word in text.split() if len(word) > 5),
    }
    for text in words:
        for spelling in spellings(text):
            assert [path.name for path, data in content.items() if spelling in data] == []
    vault = RunFolder.open(run).vault
    assert vault.get("request")["facts"] == [canaries]


def test_the_search_for_canaries_can_fail(run: Path, copy: Path, canaries: dict[str, str]) -> None:
    (copy / "report.html").write_text(canaries["accented"])
    with pytest.raises(AssertionError):
        test_no_text_of_the_vault_is_anywhere_else(run, copy, canaries)


def test_a_shredded_vault_leaves_the_rest_valid(tmp_path: Path, make_run: Make, state: Path) -> None:
    path = make_run(tmp_path / "run")
    run = RunFolder.open(path)
    blob = (path / "vault" / "request.bin").read_bytes()
    record = shred(path).record
    assert run.vault.shredded
    assert not (state / "keys" / f"{record.uuid}.key").exists()
    assert verify_run(path).findings == ()
    assert (path / "vault" / "request.bin").read_bytes() == blob
    with pytest.raises(KeyMissingError):
        run.vault.get("request")
    with pytest.raises(KeyMissingError):
        _ = run.redactor
    assert run.log.entries()[-1].event == "vault.shredded"
    shred(path)
    assert run.log.entries()[-1].data["key_was_here"] is False
    (path / "vault" / "request.bin").write_bytes(blob[:-1])
    assert codes(path) == ["file-changed"]


def test_later_events_are_sealed_too(copy: Path) -> None:
    run = RunFolder.open(copy)
    run.update("rollback.done", {"tensors": 5}, status="rolled_back")
    run.update("report.written", files={"report.html": b"<p>new", "patch/more.json": b"{}"})
    report = verify_run(copy)
    assert report.findings == ()
    assert report.status == "rolled_back"
    assert report.files == 7
    assert (copy / "report.html").read_bytes() == b"<p>new"
    (copy / "patch" / "more.json").write_bytes(b"[]")
    assert codes(copy) == ["file-changed"]


def test_nothing_is_sealed_over_a_run_that_was_tampered_with(copy: Path) -> None:
    (copy / "probes.json").write_text("{}")
    before = {path: path.read_bytes() for path in files(copy)}
    with pytest.raises(IntegrityError, match=r"does not verify.*probes\.json: was changed"):
        RunFolder.open(copy).update("rollback.done", status="rolled_back")
    assert {path: path.read_bytes() for path in files(copy)} == before


def test_a_run_in_progress_is_called_running(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run", "a"):
        report = verify_run(tmp_path / "run")
        assert report.status == "running"
        assert [found.code for found in report.findings] == ["running"]
    assert codes(tmp_path / "run") == ["interrupted"]


def test_verifying_changes_nothing_and_is_fast(run: Path) -> None:
    def snapshot() -> dict[Path, tuple[bytes, int]]:
        return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files(run)}

    before, start = snapshot(), time.process_time()
    verify_run(run)
    assert time.process_time() - start < 1
    assert snapshot() == before


def test_verifying_needs_no_torch(run: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys, safeedit.runs.folder; from safeedit.runs.verify import verify_run; "
        f"assert verify_run({os.fspath(run)!r}).ok; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
