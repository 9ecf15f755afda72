"""What a policy would undo or repeat of earlier runs is found before anything is done."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from run_cases import JOB, KNOWN, MUSIC, NEW_JOB, OTHER, PERSON, UNKNOWN, another, fact

import safeedit
from safeedit.runs.conflicts import SHOWN, ConflictError, compare
from safeedit.runs.folder import RunFolder
from safeedit.runs.options import read_request

PHONE = fact(PERSON, "phone")
NEW_MUSIC = another(PERSON, "instrument")
THIRD_MUSIC = "harp" if "harp" not in (MUSIC["object"], NEW_MUSIC) else "flute"
TEXTS = (PERSON, OTHER, *PERSON.split(), PHONE["object"], NEW_MUSIC, JOB["object"])


@pytest.fixture(scope="module")
def below(write_policy: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs: one taught and one erased a person's fact, and one found a fact that it did not edit."""
    top = tmp_path_factory.mktemp("below")
    taught = write_policy(
        "modify", id="taught", facts=[{**MUSIC, "new_object": NEW_MUSIC, "aliases": ["M. Tolland"]}]
    )
    first = safeedit.apply(taught, out=top / "taught", editor="idle", device="cpu")
    phone = write_policy(id="erased", facts=[PHONE])
    second = safeedit.apply(phone, first, top / "erased", editor="idle")
    half = write_policy(id="half", facts=[UNKNOWN, fact(OTHER, "phone")])
    safeedit.apply(half, second, top / "half", editor="idle")
    return top / "half"


def found(below: Path, write_policy: Any, op: str, *facts: dict[str, Any], **more: Any) -> list[str]:
    request = read_request(write_policy(op, facts=list(facts), **more))
    return [one.kind for one in compare(request, RunFolder.open(below), "replace").conflicts]


@pytest.mark.parametrize(
    ("op", "stated", "kinds"),
    [
        ("insert", {**MUSIC, "object": THIRD_MUSIC}, ["changed"]),
        ("modify", {**MUSIC, "object": NEW_MUSIC, "new_object": THIRD_MUSIC}, ["changed"]),
        ("modify", {**MUSIC, "new_object": NEW_MUSIC}, ["repeated"]),
        ("insert", {**MUSIC, "object": NEW_MUSIC.upper()}, ["repeated"]),
        ("insert", {**MUSIC, "subject": "m.  tolland", "object": THIRD_MUSIC}, ["changed"]),
        ("insert", {**MUSIC, "subject": "Nobody", "aliases": [PERSON], "object": THIRD_MUSIC}, ["changed"]),
        ("erase", {**MUSIC, "object": NEW_MUSIC}, []),
        ("insert", PHONE, ["erased"]),
        ("insert", {**PHONE, "object": "555-0100"}, ["erased"]),
        ("erase", PHONE, ["repeated"]),
        ("erase", {**PHONE, "object": "555-0100"}, []),
        ("insert", {**JOB, "object": NEW_JOB}, []),
        ("erase", fact(PERSON, "occupation"), []),
        ("insert", fact(OTHER, "phone"), ["erased"]),
    ],
)
def test_conflicts_of_each_kind(
    op: str, stated: dict[str, Any], kinds: list[str], below: Path, write_policy: Any
) -> None:
    assert found(below, write_policy, op, stated) == kinds


def test_a_fact_that_was_asked_for_and_not_edited_is_no_conflict(below: Path, write_policy: Any) -> None:
    assert UNKNOWN["subject"] == JOB["subject"]
    assert found(below, write_policy, "insert", {**UNKNOWN}) == []


def test_who_was_erased_as_a_person_is_not_taught_anything(
    below: Path, write_policy: Any, tmp_path: Path
) -> None:
    subjects = [{"name": OTHER, "aliases": ["The Other"], "relations": ["instrument", "occupation"]}]
    person = write_policy(id="person", subjects=subjects)
    top = Path(shutil.copytree(below.parent, tmp_path / "runs"))
    run = safeedit.apply(person, top / "half", top / "person", editor="idle", on_conflict="replace")
    for name in (OTHER, "the other"):
        stated = {"subject": name, "relation": "instrument", "object": THIRD_MUSIC}
        assert found(run.path, write_policy, "insert", stated) == ["erased"]
    assert found(run.path, write_policy, "insert", {**fact(OTHER, "mother_tongue"), "object": "Dutch"}) == []


