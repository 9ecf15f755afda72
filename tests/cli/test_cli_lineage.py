"""Runs on runs through the command line: going on from one, conflicts, one fact out, the whole stack back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_types import Command

from safeedit.models.load import reference_folder

KNOWN = [json.loads(line) for line in (reference_folder() / "controls.jsonl").read_text("utf-8").splitlines()]
JOBS = [row for row in KNOWN if row["relation"] == "occupation"][:3]
NEW = "welder"
CANARIES = [word for row in JOBS for word in row["subject"].split()]


def policy(folder: Path, id: str, rows: list[Any], new: str = NEW) -> Path:
    facts = [{**{k: row[k] for k in ("subject", "relation", "object")}, "new_object": new} for row in rows]
    content = {
        "apiVersion": "safeedit/v1",
        "metadata": {"id": id, "regime": "correction", "received": "2026-11-02"},
        "operations": [{"op": "modify", "facts": facts}],
        "editor": {"name": "grace", "params": {"steps": 20}},
        "probes": {"suite": "smoke"},
    }
    path = folder / f"{id}.yaml"
    path.write_text(json.dumps(content))
    return path


def test_a_life_of_edits(safeedit: Command, here: Path) -> None:
    one, two = policy(here, "one", JOBS[:2]), policy(here, "two", JOBS[2:])
    first = safeedit("modify", "--policy", one, "--device", "cpu", "--out", "runs/one", "--json")
    assert first.json()["position"] == 1
    second = safeedit("apply", "--policy", two, "--model", "runs/one", "--out", "runs/two", "--json").json()
    assert (second["position"], second["parent"]["id"], second["warnings"]) == (2, "one", [])

    listed = {Path(run["path"]).name: run for run in safeedit("runs", "--json").json()["runs"]}
    assert listed["two"]["parent"] == listed["one"]["uuid"]
    assert "stands on" in safeedit("runs").out

    against = policy(here, "three", JOBS[:1], "pilot")
    for words in (("plan",), ("modify", "--out", "runs/three"), ("modify", "--dry-run")):
        stopped = safeedit(*words, "--policy", against, "--model", "runs/two")
        assert (stopped.code, stopped.out) == (2, "")
        assert "operations[0].facts[0]" in stopped.err
        assert "was given another object by one (runs/one)" in stopped.err
        assert not any(canary in stopped.err for canary in CANARIES)
    assert not (here / "runs" / "three").exists()
    planned = safeedit("plan", "--policy", against, "--model", "runs/two", "--on-conflict", "replace")
    assert planned.code == 0
    assert "--on-conflict replace" in planned.out
    refused = safeedit("plan", "--policy", against, "--on-conflict", "merge")
    assert refused.code == 2

    kept = safeedit("rollback", "runs/one")
    assert (kept.code, kept.out) == (2, "")
    assert "runs/two" in kept.err
    assert "--stack" in kept.err
    for words in (("--fact", "0"), ("--fact", "0", "--stack"), ("--out", "runs/x")):
        assert safeedit("rollback", "runs/one", *words).code == 2
    undone = safeedit("rollback", "runs/two")
    assert "the model of the run below again" in undone.out

    less = safeedit("rollback", "runs/one", "--fact", "1", "--out", "runs/less", "--json").json()
    assert less["replaces"] == "runs/one"
    assert len(less["facts"]) == 1
    assert safeedit("verify", "runs/one", "--json").json()["status"] == "rolled_back"
    again = safeedit("apply", "--policy", two, "--model", "runs/less", "--out", "runs/again", "--json").json()
    assert again["position"] == 2
    whole = safeedit("rollback", "runs/less", "--stack", "--json").json()
    assert [Path(one["run"]).name for one in whole["rolled_back_before"]] == ["again"]
    assert all(safeedit("verify", f"runs/{name}").code == 0 for name in ("less", "again"))


def test_what_is_not_here_is_said_and_is_no_finding(
    safeedit: Command, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = policy(here, "one", JOBS[:1]), policy(here, "two", JOBS[2:])
    safeedit("modify", "--policy", one, "--device", "cpu", "--out", "a/one")
    safeedit("modify", "--policy", two, "--model", "a/one", "--out", "b/two")
    (here / "a").rename(here / "c")
    report = safeedit("verify", "b/two", "--json")
    assert (report.code, report.json()["ok"]) == (0, True)
    assert "not here" in report.json()["not_checked"][0]
    assert "not here" in safeedit("verify", "b/two").out
    gone = safeedit("plan", "--policy", policy(here, "three", JOBS[1:2]), "--model", "b/two")
    assert gone.code == 2
    assert "neither at" in gone.err
    assert safeedit("rollback", "b/two", "--base", "c/one").code == 0
