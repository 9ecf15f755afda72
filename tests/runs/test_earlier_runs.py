"""A run on a run is held to what the runs below it did: its verdict says so where an edit undoes them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import planted_editors
import pytest
from run_cases import JOB, MUSIC, NEW_JOB, OTHER, PERSON, fact

import safeedit
from safeedit.editors import EDITORS
from safeedit.errors import ProbeError
from safeedit.patch import DenseDelta, Patch
from safeedit.triples.facts import Edit

ERASED, TAUGHT = "locality.erased_before", "locality.taught_before"
SUITE = f"""
name: lineage
probes:
  - id: {ERASED}
    gates: [{{on: leaks, op: <=, value: 0}}]
  - id: {TAUGHT}
    gates: [{{on: losses, op: <=, value: 0}}]
"""
TEXTS = (PERSON, OTHER, MUSIC["object"], JOB["object"], NEW_JOB)


class Undoing(planted_editors.Planted):
    """Puts back what the model was before the run below."""

    name = "undoing"
    below: ClassVar[Path]
    first: ClassVar[Any]
    """The model that the run below started from."""

    def act(self, model: Any, edits: Sequence[Edit]) -> Patch:
        was, now = dict(self.first.named_parameters()), dict(model.named_parameters())
        changed = Patch.load(self.below / "patch").deltas
        deltas = {name: DenseDelta((was[name] - now[name]).detach()) for name in changed}
        return Patch.of(model, deltas, editor=self.name)


@pytest.fixture(autouse=True)
def _undoing(reference: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EDITORS._targets, "undoing", f"{__name__}:Undoing")
    Undoing.first = reference.model


@pytest.fixture
def below(modified_copy: Path) -> Path:
    """A run that gave somebody a new occupation, so that the old one is gone."""
    Undoing.below = modified_copy
    return modified_copy


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "lineage.yaml"
    path.write_text(SUITE)
    return path


def verdicts(run: Any) -> dict[str, str]:
    return {result.id: result.verdict for result in run.probes}


def test_an_edit_that_undoes_an_earlier_one_fails(
    below: Path, suite: Path, write_policy: Any, tmp_path: Path
) -> None:
    policy = write_policy(id="march", facts=[MUSIC])
    asked = {
        editor: safeedit.apply(policy, below, tmp_path / editor, editor=editor, suite=suite)
        for editor in ("idle", "undoing")
    }
    assert verdicts(asked["idle"]) == {ERASED: "PASS", TAUGHT: "PASS"}
    assert verdicts(asked["undoing"]) == {ERASED: "FAIL", TAUGHT: "FAIL"}
    assert (asked["undoing"].verdict, asked["undoing"].record.exit_code) == ("FAIL", 1)
    for run in asked.values():
        report = run.path / "probes.json"
        results = {row["id"]: row for row in json.loads(report.read_text())["results"]}
        assert (results[ERASED]["n"], results[TAUGHT]["n"]) == (1, 1)
        shown = report.read_text() + (run.path / "audit.jsonl").read_text()
        assert not any(text in shown for text in TEXTS)


def test_the_probes_of_a_run_on_a_run_are_put_again(
    below: Path, suite: Path, write_policy: Any, tmp_path: Path
) -> None:
    run = safeedit.apply(write_policy(facts=[MUSIC]), below, tmp_path / "new", editor="undoing", suite=suite)
    recorded = json.loads((run.path / "probes.json").read_text())
    assert safeedit.probe(run.path).to_json() == recorded
    above = safeedit.apply(
        write_policy(facts=[fact(OTHER, "phone")]), run, tmp_path / "third", editor="idle", suite=suite
    )
    found = {result.id: result.figures for result in above.probes}
    assert found[ERASED].detail["facts"] == 2, "of every run below"


def test_what_the_new_policy_replaces_is_not_held_against_it(
    below: Path, suite: Path, write_policy: Any, tmp_path: Path
) -> None:
    policy = write_policy("insert", facts=[JOB], id="anew")
    run = safeedit.apply(
        policy, below, tmp_path / "anew", editor="undoing", suite=suite, on_conflict="replace"
    )
    assert verdicts(run) == {ERASED: "SKIPPED", TAUGHT: "SKIPPED"}


def test_an_earlier_request_whose_key_is_gone_keeps_the_run_from_passing(
    below: Path, suite: Path, write_policy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = write_policy(facts=[MUSIC])
    made = safeedit.apply(policy, below, tmp_path / "made", editor="idle", suite=suite)
    keys = Path(shutil.copytree(_keys(), tmp_path / "state" / "keys"))
    (keys / f"{json.loads((below / 'run.json').read_text())['uuid']}.key").unlink()
    monkeypatch.setenv("SAFEEDIT_STATE_DIR", str(tmp_path / "state"))
    run = safeedit.apply(policy, below, tmp_path / "new", editor="idle", suite=suite)
    assert verdicts(run) == {ERASED: "INCONCLUSIVE", TAUGHT: "INCONCLUSIVE"}
    assert run.verdict == "INCONCLUSIVE"
    assert {result.figures.detail["unreadable_runs"] for result in run.probes} == {1}
    [warning] = run.warnings
    assert "nor whether what it did still holds" in warning
    with pytest.raises(ProbeError, match="a run below it can no longer be read"):
        safeedit.probe(made.path)


def _keys() -> Path:
    from safeedit.runs.keys import state_folder

    return state_folder() / "keys"
