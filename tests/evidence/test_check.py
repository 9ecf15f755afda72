"""`check`: what must not be passed over when a workspace is asked about."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from signed_runs import ALICE, BOB, Clock, approve, make_run, probe_again

from safeedit.evidence.blockers import blocks_of
from safeedit.evidence.check import CheckReport, age, check
from safeedit.evidence.keyring import Keyring, trust
from safeedit.evidence.requests import note, requests_of
from safeedit.evidence.workspace import verify_workspace
from safeedit.runs.folder import RunFolder
from safeedit.runs.listing import list_runs
from safeedit.runs.lock import RunLock

CASE = "dsar-2026-0142"
RECEIVED = date(2026, 11, 2)
RISK = "residual-leak-mitigated-elsewhere"


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFEEDIT_STATE_DIR", str(tmp_path / "state"))
    for name, key in (("alice", ALICE), ("bob", BOB)):
        trust(key.public, name, ("approver",), date(2026, 11, 1))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def here(tmp_path: Path) -> Path:
    folder = tmp_path / "workspace"
    folder.mkdir()
    return folder


def ring() -> Keyring:
    return Keyring.load()


def codes(report: CheckReport) -> list[tuple[str, str]]:
    return [(one.code, one.where) for one in report.problems]


def blocks(here: Path, clock: Clock) -> list[str]:
    (request,) = requests_of(here)
    return [block.code for block in blocks_of(request, RECEIVED, clock)]


def answer(here: Path, clock: Clock, outcome: str = "erased") -> None:
    note(here, CASE, "received", on=RECEIVED, clock=clock, regime="gdpr-17")
    note(here, CASE, "answered", clock=clock, outcome=outcome)


def roll_back(run: Path, clock: Clock) -> None:
    RunFolder.open(run, clock).update("rollback.done", status="rolled_back")


def fail(path: Path, clock: Clock) -> Path:
    with RunFolder.create(path, CASE, clock=clock) as run:
        run.note("policy.registered", regime="gdpr-17", received="2026-11-02")
        run.abort(RuntimeError("Zebulon Quackenbush"))
    return path


@contextmanager
def written(run: Path) -> Iterator[None]:
    """While another process holds the run."""
    lock = RunLock(run)
    try:
        yield
    finally:
        lock.release()


# --- requests that were closed, and are open again -----------------------------------------------


def test_a_request_whose_run_was_rolled_back_is_open_again(here: Path, clock: Clock) -> None:
    run = make_run(here / "one", clock, approvers=1)
    approve(run, ALICE, clock, ring())
    answer(here, clock)
    assert check(here, clock=clock).ok
    roll_back(run, clock)
    report = check(here, clock=clock)
    assert codes(report) == [("request-open-again", CASE)]
    assert report.exit_code == 1
    assert "rolled back" in report.problems[0].message


@pytest.mark.parametrize(
    ("outcome", "open_again"), [("erased", True), ("partly", True), ("nothing-held", False)]
)
def test_a_request_that_was_answered_without_a_run(
    here: Path, clock: Clock, outcome: str, open_again: bool
) -> None:
    answer(here, clock, outcome)
    assert [code for code, _ in codes(check(here, clock=clock))] == ["request-open-again"] * open_again


def test_a_refused_request_needs_no_run(here: Path, clock: Clock) -> None:
    run = make_run(here / "one", clock, approvers=0)
    note(here, CASE, "refused", clock=clock, ground="legal-claims")
    roll_back(run, clock)
    assert check(here, clock=clock).ok


def test_a_request_that_was_answered_over_an_error(here: Path, clock: Clock) -> None:
    make_run(here / "one", clock, approvers=0, verdict="ERROR")
    answer(here, clock)
    report = check(here, clock=clock)
    assert codes(report) == [("error", "one"), ("request-open-again", CASE)]
    assert report.exit_code == 4


def test_another_run_that_was_taken_back_does_not_open_what_stands(here: Path, clock: Clock) -> None:
    make_run(here / "one", clock, approvers=0)
    other = make_run(here / "two", clock, approvers=0)
    answer(here, clock)
    roll_back(other, clock)
    assert check(here, clock=clock).ok
    assert blocks(here, clock) == []
    (request,) = requests_of(here)
    assert request.run is not None
    assert request.run.path.name == "one"


# --- runs that failed, and runs that are being written -------------------------------------------


def test_a_run_that_failed_is_told_until_another_took_its_place(here: Path, clock: Clock) -> None:
    fail(here / "one", clock)
    report = check(here, clock=clock)
    assert codes(report) == [("error", "one")]
    assert report.exit_code == 4
    assert "Zebulon" not in str(report.problems[0])
    make_run(here / "two", clock, approvers=0)
    assert check(here, clock=clock).ok


def test_a_run_that_failed_after_the_one_that_stands_is_told(here: Path, clock: Clock) -> None:
    make_run(here / "two", clock, approvers=0)
    fail(here / "three", clock)
    assert codes(check(here, clock=clock)) == [("error", "three")]


def test_a_run_that_failed_under_a_refused_request_is_over(here: Path, clock: Clock) -> None:
    fail(here / "one", clock)
    note(here, CASE, "refused", clock=clock, ground="legal-claims")
    assert check(here, clock=clock).ok


def test_a_failed_run_under_a_closed_request_is_both(here: Path, clock: Clock) -> None:
    fail(here / "one", clock)
    note(here, CASE, "answered", clock=clock, outcome="erased")
    assert codes(check(here, clock=clock)) == [("error", "one"), ("request-open-again", CASE)]


@pytest.mark.parametrize(
    ("verdict", "told", "code"),
    [
        ("PASS", [], 1),
        ("FAIL", ["not-passed"], 1),
        ("INCONCLUSIVE", ["undecided"], 1),
        ("ERROR", ["error"], 4),
    ],
)
def test_who_holds_a_run_hides_nothing_of_it(
    here: Path, clock: Clock, verdict: str, told: list[str], code: int
) -> None:
    run = make_run(here / "one", clock, verdict=verdict, approvers=0)
    without = codes(check(here, clock=clock))
    assert [one for one, _ in without] == told
    with written(run):
        report = check(here, clock=clock)
        assert sorted(codes(report)) == sorted([("not-checked", "one"), *without])
        assert report.exit_code == code
        assert report.requests == 1
    assert codes(check(here, clock=clock)) == without


def test_a_request_whose_run_is_held_is_neither_done_nor_open_again(here: Path, clock: Clock) -> None:
    run = make_run(here / "one", clock, approvers=0)
    answer(here, clock)
    with written(run):
        assert codes(check(here, clock=clock)) == [("not-checked", "one")]
        assert blocks(here, clock) == ["unverifiable"]
    assert blocks(here, clock) == []


def test_a_run_that_is_held_while_it_is_changed_is_not_called_tampered_with(here: Path, clock: Clock) -> None:
    """Half of a change is on the disk; that is no finding while its writer lives."""
    run = make_run(here / "one", clock, approvers=1)
    approve(run, ALICE, clock, ring())
    log = (run / "audit.jsonl").read_bytes()
    with written(run):
        (run / "audit.jsonl").write_bytes(log + b'{"seq": 9')
        (run / "patch" / "patch.json").write_text("half")
        report = check(here, clock=clock)
        assert codes(report) == [("not-checked", "one")]
        assert report.exit_code == 1
    assert check(here, clock=clock).exit_code == 5


def test_a_run_in_progress_is_unfinished_and_says_so(here: Path, clock: Clock) -> None:
    with RunFolder.create(here / "one", CASE, clock=clock) as run:
        run.note("policy.registered", regime="gdpr-17", received="2026-11-02")
        (problem,) = check(here, clock=clock).problems
        assert (problem.code, problem.exit_code) == ("unfinished", 1)
        assert "being written now" in problem.message
        run.abort(KeyboardInterrupt())
    (problem,) = check(here, clock=clock).problems
    assert (problem.code, "interrupted" in problem.message) == ("unfinished", True)


def test_a_run_that_appears_while_others_are_looked_at(
    here: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(here / "one", clock, approvers=0)

    def verified_before(folder: Any) -> Any:
        report = verify_workspace(folder)
        make_run(here / "two", clock, verdict="FAIL", approvers=0)
        return report

    monkeypatch.setattr("safeedit.evidence.check.verify_workspace", verified_before)
    assert ("not-checked", "two") in codes(check(here, clock=clock))


def test_a_list_tells_what_the_record_of_a_held_run_says(here: Path, clock: Clock) -> None:
    run = make_run(here / "one", clock)
    with written(run):
        (summary,) = list_runs(here)
    assert (summary.status, summary.recorded) == ("running", "finished")
    assert json.loads(json.dumps(summary.to_json()))["recorded"] == "finished"


# --- what was measured last ----------------------------------------------------------------------


def test_a_later_measurement_is_told_until_it_is_approved_with_its_risk(here: Path, clock: Clock) -> None:
    run = make_run(here / "one", clock, approvers=1)
    approve(run, ALICE, clock, ring())
    answer(here, clock)
    probe_again(run, clock, "FAIL")
    assert codes(check(here, clock=clock)) == [("probing-failed", "one")]
    assert blocks(here, clock) == ["probing-failed"]
    approve(run, ALICE, clock, ring(), accept_risk=RISK)
    assert check(here, age("30d"), clock).ok
    assert blocks(here, clock) == []
    probe_again(run, clock, "FAIL")
    assert codes(check(here, clock=clock)) == [("probing-failed", "one")]
    probe_again(run, clock, "PASS")
    assert check(here, clock=clock).ok


def test_nobody_has_to_sign_and_still_a_later_failure_is_told(here: Path, clock: Clock) -> None:
    run = make_run(here / "one", clock, approvers=0)
    probe_again(run, clock, "INCONCLUSIVE")
    assert codes(check(here, clock=clock)) == [("probing-failed", "one")]
    assert blocks(here, clock) == ["probing-failed", "not-answered"]


def test_a_risk_that_was_taken_is_not_made_worse_by_a_pass(here: Path, clock: Clock) -> None:
    run = make_run(here / "one", clock, approvers=1, verdict="FAIL")
    approve(run, ALICE, clock, ring(), accept_risk=RISK)
    assert check(here, clock=clock).ok
    probe_again(run, clock, "PASS")
    assert check(here, clock=clock).ok
