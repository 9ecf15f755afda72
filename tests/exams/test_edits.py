"""Public data sets of edits, as the facts of a policy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from samples import FLAT, QUESTION, RECORD

from safeedit.errors import PolicyError
from safeedit.policy import Policy
from safeedit.policy.compile import facts_of


def policy(folder: Path, op: str, source: str, **more: Any) -> Path:
    content = {
        "apiVersion": "safeedit/v1",
        "metadata": {"id": "set-1", "regime": "internal", "received": "2026-11-02"},
        "operations": [{"op": op, "facts_file": source}],
        **more,
    }
    path = folder / "policy.yaml"
    path.write_text(json.dumps(content))
    return path


def write(path: Path, *rows: object) -> Path:
    path.write_text(json.dumps(list(rows), indent=1), "utf-8")
    return path


@pytest.mark.parametrize("record", [RECORD, FLAT], ids=["published", "flat"])
def test_a_counterfact_record_is_a_modification(tmp_path: Path, record: dict[str, Any]) -> None:
    write(tmp_path / "set.json", record)
    loaded = Policy.load(policy(tmp_path, "modify", "counterfact:set.json"))
    (fact,) = facts_of(loaded)
    assert (fact.subject, fact.object, fact.new_object) == ("Zenobia Harkaway", "French", "Dutch")
    assert fact.edit_templates == ("The mother tongue of {subject} is",)
    # A phrasing that names the subject twice or never, or that the editor sees, is none.
    assert fact.probe_templates == ("It rained. {subject}, a native",)
    assert fact.neighbour_prompts == ("Umber Penhale is a native speaker of",)
    assert fact.about == "person"
    assert list(loaded.relations) == [fact.relation]


@pytest.mark.parametrize(("op", "what"), [("erase", "French"), ("insert", "Dutch")])
def test_an_erasure_is_of_what_is_true_and_an_insertion_of_what_is_new(
    tmp_path: Path, op: str, what: str
) -> None:
    write(tmp_path / "set.json", RECORD)
    (fact,) = facts_of(Policy.load(policy(tmp_path, op, "counterfact:set.json")))
    assert (fact.op, fact.object, fact.new_object) == (op, what, None)


def test_the_policys_own_words_for_a_relation_stay(tmp_path: Path) -> None:
    write(tmp_path / "set.json", RECORD)
    mine = {"P103": {"cloze": ["{subject} grew up speaking"], "about": "person"}}
    loaded = Policy.load(policy(tmp_path, "erase", "counterfact:set.json", relations=mine))
    assert loaded.relations["P103"].cloze == ["{subject} grew up speaking"]


def test_a_part_of_a_set_may_be_taken(tmp_path: Path) -> None:
    more = [
        {**RECORD, "requested_rewrite": {**RECORD["requested_rewrite"], "subject": f"Ada Moss {i}"}}
        for i in range(5)
    ]
    write(tmp_path / "set.json", *more)
    loaded = Policy.load(policy(tmp_path, "erase", "counterfact:set.json[1:3]"))
    assert [fact.subject for fact in facts_of(loaded)] == ["Ada Moss 1", "Ada Moss 2"]


@pytest.mark.parametrize(
    ("op", "old", "new"),
    [
        ("insert", "Illinois Institute of Technology", None),
        ("erase", "Illinois Institute of Technology", None),
        ("modify", "Illinois Institute of Technology", "University of Michigan"),
    ],
)
def test_a_zsre_record_is_a_fact(tmp_path: Path, op: str, old: str, new: str | None) -> None:
    write(tmp_path / "set.json", QUESTION)
    (fact,) = facts_of(Policy.load(policy(tmp_path, op, "zsre:set.json")))
    assert (fact.object, fact.new_object) == (old, new)
    assert fact.edit_templates == ("What university did {subject} attend?",)
    assert fact.probe_templates == ("Where did {subject} study?",)
    assert fact.neighbour_prompts == (f"{QUESTION['loc']}?",)


def test_two_questions_about_one_subject_are_two_facts(tmp_path: Path) -> None:
    other = {**QUESTION, "src": "Who taught Zenobia Harkaway?", "answers": ["Umber Penhale"], "alt": "Ada"}
    write(tmp_path / "set.json", QUESTION, other)
    facts = facts_of(Policy.load(policy(tmp_path, "modify", "zsre:set.json")))
    assert len({fact.relation for fact in facts}) == 2


@pytest.mark.parametrize(
    ("source", "change", "message"),
    [
        ("counterfact:set.json", {"requested_rewrite": {"subject": "X"}}, r"set.json:\d+:\d+: the field '"),
        ("counterfact:none.json", {}, "policy.yaml:1:.*no such file or folder"),
        ("counterfact:../set.json", {}, "in or below the policy's folder"),
        ("tofu:set.json", {}, "there is no such file"),
        ("counterfact:/etc/set.json", {}, "in or below the policy.s folder"),
    ],
)
def test_what_is_wrong_gets_one_line(
    tmp_path: Path, source: str, change: dict[str, Any], message: str
) -> None:
    write(tmp_path / "set.json", RECORD, {**RECORD, **change})
    with pytest.raises(PolicyError, match=message) as caught:
        Policy.load(policy(tmp_path, "modify", source))
    assert "Zenobia" not in str(caught.value)
    assert len({p.line for p in caught.value.problems}) == 1


def test_the_policys_rules_hold_for_a_set_too_with_its_lines(tmp_path: Path) -> None:
    write(tmp_path / "set.json", RECORD, RECORD)
    with pytest.raises(PolicyError, match="the same fact as in") as caught:
        Policy.load(policy(tmp_path, "modify", "counterfact:set.json"))
    (problem,) = caught.value.problems
    assert problem.file.endswith("set.json")
    text = (tmp_path / "set.json").read_text().splitlines()
    assert '"case_id"' in text[problem.line]  # The record opens on the line before.


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("wmpd:Zenobia.json", "must be NAME:PATH; did you mean 'wmdp'?"),
        (
            "Zenobia.json",
            "must be NAME:PATH; NAME is counterfact | lm-eval | muse | rwku | tofu | wmdp | zsre",
        ),
        ("wmdp:", "must be NAME:PATH; NAME is"),
    ],
)
def test_a_policys_data_sets_are_checked_with_their_places(tmp_path: Path, entry: str, message: str) -> None:
    write(tmp_path / "set.json", RECORD)
    path = policy(tmp_path, "erase", "counterfact:set.json", probes={"datasets": ["tofu:x", entry]})
    with pytest.raises(PolicyError) as caught:
        Policy.load(path)
    (problem,) = caught.value.problems
    assert (problem.line, problem.column) == (1, path.read_text().index(json.dumps(entry)) + 1)
    assert message in problem.message
    assert "Zenobia" not in str(caught.value)
