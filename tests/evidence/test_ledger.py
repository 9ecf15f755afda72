from __future__ import annotations

import multiprocessing
import os
import shutil
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from safeedit.errors import IntegrityError, UsageError
from safeedit.evidence.ledger import LEDGER, Ledger, record, workspace_of
from safeedit.evidence.merkle import verify_consistency, verify_inclusion
from safeedit.evidence.pointers import view_ledger
from safeedit.evidence.workspace import is_workspace, verify_workspace
from safeedit.runs.chain import Entry
from safeedit.runs.folder import RunFolder
from safeedit.runs.plain import FreeTextError
from safeedit.runs.verify import verify_run

Clock = Callable[[], datetime]
Make = Callable[[Path], Path]
RUN = "01234567-0123-0123-0123-0123456789ab"
MANY = 10_000


@pytest.fixture
def ledger(tmp_path: Path, clock: Clock) -> Ledger:
    return Ledger.of(tmp_path, clock)


def codes(path: Path) -> list[str]:
    return [finding.code for finding in verify_run(path).findings]


# --- the file -----------------------------------------------------------------------------------


def test_a_ledger_begins_with_its_own_id_and_grows(ledger: Ledger) -> None:
    assert ledger.entries() == ()
    assert ledger.uuid is None
    assert ledger.head().size == 0
    own = ledger.begin()
    first = ledger.append("request.received", id="dsar-1")
    second = ledger.append("edit.made", RUN, log_length=3)
    assert ledger.begin() == ledger.uuid == own
    begun, *rest = ledger.entries()
    assert (begun.event, begun.data["uuid"]) == ("ledger.begun", own)
    assert rest == [first, second]
    assert second.data == {"log_length": 3, "run": RUN}
    assert ledger.verify() == []


def test_the_hashes_of_a_ledger_are_not_those_of_a_runs_log(ledger: Ledger) -> None:
    entry = ledger.append("edit.made")
    other = Entry.after(None, ledger.entries()[0].time, "ledger.begun", ledger.entries()[0].data)
    assert other.hash != ledger.entries()[0].hash
    assert Entry.after(other, entry.time, "edit.made", {}).hash != entry.hash


def test_free_text_and_unknown_events_are_refused(ledger: Ledger, canaries: dict[str, str]) -> None:
    for text in canaries.values():
        with pytest.raises(FreeTextError) as caught:
            ledger.append("edit.made", about=text)
        assert text not in str(caught.value)
    with pytest.raises(ValueError, match="unknown event"):
        ledger.append("Zebulon Quackenbush")  # type: ignore[arg-type]
    assert len(ledger.entries()) == 1


def test_the_tree_grows_with_the_file_and_proves_every_entry(ledger: Ledger) -> None:
    reader = Ledger(ledger.path)
    heads = []
    for count in range(12):
        ledger.append("edit.made", RUN, log_length=count)
        heads.append(reader.head())
    assert [head.size for head in heads] == list(range(2, 14))
    assert heads[-1] == Ledger(ledger.path).head()
    for index in range(13):
        assert verify_inclusion(reader.tree().leaf(index), index, heads[-1], reader.inclusion(index))
    for head in heads:
        assert reader.head(head.size) == head
        assert verify_consistency(head, heads[-1], reader.consistency(head.size))
    for wrong in (lambda: reader.inclusion(13), lambda: reader.head(14), lambda: reader.consistency(0)):
        with pytest.raises(UsageError):
            wrong()


def test_what_a_kill_left_is_no_leaf_and_is_told(ledger: Ledger) -> None:
    ledger.append("edit.made", RUN)
    before = ledger.head()
    with ledger.path.open("ab") as stream:
        stream.write(b'{"data":{"run":"0123')
    view = view_ledger(ledger.path.parent)
    assert view is not None
    assert view.check.findings == ()
    assert "as a kill leaves it" in view.check.notes[0]
    assert ledger.head() == before
    entry = ledger.append("edit.made", RUN)
    assert entry.data["repaired"]["bytes"] == 20
    assert ledger.verify() == []
    assert ledger.head() == Ledger(ledger.path).head()
    assert verify_consistency(before, ledger.head(), ledger.consistency(before.size))