def test_a_conflict_stops_the_run_before_anything_is_written(
    below: Path, write_policy: Any, tmp_path: Path
) -> None:
    before = {path: path.read_bytes() for path in below.parent.rglob("*") if path.is_file()}
    policy = write_policy("insert", facts=[PHONE, {**MUSIC, "object": THIRD_MUSIC}])
    for act in (safeedit.plan, safeedit.apply):
        with pytest.raises(ConflictError) as caught:
            act(policy, below, **({"out": tmp_path / "new"} if act is safeedit.apply else {}))
        assert caught.value.exit_code == 2
    told = str(caught.value).splitlines()
    assert [line.partition(":")[0] for line in told[:2]] == [
        "operations[0].facts[0]",
        "operations[0].facts[1]",
    ]
    assert "was erased by erased" in told[0]
    assert "another object by taught" in told[1]
    assert "--on-conflict replace" in told[2]
    shown = str(caught.value) + repr(caught.value) + repr(caught.value.conflicts)
    assert not any(text in shown for text in TEXTS)
    assert not (tmp_path / "new").exists()
    assert {path: path.read_bytes() for path in below.parent.rglob("*") if path.is_file()} == before


def test_replace_goes_on_and_the_newest_wins(
    below: Path, write_policy: Any, tmp_path: Path, seen: list[Any]
) -> None:
    top = Path(shutil.copytree(below.parent, tmp_path / "runs"))
    policy = write_policy("insert", id="anew", facts=[{**MUSIC, "object": THIRD_MUSIC}])
    run = safeedit.apply(policy, top / "half", top / "anew", editor="idle", on_conflict="replace")
    assert [edit.target for edit in seen[-1]] == [THIRD_MUSIC]
    entries = [json.loads(line) for line in (run.path / "audit.jsonl").read_text().splitlines()]
    checked = next(entry["data"] for entry in entries if entry["event"] == "conflicts.checked")
    assert checked["replaced"] == {"changed": 1, "erased": 0, "repeated": 0}
    assert (checked["runs"], checked["not_readable"]) == (3, [])
    assert found(run.path, write_policy, "insert", {**MUSIC, "object": THIRD_MUSIC}) == ["repeated"]
    assert found(run.path, write_policy, "insert", {**MUSIC, "object": NEW_MUSIC}) == ["changed"]


def test_a_rolled_back_run_is_no_conflict(below: Path, write_policy: Any, tmp_path: Path) -> None:
    top = Path(shutil.copytree(below.parent, tmp_path / "runs"))
    safeedit.rollback(top / "half")
    safeedit.rollback(top / "erased")
    assert found(top / "taught", write_policy, "insert", PHONE) == []
    assert found(top / "taught", write_policy, "insert", {**MUSIC, "object": THIRD_MUSIC}) == ["changed"]


def test_without_the_key_it_is_said_that_nothing_could_be_compared(
    below: Path, write_policy: Any, tmp_path: Path
) -> None:
    top = Path(shutil.copytree(below.parent, tmp_path / "runs"))
    policy = write_policy("insert", id="anew", facts=[PHONE])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAFEEDIT_STATE_DIR", str(tmp_path / "state"))
        made = safeedit.plan(policy, top / "half")
        run = safeedit.apply(policy, top / "half", top / "anew", editor="idle")
    assert made.warnings == run.warnings
    assert len(run.warnings) == 3
    assert all("cannot be checked" in line for line in run.warnings)
    entries = [json.loads(line) for line in (run.path / "audit.jsonl").read_text().splitlines()]
    checked = next(entry["data"] for entry in entries if entry["event"] == "conflicts.checked")
    assert (checked["runs"], len(checked["not_readable"])) == (0, 3)


def test_a_long_list_is_cut(below: Path, write_policy: Any, tmp_path: Path) -> None:
    names = [subject for subject, relation in KNOWN if relation == "email"][: SHOWN + 5]
    facts = [{"subject": name, "relation": "email", "object": f"x{i}@y.org"} for i, name in enumerate(names)]
    taught = write_policy("insert", id="many", facts=facts)
    run = safeedit.apply(taught, out=tmp_path / "many", editor="idle", device="cpu")
    with pytest.raises(ConflictError, match="and 5 more") as caught:
        safeedit.plan(taught, run)
    assert len(str(caught.value).splitlines()) == SHOWN + 2
    assert len(caught.value.conflicts) == SHOWN + 5


def test_another_word_for_it_is_refused(write_policy: Any, tmp_path: Path) -> None:
    with pytest.raises(safeedit.errors.UsageError, match="stop, replace"):
        safeedit.apply(write_policy(facts=[MUSIC]), out=tmp_path / "new", on_conflict="merge")
    assert not (tmp_path / "new").exists()
