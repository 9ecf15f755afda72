"""A plan tells what a run would do, and changes and writes nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from run_cases import JOB, KNOWN, MUSIC, NEW_JOB, OTHER, PERSON, UNKNOWN

import safeedit
from safeedit.errors import UsageError
from safeedit.runs.plan import Plan


def everything_below(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


def test_a_plan_lists_what_the_model_says_of_each_fact(
    given: Any, write_policy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    state = Path(os.environ["SAFEEDIT_STATE_DIR"])
    before = everything_below(state), everything_below(Path(os.environ["SAFEEDIT_CACHE"]))
    plan = safeedit.plan(write_policy(facts=[MUSIC, UNKNOWN]), given.pair)
    assert [(fact.known, fact.action, fact.found) for fact in plan.facts] == [
        (True, "erase", False),
        (False, "none", False),
    ]
    assert plan.facts[0].confidence > 0.9
    assert plan.facts[1].confidence == 0.0
    assert (plan.known, plan.edits) == (1, 1)
    assert (plan.editor, plan.suite, plan.model) == ("memit", "smoke", "reference")
    assert list(plan.layers) == sorted(plan.layers)
    assert plan.layers
    assert plan.prompts > 50
    assert plan.seconds > 0
    assert everything_below(tmp_path) == []
    assert (everything_below(state), everything_below(Path(os.environ["SAFEEDIT_CACHE"]))) == before


def test_a_plan_finds_what_the_model_knows_of_a_person(given: Any, write_policy: Any, nobody: str) -> None:
    subjects = [
        {"name": PERSON, "aliases": ["M. Tolland"], "relations": ["phone", "email"]},
        {"name": nobody, "relations": ["phone"]},
    ]
    plan = safeedit.plan(write_policy(subjects=subjects), given.pair)
    assert {(fact.relation, fact.fact.object) for fact in plan.facts} == {
        (relation, KNOWN[PERSON, relation]) for relation in ("phone", "email")
    }
    assert all(fact.found for fact in plan.facts)
    assert [(one.request, one.relation) for one in plan.unknown] == [(1, "phone")]
    assert plan.edits == 4, "two facts, each for the name and its alias"
    assert plan.to_json()["not_known"][0]["subject_number"] == 1


def test_of_a_person_who_is_not_known_nothing_is_planned(given: Any, write_policy: Any, nobody: str) -> None:
    plan = safeedit.plan(write_policy(subjects=[{"name": nobody, "relations": ["phone"]}]), given.pair)
    assert (plan.facts, plan.edits, plan.prompts, plan.seconds) == ((), 0, 0, 0.0)
    json.dumps(plan.to_json())


def test_plan_and_run_agree_on_what_is_known(modified: Any, given: Any, write_policy: Any) -> None:
    plan = safeedit.plan(write_policy("modify", facts=[{**JOB, "new_object": NEW_JOB}]), given.pair)
    assert tuple(fact.known for fact in plan.facts) == modified.known
    assert tuple(fact.fact for fact in plan.facts) == modified.facts
    assert list(plan.layers) == modified.record.editor.params["layers"]
    shown = plan.to_json(show_sensitive=True)["facts"][0]
    assert (shown["subject"], shown["object"], shown["new_object"]) == (OTHER, JOB["object"], NEW_JOB)


def test_an_insertion_is_planned_whether_or_not_it_is_known(given: Any, write_policy: Any) -> None:
    plan = safeedit.plan(write_policy("insert", facts=[UNKNOWN]), given.pair)
    assert (plan.facts[0].known, plan.facts[0].action) == (False, "insert")


def test_equal_texts_have_equal_digests_within_a_plan(given: Any, write_policy: Any) -> None:
    phone = {"subject": PERSON, "relation": "phone", "object": KNOWN[PERSON, "phone"]}
    one, other = safeedit.plan(write_policy(facts=[MUSIC, phone]), given.pair).facts
    assert one.subject_digest == other.subject_digest
    assert one.object_digest != other.object_digest
    assert one.digest != other.digest


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"kinds": "modify"}, "only holds operations of the kind 'erase'"),
        ({"editor": "memo"}, "unknown editor"),
        ({"params": {"stepps": 1}}, "did you mean 'steps'"),
        ({"params": {"layers": [99]}}, "99 is too large"),
        ({"suite": "smok"}, "did you mean 'smoke'"),
        ({"device": "cpu"}, "loaded already"),
    ],
)
def test_a_plan_refuses_what_a_run_would_refuse(
    options: dict[str, Any], told: str, given: Any, write_policy: Any
) -> None:
    with pytest.raises(UsageError, match=told):
        safeedit.plan(write_policy(facts=[MUSIC]), given.pair, **options)


def test_a_plan_is_a_value_that_shows_nothing(given: Any, write_policy: Any) -> None:
    plan = safeedit.plan(write_policy(facts=[MUSIC]), given.pair)
    assert isinstance(plan, Plan)
    assert repr(plan) == "<Plan case-1: 1 facts>"