def test_an_end_that_no_kill_leaves_is_a_finding(ledger: Ledger) -> None:
    ledger.append("edit.made", RUN)
    whole = ledger.path.read_bytes()
    for left, found in (
        (b'{"da', []),
        (b'{"data":{"run', []),
        (b"rubbish", ["log-bad-json"]),
        (b'{"data":{"run\nrubbish', ["log-bad-json"]),
    ):
        ledger.path.write_bytes(whole + left)
        view = view_ledger(ledger.path.parent)
        assert view is not None
        assert [finding.code for finding in view.check.findings] == found


def test_a_ledger_that_lost_entries_gives_no_proofs(ledger: Ledger) -> None:
    for count in range(4):
        ledger.append("edit.made", RUN, log_length=count)
    ledger.head()
    lines = ledger.path.read_bytes().splitlines(keepends=True)
    for changed in (lines[:-1], [*lines[:2], *lines[3:]], [b"{}\n", *lines[1:]]):
        ledger.path.write_bytes(b"".join(changed))
        with pytest.raises(IntegrityError):
            Ledger(ledger.path).tree() if changed[-1] == lines[-1] else ledger.tree()


def test_an_emptied_ledger_is_never_begun_anew(ledger: Ledger) -> None:
    ledger.begin()
    ledger.path.write_bytes(b"")
    with pytest.raises(IntegrityError, match="its entries were taken away"):
        ledger.append("edit.made")
    assert ledger.path.read_bytes() == b""


def append_many(path: Path, number: int) -> None:
    ledger = Ledger(path)
    for count in range(20):
        ledger.append("probes.measured", RUN, process=number, count=count)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_ten_processes_at_once_lose_no_entry(tmp_path: Path) -> None:
    path = tmp_path / LEDGER
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=append_many, args=(path, number)) for number in range(10)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    ledger = Ledger(path)
    assert ledger.verify() == []
    first, *entries = ledger.entries()
    assert first.event == "ledger.begun"
    told = [(entry.data["process"], entry.data["count"]) for entry in entries]
    assert sorted(told) == [(number, count) for number in range(10) for count in range(20)]
    for number in range(10):
        assert [count for process, count in told if process == number] == list(range(20))
    assert not list(tmp_path.glob(".tmp-*"))


def test_ten_thousand_entries_are_verified_and_proved_in_time(tmp_path: Path) -> None:
    ledger = Ledger.of(tmp_path)
    ledger.begin()
    (last,) = ledger.entries()
    lines = []
    for count in range(1, MANY):
        data = {"run": RUN, "log_length": count, "log_head": "ab" * 32}
        last = Entry.after(last, last.time, "edit.made", data, Ledger.genesis)
        lines.append(last.line() + b"\n")
    with ledger.path.open("ab") as stream:
        stream.write(b"".join(lines))
    begun = time.process_time()
    view = view_ledger(tmp_path)
    verified = time.process_time() - begun
    assert view is not None
    assert view.check.findings == ()
    assert len(view.lines) == MANY
    head = ledger.head()
    slowest = 0.0
    for index in (0, 4999, MANY - 1):
        begun = time.process_time()
        path = ledger.inclusion(index)
        slowest = max(slowest, time.process_time() - begun)
        assert verify_inclusion(ledger.tree().leaf(index), index, head, path)
    assert verified < 2
    assert slowest < 0.01
    begun = time.process_time()
    ledger.append("edit.made", RUN)
    assert time.process_time() - begun < 0.05


# --- runs in it ---------------------------------------------------------------------------------


