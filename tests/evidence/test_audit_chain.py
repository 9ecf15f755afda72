from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeedit.canonical import canonical_json
from safeedit.errors import IntegrityError
from safeedit.runs import audit
from safeedit.runs.audit import EVENTS, AuditLog
from safeedit.runs.chain import GENESIS, Entry, parse_entry, verify_chain
from safeedit.runs.plain import FreeTextError

Clock = Callable[[], datetime]


def chain(length: int = 6) -> list[bytes]:
    entries: list[Entry] = []
    for index in range(length):
        last = entries[-1] if entries else None
        entries.append(
            Entry.after(last, f"2026-11-02T12:00:0{index}.000Z", "probes.measured", {"leaks": index})
        )
    return [entry.line() + b"\n" for entry in entries]


def forged(line: bytes, **changes: object) -> bytes:
    """A line that was changed together with its own hash."""
    entry = parse_entry(line.rstrip(b"\n"))
    assert entry is not None
    body = {**entry.body(), **changes}
    return Entry(**body, hash=Entry(**body, hash="").expected_hash()).line() + b"\n"


def codes(lines: list[bytes], length: int | None = None, head: str | None = None) -> list[str]:
    return [finding.code for finding in verify_chain(b"".join(lines), "audit.jsonl", length, head)]


LINES = chain()
HEAD = json.loads(LINES[-1])["hash"]


def test_an_untouched_chain_has_no_findings() -> None:
    assert codes(LINES, 6, HEAD) == codes([]) == []


@given(st.integers(0, len(b"".join(LINES)) - 1), st.integers(0, 7))
def test_any_flipped_bit_is_found(offset: int, bit: int) -> None:
    content = bytearray(b"".join(LINES))
    content[offset] ^= 1 << bit
    assert verify_chain(bytes(content), "audit.jsonl")


@pytest.mark.parametrize("at", range(6))
def test_an_edited_entry_says_so(at: int) -> None:
    lines = [*LINES]
    lines[at] = lines[at].replace(f'"leaks":{at}'.encode(), b'"leaks":9')
    (finding,) = verify_chain(b"".join(lines), "audit.jsonl", 6, HEAD)
    assert finding.code == "log-edited"
    assert f"line {at + 1} was edited" in finding.message


def test_white_space_is_an_edit_too() -> None:
    assert codes([LINES[0].replace(b":", b": ", 1), *LINES[1:]]) == ["log-edited"]


@pytest.mark.parametrize("at", range(5))
def test_a_dropped_entry_says_so(at: int) -> None:
    (finding,) = verify_chain(b"".join(LINES[:at] + LINES[at + 1 :]), "audit.jsonl", 6, HEAD)
    assert finding.code == "log-dropped"
    assert finding.message == f"entry {at} is gone"


def test_several_dropped_entries_say_so() -> None:
    (finding,) = verify_chain(b"".join([LINES[0], *LINES[4:]]), "audit.jsonl", 6, HEAD)
    assert (finding.code, finding.message) == ("log-dropped", "3 before entry 4 are gone")


@given(st.permutations(range(6)))
def test_reordered_entries_say_so(order: list[int]) -> None:
    found = set(codes([LINES[index] for index in order], 6, HEAD))
    assert found == (set() if order == sorted(order) else {"log-reordered"})


def test_a_repeated_entry_says_so() -> None:
    assert codes([*LINES[:3], LINES[1], *LINES[3:]], 6, HEAD) == ["log-duplicated"]


@pytest.mark.parametrize("kept", range(6))
def test_a_truncated_log_says_so_where_its_length_is_known(kept: int) -> None:
    assert codes(LINES[:kept]) == []
    (finding,) = verify_chain(b"".join(LINES[:kept]), "audit.jsonl", 6, HEAD)
    assert finding.code == "log-truncated"


def test_an_entry_replaced_with_its_hash_breaks_the_chain() -> None:
    assert codes([*LINES[:2], forged(LINES[2], data={"leaks": 0}), *LINES[3:]]) == ["log-broken"]
    assert codes([forged(LINES[0], prev="1" * 64), *LINES[1:]]) == ["log-broken", "log-broken"]


