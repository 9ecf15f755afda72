"""The probes again, on a run's model and on any model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from run_cases import JOB, MUSIC, NEW_JOB, PERSON, UNKNOWN

import safeedit
from safeedit.errors import ProbeError, UsageError
from safeedit.probes import controls
from safeedit.probes.controls import ControlFact, Controls


def test_a_run_gives_the_same_figures_again_and_the_log_says_so(modified: Any, modified_copy: Path) -> None:
    recorded = (modified_copy / "probes.json").read_bytes()
    report = safeedit.probe(modified_copy)
    assert report.to_json() == json.loads(recorded)
    assert (modified_copy / "probes.json").read_bytes() == recorded
    last = json.loads((modified_copy / "audit.jsonl").read_text().splitlines()[-1])
    assert last["event"] == "probes.repeated"
    assert last["data"]["as_registered"] is True
    assert last["data"]["verdict"] == modified.verdict
    assert safeedit.verify(modified_copy).ok


def test_after_a_rollback_the_old_answer_is_back(modified_copy: Path) -> None:
    safeedit.rollback(modified_copy)
    report = safeedit.probe(modified_copy)
    verdicts = {result.id: result.verdict for result in report.results}
    assert verdicts["success.old_answer"] == "FAIL"
    assert report.exit_code == 1


def test_controls_that_changed_since_are_an_error_and_not_a_verdict(
    modified_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import safeedit.runs.measuring as measuring

    real = controls.load_controls

    def changed(*args: Any) -> Controls:
        found = real(*args)
        return Controls((*found.facts[:-1], ControlFact(PERSON, "phone", "000-000")), found.texts[:-1])

    monkeypatch.setattr(measuring, "load_controls", changed)
    log = (modified_copy / "audit.jsonl").read_bytes()
    with pytest.raises(ProbeError, match="not those that the run registered") as caught:
        safeedit.probe(modified_copy)
    assert caught.value.exit_code == 4
    assert (modified_copy / "audit.jsonl").read_bytes() == log


def test_another_suite_may_be_asked_for_and_is_told_apart(modified_copy: Path, tmp_path: Path) -> None:
    suite = tmp_path / "own.yaml"
    suite.write_text(
        "name: own\nevidence: false\nprobes:\n"
        "  - {id: success.direct, options: {tokens: 8, templates: 1}, "
        "gates: [{on: after, op: '>=', value: 0.5}]}\n"
    )
    report = safeedit.probe(modified_copy, suite=suite)
    assert [result.id for result in report.results] == ["success.direct"]
    last = json.loads((modified_copy / "audit.jsonl").read_text().splitlines()[-1])
    assert (last["data"]["suite"], last["data"]["as_registered"]) == ("own", False)


def test_a_model_is_its_own_baseline_and_what_it_says_is_a_leak(given: Any, write_policy: Any) -> None:
    report = safeedit.probe(model=given.pair, policy=write_policy(facts=[MUSIC]))
    direct = next(result for result in report.results if result.id == "forgetting.direct")
    assert (direct.before, direct.after, direct.verdict) == (1.0, 1.0, "FAIL")
    assert report.exit_code == 1


def test_what_a_model_does_not_say_is_no_baseline(nobody: str, given: Any, write_policy: Any) -> None:
    report = safeedit.probe(model=given.pair, policy=write_policy(facts=[UNKNOWN]))
    assert (report.verdict, report.exit_code) == ("NO_BASELINE", 3)
    asked = write_policy(subjects=[{"name": nobody, "relations": ["phone"]}])
    assert safeedit.probe(model=given.pair, policy=asked).verdict == "NO_BASELINE"


def test_two_models_are_compared(modified: Any, given: Any, write_policy: Any) -> None:
    edited = safeedit.load(modified.path)
    policy = write_policy("modify", facts=[{**JOB, "new_object": NEW_JOB}])
    report = safeedit.probe(model=edited, policy=policy, base=given.pair)
    success = next(result for result in report.results if result.id == "success.direct")
    assert (success.before, success.after) == (0.0, 1.0)


def test_either_a_run_or_a_policy(modified: Any, write_policy: Any) -> None:
    with pytest.raises(UsageError, match="give a run"):
        safeedit.probe()
    with pytest.raises(UsageError, match="not both"):
        safeedit.probe(modified.path, policy=write_policy(facts=[MUSIC]))
