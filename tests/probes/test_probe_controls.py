"""Controls: where they come from, and what is told of a bad line."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from safeedit.errors import PolicyError
from safeedit.probes.controls import load_controls
from safeedit.probes.runner import build_pack
from safeedit.probes.suite import Suite, load_suite
from safeedit.triples.catalogue import builtin_catalogue
from safeedit.triples.facts import Fact

ROW = {"subject": "Ada Moss", "relation": "instrument", "object": "harp", "aliases": ["the harp"]}


@pytest.fixture(scope="module")
def smoke() -> Suite:
    return load_suite("smoke")


def write(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", "utf-8")
    return path


def test_the_builtin_controls_are_sound(smoke: Suite) -> None:
    controls = load_controls(None, smoke)
    catalogue = builtin_catalogue()
    assert len(controls.facts) >= 200
    assert len(controls.texts) >= 60
    assert len(set(controls.texts)) == len(controls.texts)
    assert len({(c.subject, c.relation) for c in controls.facts}) == len(controls.facts)
    for control in controls.facts:
        closed = catalogue[control.relation].objects
        assert not closed or control.object in closed
        assert control.subject == control.subject.strip()
    relations = {control.relation for control in controls.facts}
    assert not relations & {"phone", "email"}


def test_the_models_own_controls_come_before_the_builtin_ones(tmp_path: Path, smoke: Suite) -> None:
    write(tmp_path / "controls.jsonl", ROW)
    controls = load_controls(tmp_path, smoke)
    assert [(c.subject, c.object, c.aliases) for c in controls.facts] == [("Ada Moss", "harp", ("the harp",))]
    assert len(controls.texts) >= 60
    assert "Ada" not in repr(controls) + repr(controls.facts)


def test_the_suites_own_controls_come_first(tmp_path: Path, smoke: Suite) -> None:
    write(tmp_path / "retained.jsonl", {"text": "The model's own."})
    mine = write(tmp_path / "mine.jsonl", {"text": "The suite's own."})
    suite = dataclasses.replace(smoke, retained=mine)
    assert load_controls(tmp_path, suite).texts == ("The suite's own.",)


def test_every_bad_line_is_told_without_its_content(tmp_path: Path, smoke: Suite) -> None:
    bad = [
        {**ROW, "Ada Quackenbush": "612-345"},
        {"subject": "Ada Moss", "relation": "instrument"},
        {**ROW, "object": 7},
        ["Ada Moss"],
    ]
    path = write(tmp_path / "controls.jsonl", ROW, *bad)
    path.write_text(path.read_text("utf-8") + "{Ada Moss\n", "utf-8")
    with pytest.raises(PolicyError) as caught:
        load_controls(tmp_path, smoke)
    assert [problem.line for problem in caught.value.problems] == [2, 3, 4, 5, 6]
    assert [problem.message for problem in caught.value.problems] == [
        "unknown key; the keys are: subject, relation, object, aliases",
        "the key 'object' is missing",
        "'object' must be text, and this is read as a number; put it in quotes",
        'a line must be one object: {"subject": …, "relation": …, "object": …}',
        "not JSON: Expecting property name enclosed in double quotes",
    ]
    assert "Ada" not in str(caught.value)
    assert "612" not in str(caught.value)


def test_controls_of_which_nothing_can_be_asked_are_told_with_their_lines(
    tmp_path: Path, smoke: Suite
) -> None:
    odd = {**ROW, "subject": "Mira Moss", "relation": "Otto Tolland, Bachgasse 4"}
    path = write(tmp_path / "controls.jsonl", ROW, odd, {**ROW, "subject": "Bo Li"}, {**odd, "object": "x"})
    fact = Fact(
        "erase", "Mira Moss", "instrument", "flute", edit_templates=("{subject} plays the",),
        probe_templates=("The instrument of {subject} is the",),
    )  # fmt: skip
    with pytest.raises(PolicyError) as caught:
        build_pack(load_suite("standard"), [fact], load_controls(tmp_path, smoke), builtin_catalogue(), 1)
    told = [str(problem) for problem in caught.value.problems]
    assert [line.split(": ")[0] for line in told] == [f"{path}:2:1", f"{path}:4:1"]
    assert all("this relation is not in the catalogue; add it to" in line for line in told)
    assert "Tolland" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"), [(b"", "holds no line"), (b'{"text": "\xff"}', "not UTF-8"), (None, "No such file")]
)
def test_an_unusable_file_is_told(tmp_path: Path, smoke: Suite, data: bytes | None, message: str) -> None:
    path = tmp_path / "mine.jsonl"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(PolicyError, match=message):
        load_controls(None, dataclasses.replace(smoke, retained=path))
