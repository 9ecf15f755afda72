"""Lint: everything wrong with a policy at once, each with its line and column; the same where a run stops."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from safeedit.errors import PolicyError, UsageError
from safeedit.policy import Policy
from safeedit.runs.lint import lint
from safeedit.runs.options import chosen_editor, read_request, suite_source

HEAD = "apiVersion: safeedit/v1\nmetadata: {id: t2, regime: gdpr-17, received: 2026-11-02}\noperations:\n"
ERASE = "  - {op: erase, facts: [{subject: Mira Quackenbush, relation: phone, object: x12}]}\n"
DETOX = "  - {op: detox, behaviours: [{prompt: Say it., unsafe: Mira, safe: I will not.}]}\n"
SETTINGS = """\
editor:
  name: memit
  params:
    layer: [3]
    passes: many
    clamp: -1
    layers: []
"""
TOLD = [
    "8:5: editor memit: no such setting; did you mean 'layers'?",
    "9:13: editor memit: 'passes' must be a whole number, not text",
    "10:12: editor memit: 'clamp' must be above 0",
    "11:13: editor memit: 'layers' must not be empty",
]


def write(folder: Path, text: str) -> Path:
    path = folder / "p.yaml"
    path.write_text(text, "utf-8")
    return path


def told(path: Path) -> list[str]:
    (found,) = lint([path])
    assert found.ok == (not found.problems)
    assert "Quackenbush" not in json.dumps(found.to_json())
    return [str(problem).removeprefix(f"{path}:") for problem in found.problems]


def test_every_setting_that_an_editor_does_not_take_is_told_at_its_place(tmp_path: Path) -> None:
    assert told(write(tmp_path, HEAD + ERASE + SETTINGS)) == TOLD


def test_a_run_that_stops_for_them_tells_the_same_places(tmp_path: Path) -> None:
    path = write(tmp_path, HEAD + ERASE + SETTINGS)
    with pytest.raises(PolicyError) as caught:
        chosen_editor(read_request(path), None, None)
    assert str(caught.value).splitlines() == [f"{path}:{line}" for line in TOLD]


def test_what_the_caller_gave_has_no_place(tmp_path: Path) -> None:
    path = write(tmp_path, HEAD + ERASE + SETTINGS)
    with pytest.raises(UsageError) as caught:
        chosen_editor(read_request(path), None, {"clamp": 0, "layers": [1], "layer": 1, "passes": 2})
    assert not isinstance(caught.value, PolicyError)
    assert sorted(str(caught.value).splitlines()) == [
        "editor memit: 'clamp' must be above 0",
        "editor memit: no such setting; did you mean 'layers'?",
    ]
    with pytest.raises(UsageError) as both:
        chosen_editor(read_request(path), None, {"clamp": 0})
    assert str(both.value).splitlines()[0] == "editor memit: 'clamp' must be above 0"
    assert f"{path}:{TOLD[1]}" in str(both.value).splitlines()
    with pytest.raises(UsageError) as without:
        chosen_editor(read_request(Policy.load(path)), None, None)
    assert ":8:5" not in str(without.value)


@pytest.mark.parametrize("key", ["Mira Quackenbush", "Quackenbush", "self"])
def test_an_unknown_setting_is_not_repeated(key: str, tmp_path: Path) -> None:
    (line,) = told(write(tmp_path, f"{HEAD}{ERASE}editor: {{name: memit, params: {{{key}: 1}}}}\n"))
    assert line.startswith("5:32: editor memit: no such setting; the keys are: leak, ")


@pytest.mark.parametrize(
    ("rest", "lines"),
    [
        (
            "editor: {name: ft-l}\n",
            ["5:16: editor ft-l cannot erase: its objective is an answer; it can insert, modify"],
        ),
        ("editor: {name: memmit}\n", ["5:16: 'name' must be one of: "]),
        (
            "editor: {name: wise, params: {steps: 0}}\nassurance: G3\n",
            ["5:38: editor wise: 'steps' must not be below 1", "6:12: assurance G3 asks for more than"],
        ),
        (
            "editor: {name: memit, params: {objective: refusal, steps: 0}}\nassurance: G2\n",
            ["5:59: editor memit: 'steps' must not be below 1", "6:12: assurance G2 asks for more than"],
        ),
        (
            "editor: {name: ft-m, params: {epochs: 3, objective: lens}}\n",
            ["5:53: editor ft-m: objective: lens is for memit"],
        ),
        ("probes: {suite: smok}\n", ["5:17: 'suite' must be one of: full, smoke, standard; did you mean"]),
        ("probes: {suite: own/smoke.yaml}\n", ["5:17: 'suite': there is no such file; the suites that"]),
        (
            "probes: {suite: smoke, controls: none.jsonl, datasets: ['zsre:none.json']}\n",
            ["5:34: ", "5:56: "],
        ),
        (
            "editor: {name: memit, params: {steps: 0x10, rate: 0}}\n",
            ["5:39: YAML reads this as a number", "5:51: editor memit: 'rate' must be above 0"],
        ),
    ],
)
def test_each_choice_is_told_at_its_place(rest: str, lines: list[str], tmp_path: Path) -> None:
    found = told(write(tmp_path, HEAD + ERASE + rest))
    assert len(found) == len(lines)
    for line, beginning in zip(found, lines, strict=True):
        assert line.startswith(beginning)


def test_an_editor_that_nobody_chose_is_told_where_its_work_is_asked_for(tmp_path: Path) -> None:
    (line,) = told(write(tmp_path, HEAD + ERASE + DETOX))
    assert line.startswith("5:10: editor memit cannot detox")
    assert told(write(tmp_path, HEAD + DETOX)) == []


def test_editor_and_suite_are_checked_where_facts_are_wrong(tmp_path: Path) -> None:
    text = HEAD + ERASE.replace("phone", "phoone") + SETTINGS + "probes: {suite: smok}\n"
    found = told(write(tmp_path, text))
    assert [line.split(": ")[0] for line in found] == ["4:63", "8:5", "9:13", "10:12", "11:13", "12:17"]
    other = told(write(tmp_path, text.replace("memit", "ft-l")))
    assert [line.split(": ")[0] for line in other][:3] == ["4:63", "6:9", "8:5"]


def test_a_wrong_suite_file_has_lines_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("name: own\nprobes: []\nQuackenbush: 1\n", "utf-8")
    text = HEAD + ERASE.replace("phone", "phoone") + "probes: {suite: own.yaml}\n"
    (found,) = lint([write(tmp_path, text)])
    files = [(Path(problem.file).name, problem.line) for problem in found.problems]
    assert files == [("own.yaml", 2), ("own.yaml", 3), ("p.yaml", 4)]


def test_a_file_of_facts_that_is_not_there_is_told_once_with_all_else(tmp_path: Path) -> None:
    text = HEAD + "  - op: erase\n    facts_file: none.jsonl\nprobes: {controls: none.jsonl}\n"
    found = told(write(tmp_path, text))
    assert [line.split(": ")[0] for line in found] == ["5:17", "6:20"]


@pytest.mark.parametrize("named", ["smok", "own/smoke.yaml"])
def test_a_run_tells_where_its_suite_is_named(named: str, tmp_path: Path) -> None:
    path = write(tmp_path, f"{HEAD}{ERASE}probes: {{suite: {named}}}\n")
    with pytest.raises(PolicyError) as caught:
        suite_source(read_request(path), None)
    assert str(caught.value).startswith(f"{path}:5:17: 'suite'")
    assert suite_source(read_request(path), "smoke") == "smoke"