def test_a_log_rewritten_as_a_whole_is_found_by_its_head() -> None:
    other: list[Entry] = []
    for index in range(6):
        last = other[-1] if other else None
        other.append(Entry.after(last, "2026-11-02T12:00:00.000Z", "edit.made", {"leaks": index}))
    lines = [entry.line() + b"\n" for entry in other]
    assert codes(lines) == []
    assert codes(lines, 6, HEAD) == ["log-rewritten"]


@pytest.mark.parametrize(
    "line",
    [
        *[b"not json", b"[]", b"{}", b"\xff", b"null", b"1" * 5000, b"[" * 100_000],
        LINES[0].strip().replace(b'"seq":0', b'"seq":true'),
        LINES[0].strip().replace(b'"leaks":0', b'"leaks":NaN'),
        LINES[0].strip().replace(GENESIS.encode(), b"g" * 64),
        LINES[0].strip().replace(b"{", b'{"extra":1,', 1),
    ],
)
def test_a_line_that_is_no_entry_says_so(line: bytes) -> None:
    assert codes([line + b"\n", *LINES[1:]]) == ["log-bad-json"]


def test_a_huge_sequence_number_costs_nothing() -> None:
    assert codes([*LINES, forged(LINES[5], seq=10**15)]) == ["log-dropped"]


def test_the_hash_is_the_documented_one() -> None:
    first, second = json.loads(LINES[0]), json.loads(LINES[1])
    stated = second.pop("hash")
    assert first["prev"] == GENESIS
    assert (
        stated == hashlib.sha256(b"\x02" + bytes.fromhex(first["hash"]) + canonical_json(second)).hexdigest()
    )


# --- the file -----------------------------------------------------------------------------------


@pytest.fixture
def log(tmp_path: Path, clock: Clock) -> AuditLog:
    return AuditLog.create(tmp_path / "audit.jsonl", clock)


def test_appended_entries_are_read_back_and_verify(log: AuditLog) -> None:
    first = log.append("run.started", id="2026-0142", seed=1)
    second = log.append("edit.made", layers=(3, 4), seconds=1.0, digest="f" * 64)
    again = AuditLog.open(log.path)
    assert again.entries() == (first, second)
    assert second.data == {"layers": [3, 4], "seconds": 1, "digest": "f" * 64}
    assert second.prev == first.hash
    assert first.time < second.time
    assert again.verify(2, second.hash) == []


def test_free_text_is_refused_and_not_repeated(log: AuditLog, canaries: dict[str, str]) -> None:
    for text in canaries.values():
        with pytest.raises(FreeTextError) as caught:
            log.append("edit.refused", reason=text)
        assert text not in str(caught.value)
        assert "data.reason" in str(caught.value)
    assert log.path.read_bytes() == b""


def test_an_event_outside_the_vocabulary_is_refused(log: AuditLog) -> None:
    with pytest.raises(ValueError, match="unknown event"):
        log.append("Zebulon Quackenbush called")  # type: ignore[arg-type]
    assert {"run.started", "run.finished", "rollback.done", "vault.shredded"} <= EVENTS


def test_a_log_is_never_begun_over_another(log: AuditLog, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError):
        AuditLog.create(log.path)
    with pytest.raises(IntegrityError, match="is missing"):
        AuditLog.open(tmp_path / "none.jsonl")


@pytest.mark.parametrize("cut", [2, 10, 100])
@pytest.mark.parametrize("more", [b"", b'\n{"data":{', b"\n"])
def test_what_a_kill_left_stays_and_the_next_entry_tells_of_it(log: AuditLog, cut: int, more: bytes) -> None:
    first = log.append("run.started")
    whole = log.path.read_bytes()
    log.append("edit.made")
    half = log.path.read_bytes()[:-cut] + more
    log.path.write_bytes(half)
    again = AuditLog.open(log.path)
    assert [finding.code for finding in again.verify()] == [
        "log-bad-json" if more == b"\n" else "log-half-line"
    ]
    assert again.entries() == (first,)
    second = again.append("edit.made", tensors=2)
    left = half[len(whole) :].removesuffix(b"\n")
    assert second.prev == first.hash
    assert second.data == {
        "tensors": 2,
        "repaired": {"bytes": len(left), "sha256": hashlib.sha256(left).hexdigest()},
    }
    third = again.append("probes.measured")
    assert third.data == {}
    assert log.path.read_bytes().startswith(half)
    assert again.verify(3, third.hash) == []
    assert again.entries() == (first, second, third)


