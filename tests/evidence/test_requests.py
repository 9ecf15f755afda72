"""Requests in a workspace's ledger: what may be noted, what is open, what is in the way."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from signed_runs import Clock, make_run

from safeedit.errors import IntegrityError, UsageError
from safeedit.evidence.blockers import blocks_of
from safeedit.evidence.check import age, check
from safeedit.evidence.keyring import Keyring, trust
from safeedit.evidence.ledger import LEDGER
from safeedit.evidence.requests import Request, note, requests_of
from safeedit.evidence.signing import SigningKey
from safeedit.evidence.signoff import decide
from safeedit.evidence.standing import standing_of
from safeedit.reports.gather import gather
from safeedit.reports.publish import publish
from safeedit.runs.folder import RunFolder

CASE = "dsar-2026-0142"
RECEIVED = date(2026, 11, 2)


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFEEDIT_STATE_DIR", str(tmp_path / "state"))


@pytest.fixture
def here(tmp_path: Path) -> Path:
    folder = tmp_path / "workspace"
    folder.mkdir()
    return folder


def codes(request: Request, day: date, clock: Clock) -> list[str]:
    return [block.code for block in blocks_of(request, day, clock)]


def only(workspace: Path) -> Request:
    (found,) = requests_of(workspace)
    return found


def test_a_request_from_receipt_to_its_answer(here: Path) -> None:
    clock = Clock()
    note(here, CASE, "received", on=RECEIVED, clock=clock, regime="gdpr-17")
    assert codes(only(here), RECEIVED, clock) == ["no-run", "not-answered"]
    make_run(here / "run", clock, approvers=1)
    assert codes(only(here), RECEIVED, clock) == ["unsigned", "not-answered"]
    key = SigningKey.generate()
    trust(key.public, "anna", ("approver",), RECEIVED)
    decide(here / "run", key, "approve", clock=clock)
    for status in ("pending", "informed"):
        note(here, CASE, "notified", clock=clock, recipient="processor-2", told=status)
        waiting = ["recipients"] * (status == "pending")
        assert codes(only(here), RECEIVED, clock) == [*waiting, "not-answered"]
    for state in ("pending", "withdrawn"):
        note(here, CASE, "derived", clock=clock, role="quantised", place="registry-1", state=state)
        left = ["artefacts"] * (state == "pending")
        assert codes(only(here), RECEIVED, clock) == [*left, "not-answered"]
    note(here, CASE, "answered", clock=clock, outcome="erased")
    assert codes(only(here), RECEIVED + timedelta(days=90), clock) == []


@pytest.mark.parametrize(
    ("verdict", "code"), [("FAIL", "gate-failed"), ("INCONCLUSIVE", "inconclusive"), ("ERROR", "run-error")]
)
def test_a_run_that_did_not_pass_is_in_the_way(here: Path, verdict: str, code: str) -> None:
    clock = Clock()
    make_run(here / "run", clock, verdict=verdict, approvers=0)
    request = only(here)
    assert (request.regime, request.received) == ("gdpr-17", RECEIVED)
    found = {block.code: block.message for block in blocks_of(request, RECEIVED, clock)}
    assert code in found
    assert ("forgetting.paraphrase" in found[code]) == (verdict == "FAIL")


def test_a_run_that_was_rolled_back_does_not_stand_for_a_request(here: Path) -> None:
    clock = Clock()
    make_run(here / "run", clock, approvers=0)
    assert codes(only(here), RECEIVED, clock) == ["not-answered"]
    RunFolder.open(here / "run").update("rollback.done", status="rolled_back")
    assert codes(only(here), RECEIVED, clock) == ["rolled-back", "not-answered"]


def test_what_is_late_is_told_first(here: Path) -> None:
    clock = Clock()
    note(here, "ccpa-1", "received", on=RECEIVED, clock=clock, regime="ccpa-delete")
    on_time, late = RECEIVED + timedelta(days=45), RECEIVED + timedelta(days=46)
    assert codes(only(here), on_time, clock) == ["not-acknowledged", "no-run", "not-answered"]
    assert codes(only(here), late, clock)[0] == "overdue"
    clock.now += timedelta(days=60)
    note(here, "ccpa-1", "acknowledged", on=date(2026, 11, 10), clock=clock)
    note(here, "ccpa-1", "extended", on=date(2026, 12, 1), clock=clock, reason="complexity")
    assert codes(only(here), late, clock) == ["no-run", "not-answered"]


def test_a_refusal_ends_it_though_recipients_still_count(here: Path) -> None:
    clock = Clock()
    note(here, CASE, "received", on=RECEIVED, clock=clock, regime="gdpr-17")
    note(here, CASE, "refused", clock=clock, ground="legal-claims")
    assert codes(only(here), date(2030, 1, 1), clock) == []
    with pytest.raises(UsageError, match="was answered on"):
        note(here, CASE, "answered", clock=clock, outcome="erased")


def test_the_delete_act_asks_again_every_45_days(here: Path) -> None:
    clock = Clock()
    note(here, CASE, "received", on=RECEIVED, clock=clock, regime="delete-act")
    run = make_run(here / "run", clock, approvers=0)
    note(here, CASE, "answered", clock=clock, outcome="erased")
    assert codes(only(here), RECEIVED + timedelta(days=45), clock) == []
    assert codes(only(here), RECEIVED + timedelta(days=46), clock) == ["cycle-due"]
    clock.now += timedelta(days=40)
    data = {"verdict": "PASS", "grade": "G1", "as_registered": True, "suite": "standard"}
    RunFolder.open(run, clock).update("probes.repeated", data)
    assert codes(only(here), RECEIVED + timedelta(days=85), clock) == []
    assert codes(only(here), RECEIVED + timedelta(days=86), clock) == ["cycle-due"]


@pytest.mark.parametrize(
    ("step", "given", "message"),
    [
        ("notified", {"recipient": "Zebulon Quackenbush", "told": "informed"}, "recipient is one of"),
        ("notified", {"recipient": "processor-2", "told": "we told Zebulon"}, "told is one of"),
        ("derived", {"role": "quantised", "place": "his laptop", "state": "pending"}, "place is one of"),
        (
            "derived",
            {"role": "quantised", "place": "device-1", "state": "pending", "digest": "abc"},
            "SHA-256",
        ),
        ("answered", {}, "outcome is missing"),
        ("identified", {"passport": "X1"}, "has no passport"),
        ("extended", {"reason": "because Zebulon"}, "reason is one of"),
    ],
)
def test_free_text_and_gaps_are_refused(here: Path, step: str, given: dict[str, str], message: str) -> None:
    clock = Clock()
    note(here, CASE, "received", on=RECEIVED, clock=clock, regime="gdpr-17")
    before = (here / LEDGER).read_bytes()
    with pytest.raises(UsageError, match=message) as caught:
        note(here, CASE, step, clock=clock, **given)  # type: ignore[arg-type]
    assert "Zebulon" not in str(caught.value)
    assert (here / LEDGER).read_bytes() == before


def test_days_that_cannot_be_are_refused(here: Path) -> None:
    clock = Clock()
    with pytest.raises(UsageError, match="there is no request"):
        note(here, CASE, "identified", clock=clock)
    with pytest.raises(UsageError, match="yet to come"):
        note(here, CASE, "received", on=date(2026, 11, 4), clock=clock, regime="gdpr-17")
    note(here, CASE, "received", on=RECEIVED, clock=clock, regime="gdpr-17")
    with pytest.raises(UsageError, match="noted as received already"):
        note(here, CASE, "received", on=RECEIVED, clock=clock, regime="gdpr-17")
    with pytest.raises(UsageError, match="before 2026-11-02"):
        note(here, CASE, "identified", on=date(2026, 11, 1), clock=clock)
    clock.now += timedelta(days=40)
    with pytest.raises(UsageError, match="could be extended until 2026-12-02"):
        note(here, CASE, "extended", clock=clock, reason="complexity")
    note(here, "x", "received", clock=clock, regime="internal")
    with pytest.raises(UsageError, match="knows no extension"):
        note(here, "x", "extended", clock=clock, reason="complexity")


def test_nothing_is_believed_of_a_ledger_that_was_changed(here: Path) -> None:
    clock = Clock()
    note(here, CASE, "received", on=RECEIVED, clock=clock, regime="gdpr-17")
    path = here / LEDGER
    path.write_bytes(path.read_bytes().replace(b"gdpr-17", b"safety7"))
    with pytest.raises(IntegrityError, match="nothing can be said of requests"):
        requests_of(here)
    report = check(here, clock=clock)
    assert {one.code for one in report.problems} == {"integrity"}
    assert report.exit_code == 5


def test_check_misses_no_run_that_was_taken_away(here: Path) -> None:
    clock = Clock()
    with pytest.raises(UsageError, match="holds no runs"):
        check(here, clock=clock)
    make_run(here / "run", clock, approvers=0)
    make_run(here / "other", clock, approvers=0)
    assert check(here, clock=clock).ok
    shutil.rmtree(here / "other")
    assert [one.code for one in check(here, clock=clock).problems] == ["integrity"]


def test_check_finds_what_is_not_in_order(here: Path) -> None:
    clock = Clock()
    run = make_run(here / "run", clock, approvers=1)
    assert [one.code for one in check(here, clock=clock).problems] == ["unsigned"]
    clock.now += timedelta(days=40)
    report = check(here, age("30d"), clock)
    assert [one.code for one in report.problems] == ["unsigned", "too-old", "overdue"]
    assert report.exit_code == 1
    changed = json.loads((run / "probes.json").read_text())
    changed["verdict"] = "FAIL"
    (run / "probes.json").write_text(json.dumps(changed))
    report = check(here, clock=clock)
    assert report.problems[0].code == "integrity"
    assert report.exit_code == 5


def test_a_signed_run_is_in_order_until_it_is_probed_with_another_result(here: Path) -> None:
    clock = Clock()
    run = make_run(here / "run", clock, approvers=1)
    key = SigningKey.generate()
    trust(key.public, "anna", ("approver",), RECEIVED)
    decide(run, key, "approve", clock=clock)
    report = check(here, age("30d"), clock)
    assert report.ok, report.problems
    assert (report.runs, report.requests, report.exit_code) == (1, 1, 0)

    def repeated(verdict: str, as_registered: bool) -> None:
        data = {"verdict": verdict, "grade": "G0", "as_registered": as_registered, "suite": "standard"}
        RunFolder.open(run, clock).update("probes.repeated", data)

    clock.now += timedelta(days=25)
    repeated("PASS", True)
    clock.now += timedelta(days=3)
    assert check(here, age("4d"), clock).ok
    repeated("PASS", False)
    clock.now += timedelta(days=2)
    assert [one.code for one in check(here, age("4d"), clock).problems] == ["too-old"]
    repeated("FAIL", True)
    assert [one.code for one in check(here, age("4d"), clock).problems] == ["probing-failed"]


def test_a_clock_that_was_set_back_makes_nothing_younger(here: Path) -> None:
    clock = Clock(datetime(2026, 11, 2, 12, tzinfo=UTC))
    make_run(here / "run", clock, approvers=0)
    earlier = clock.shifted(days=-20)
    assert [one.code for one in check(here, age("30d"), earlier).problems] == ["too-old"]


def test_a_report_tells_of_the_signatures_and_does_not_touch_what_was_signed(here: Path) -> None:
    clock = Clock(datetime(2026, 11, 2, 12, tzinfo=UTC))
    run = make_run(here / "run", clock, approvers=1)
    key = SigningKey.generate()
    trust(key.public, "anna", ("approver",), RECEIVED)
    decide(run, key, "approve", clock=clock)
    note(here, CASE, "notified", clock=clock, recipient="processor-2", told="confirmed")
    text, path = publish(run, "html")
    assert "Approved by as many keys" in text
    assert key.public.key_id in text
    assert "processor-2" in text
    assert path == run / "report.html"
    assert standing_of(run, Keyring.load(), clock).status == "approved"
    assert gather(run).sign_off.status == "approved"
    assert gather(run).request.recipients == {"processor-2": "confirmed"}


@pytest.mark.parametrize("text", ["30", "d", "0d", "-1d", "1y", "30 d", "1.5d"])
def test_an_age_has_a_unit(text: str) -> None:
    with pytest.raises(UsageError, match="30d"):
        age(text)