def test_every_entry_of_a_run_is_in_the_ledger(tmp_path: Path, make_run: Make) -> None:
    run = make_run(tmp_path / "runs" / "one")
    entries = RunFolder.open(run).log.entries()
    ledger = Ledger.of(workspace_of(run))
    begun, *pointers = ledger.entries()
    assert [entry.event for entry in pointers] == [entry.event for entry in entries]
    assert [entry.data["log_head"] for entry in pointers] == [entry.hash for entry in entries]
    assert [entry.data["log_length"] for entry in pointers] == [1, 2, 3, 4, 5, 6]
    uuid = RunFolder.open(run).record.uuid
    assert {entry.data["run"] for entry in pointers} == {uuid}
    assert entries[0].data["ledger"] == begun.data["uuid"]
    assert codes(run) == []
    assert record(run) is None
    assert len(ledger.entries()) == 7


def test_several_runs_share_one_ledger(tmp_path: Path, make_run: Make) -> None:
    runs = [make_run(tmp_path / name) for name in ("one", "two", "three")]
    report = verify_workspace(tmp_path)
    assert report.findings == ()
    assert [path.name for path, _ in report.runs] == ["one", "three", "two"]
    assert [codes(run) for run in runs] == [[], [], []]
    assert is_workspace(tmp_path)
    assert not is_workspace(runs[0])


def test_a_run_that_was_moved_verifies_by_itself_and_says_so(tmp_path: Path, make_run: Make) -> None:
    run = make_run(tmp_path / "runs" / "one")
    (tmp_path / "elsewhere").mkdir()
    moved = run.rename(tmp_path / "elsewhere" / "one")
    report = verify_run(moved)
    assert report.findings == ()
    assert any("ledger" in note and "by itself" in note for note in report.notes)
    other = make_run(tmp_path / "other" / "two")
    again = Path(shutil.copytree(moved, other.parent / "one"))
    report = verify_run(again)
    assert report.findings == ()
    assert any("another workspace's" in note for note in report.notes)


def test_what_happens_to_a_moved_run_is_in_the_ledger_of_where_it_is(tmp_path: Path, make_run: Make) -> None:
    run = make_run(tmp_path / "runs" / "one")
    (tmp_path / "elsewhere").mkdir()
    moved = run.rename(tmp_path / "elsewhere" / "one")
    RunFolder.open(moved).update("report.written", {"format": "html"})
    assert codes(moved) == []
    ledger = Ledger.of(moved.parent)
    assert [entry.event for entry in ledger.entries()] == ["ledger.begun", "report.written"]


def test_a_ledger_that_was_taken_away_and_begun_anew_is_found(tmp_path: Path, make_run: Make) -> None:
    run = make_run(tmp_path / "runs" / "one")
    (run.parent / LEDGER).unlink()
    assert codes(run) == []
    assert {finding.code for finding in verify_workspace(run.parent).findings} == {"ledger-missing"}
    other = make_run(tmp_path / "runs" / "two")
    assert codes(run) == ["ledger-replaced"]
    assert codes(other) == []
    shutil.rmtree(run)
    assert verify_workspace(run.parent).ok


def test_a_workspace_that_cannot_be_written_keeps_no_ledger(
    tmp_path: Path, make_run: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    import safeedit.evidence.ledger as module

    (tmp_path / "w" / "one").mkdir(parents=True)
    monkeypatch.setattr(module.os, "access", lambda path, mode: Path(path).name != "w")
    run = make_run(tmp_path / "w" / "one")
    assert not (run.parent / LEDGER).exists()
    assert RunFolder.open(run).log.entries()[0].data["ledger"] is None
    report = verify_run(run)
    assert report.findings == ()
    assert any("tells of no ledger" in note for note in report.notes)


def test_a_ledger_is_written_with_the_permissions_of_any_file(tmp_path: Path) -> None:
    Ledger.of(tmp_path).append("edit.made")
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / LEDGER).stat().st_mode & 0o777 == 0o666 & ~umask