def test_a_last_line_without_its_end_is_an_entry_all_the_same(log: AuditLog) -> None:
    first = log.append("run.started")
    second = log.append("edit.made")
    content = log.path.read_bytes()
    log.path.write_bytes(content[:-1])
    assert [finding.code for finding in log.verify()] == ["log-half-line"]
    third = log.append("probes.measured")
    assert log.path.read_bytes().startswith(content)
    assert log.entries() == (first, second, third)
    assert log.verify() == []


def test_a_repair_that_tells_of_other_bytes_is_no_excuse(log: AuditLog) -> None:
    log.append("run.started")
    with log.path.open("ab") as stream:
        stream.write(b'{"data":{"half')
    log.append("edit.made")
    content = log.path.read_bytes()
    log.path.write_bytes(content.replace(b'{"data":{"half', b'{"data":{"calf'))
    assert [finding.code for finding in log.verify()] == ["log-bad-json"]


def test_nothing_is_added_to_a_last_entry_that_was_edited(log: AuditLog) -> None:
    log.append("run.started", facts=3)
    content = log.path.read_bytes().replace(b'"facts":3', b'"facts":2')
    log.path.write_bytes(content)
    with pytest.raises(IntegrityError, match="last entry was edited"):
        log.append("edit.made")
    assert log.path.read_bytes() == content


def test_what_the_log_says_of_itself_cannot_be_given(log: AuditLog) -> None:
    with pytest.raises(ValueError, match="repaired"):
        log.append("edit.made", repaired={"bytes": 1})


@pytest.mark.parametrize(
    ("times", "found"),
    [
        (["12:00:00", "12:00:01", "12:00:01"], []),
        (["12:00:30", "12:00:00", "12:01:00"], []),
        (["12:00:00", "11:58:00", "12:01:00"], ["clock-back"]),
        (["12:00:00", "noon", "12:01:00"], ["clock-unreadable"]),
    ],
)
def test_a_clock_that_was_set_back_says_so(times: list[str], found: list[str]) -> None:
    entries: list[Entry] = []
    for time in times:
        last = entries[-1] if entries else None
        stamp = f"2026-11-02T{time}.000Z" if ":" in time else "1 noon"
        entries.append(Entry.after(last, stamp, "edit.made", {}))
    assert codes([entry.line() + b"\n" for entry in entries]) == found


def test_a_clock_that_was_set_back_is_named_with_the_entry(log: AuditLog) -> None:
    early = Entry.after(None, "2026-11-02T12:00:00.000Z", "edit.made", {})
    late = Entry.after(early, "2026-11-01T12:00:00.000Z", "edit.made", {})
    (finding,) = verify_chain(early.line() + b"\n" + late.line() + b"\n", "audit.jsonl")
    assert finding.message == "the clock was set back by 86400 s between entry 0 and entry 1"


def test_a_write_that_fails_half_way_leaves_no_trace(log: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    log.append("run.started")
    before = log.path.read_bytes()
    write = os.write

    def full_disk(handle: int, data: bytes) -> int:
        write(handle, data[:20])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(audit.os, "write", full_disk)
        with pytest.raises(OSError, match="No space"):
            log.append("edit.made")
    assert log.path.read_bytes() == before
    log.append("edit.made")
    assert log.verify() == []


def test_short_writes_are_continued(log: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(audit.os, "write", lambda handle, data: write(handle, data[:7]))
    log.append("run.started")
    assert log.verify() == []


def append_many(path: Path) -> None:
    log = AuditLog.open(path)
    for _ in range(20):
        log.append("probes.measured", leaks=0)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_processes_that_append_at_once_keep_one_chain(log: AuditLog) -> None:
    processes = [
        multiprocessing.get_context("fork").Process(target=append_many, args=(log.path,)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert len(log.entries()) == 60
    assert log.verify() == []
