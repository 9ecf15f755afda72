from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

pytest.importorskip("rfc3161_client")

from authority import Authority, serving
from workspaces import KEY, RING, Clock, make_run

from safeedit.errors import UsageError
from safeedit.evidence.checkpoints import CHECKPOINTS, checkpoint
from safeedit.evidence.timestamps import (
    ROOTS_VARIABLE,
    Authorities,
    TimestampError,
    check_stamp,
    stamp_time,
    stamper,
)
from safeedit.evidence.workspace import verify_workspace

DATA = b"a checkpoint, say"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def url(authority: Authority) -> Iterator[str]:
    authority.broken = None
    with serving(authority) as address:
        yield address


def codes(token: bytes, data: bytes, trusted: Authorities) -> list[str]:
    return [found.code for found in check_stamp(token, data, "checkpoints.jsonl", 1, trusted).findings]


def test_a_token_is_over_the_data_and_tells_the_authoritys_time(url: str, authority: Authority) -> None:
    token = stamper(url)(DATA)
    assert stamp_time(token, DATA) == authority.now
    assert stamp_time(token, DATA + b"x") is None
    trusted = Authorities((authority.root,))
    check = check_stamp(token, DATA, "checkpoints.jsonl", 3, trusted)
    assert check.outcome == "ok"
    assert "line 3 existed at" in check.said


def test_only_a_digest_is_sent(url: str, authority: Authority) -> None:
    stamper(url)(DATA)
    (sent,) = authority.asked[-1:]
    assert DATA not in sent
    assert hashlib.sha256(DATA).digest() in sent
    assert len(sent) < 100


def test_a_token_of_something_else_or_of_somebody_else_is_found(url: str, authority: Authority) -> None:
    token, trusted = stamper(url)(DATA), Authorities((authority.root,))
    assert codes(token, DATA, trusted) == []
    assert codes(token, b"other", trusted) == ["timestamp-invalid"]
    assert codes(token[:-3], DATA, trusted) == ["timestamp-invalid"]
    assert codes(b"rubbish", DATA, trusted) == ["timestamp-invalid"]
    assert codes(token, DATA, Authorities((Authority("Other").root,))) == ["timestamp-invalid"]
    forged = Authority()
    forged.now = authority.now - timedelta(days=300)
    assert codes(forged.reply(authority.asked[-1]), DATA, trusted) == ["timestamp-invalid"]


def test_any_flipped_bit_of_a_token_is_found(url: str, authority: Authority) -> None:
    token, trusted = stamper(url)(DATA), Authorities((authority.root,))
    missed = []
    for offset in range(0, len(token), 5):
        changed = bytearray(token)
        changed[offset] ^= 1 << offset % 8
        time = stamp_time(bytes(changed), DATA)
        if codes(bytes(changed), DATA, trusted) == [] and time != authority.now:
            missed.append(offset)
    assert missed == []


@pytest.mark.parametrize("broken", ["nonce", "digest", "refused", "rubbish"])
def test_a_reply_that_does_not_fit_is_refused(broken: str, url: str, authority: Authority) -> None:
    authority.broken = broken
    with pytest.raises(TimestampError, match="no token that fits") as caught:
        stamper(url)(DATA)
    assert caught.value.exit_code == 4


def test_an_authority_that_does_not_answer_is_said(url: str) -> None:
    ask = stamper("http://127.0.0.1:9/")
    with pytest.raises(TimestampError, match="did not answer"):
        ask(DATA)
    with pytest.raises(UsageError, match="http or https"):
        stamper("file:///etc/passwd")


def test_a_checkpoint_can_be_stamped(
    url: str, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, clock = tmp_path / "runs", Clock()
    make_run(workspace / "one", clock)
    clock.now = authority.now
    made = checkpoint(workspace, [KEY], stamper(url), clock=clock)
    assert made.stamp is not None

    def timestamps() -> list[tuple[str, tuple[str, ...]]]:
        report = verify_workspace(workspace, RING)
        assert report.findings == ()
        found = [check for check in report.checks if "timestamp" in check.what]
        return [(check.outcome, check.notes) for check in found]

    ((outcome, notes),) = timestamps()
    assert outcome == "not checked"
    assert "none is trusted here" in notes[0]
    (tmp_path / "roots.pem").write_bytes(authority.pem())
    monkeypatch.setenv(ROOTS_VARIABLE, str(tmp_path / "roots.pem"))
    assert timestamps() == [("ok", ())]
    (tmp_path / "roots.pem").write_bytes(Authority("Other").pem())
    report = verify_workspace(workspace, RING)
    assert [found.code for found in report.findings] == ["timestamp-invalid"]
    monkeypatch.setenv(ROOTS_VARIABLE, str(tmp_path / "none.pem"))
    with pytest.raises(UsageError, match="no certificates"):
        verify_workspace(workspace, RING)


def test_a_checkpoint_that_was_dated_back_is_found(
    url: str, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, clock = tmp_path / "runs", Clock()
    make_run(workspace / "one", clock)
    checkpoint(workspace, [KEY], stamper(url), clock=clock)
    assert verify_workspace(workspace, RING).ok
    (tmp_path / "roots.pem").write_bytes(authority.pem())
    monkeypatch.setenv(ROOTS_VARIABLE, str(tmp_path / "roots.pem"))
    (finding,) = verify_workspace(workspace, RING).findings
    assert finding.code == "clock-back"
    assert "line 1 was signed at 2024-11-02" in finding.message


def test_where_no_token_comes_nothing_is_signed(url: str, authority: Authority, tmp_path: Path) -> None:
    workspace, clock = tmp_path / "runs", Clock()
    make_run(workspace / "one", clock)
    authority.broken = "refused"
    with pytest.raises(TimestampError):
        checkpoint(workspace, [KEY], stamper(url), clock=clock)
    assert not (workspace / CHECKPOINTS).exists()
    assert verify_workspace(workspace, RING).ok


def test_without_the_package_a_stamp_is_not_checked_and_not_found_wrong(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = stamper(url)(DATA)
    monkeypatch.setitem(sys.modules, "rfc3161_client", None)
    check = check_stamp(token, DATA, "checkpoints.jsonl", 1, Authorities())
    assert check.outcome == "not checked"
    assert "safeedit[timestamps]" in check.notes[0]
    with pytest.raises(UsageError, match="rfc3161-client"):
        stamper(url)
