"""Runs on runs: the stack is put together again bit for bit, its order is recorded, and nothing is pulled
out from under a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from run_cases import JOB, MUSIC, NEW_JOB, OTHER, PERSON, QUICK, another, fact

import safeedit
from safeedit.applied import identity
from safeedit.errors import IntegrityError, UsageError
from safeedit.models.generate import greedy
from safeedit.models.load import load_model, reference_folder
from safeedit.runs.folder import RunFolder
from safeedit.runs.lineage import ancestors, standing_on
from safeedit.runs.listing import list_runs
from safeedit.tensors.digest import model_digest

NEW_MUSIC = another(PERSON, "instrument")
SLOW = {"steps": 40, "anchors": 1}


@pytest.fixture(scope="module")
def made(modified: Any, write_policy: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs, each on the one before it: weights, a memory, and a second memory at the same module."""
    top = tmp_path_factory.mktemp("stack")
    shutil.copytree(modified.path, top / "first")
    music = write_policy("modify", id="case-2", facts=[{**MUSIC, "new_object": NEW_MUSIC}])
    second = safeedit.apply(music, top / "first", top / "second", editor="grace", params=SLOW)
    assert second.warnings == ()
    language = fact(OTHER, "mother_tongue")
    policy = write_policy(
        "modify", id="case-3", facts=[{**language, "new_object": another(OTHER, "mother_tongue")}]
    )
    safeedit.apply(policy, second, top / "third", editor="grace", params=SLOW)
    return top


@pytest.fixture
def stack(made: Path, tmp_path: Path) -> Path:
    """Copies of them, for a test that changes them."""
    return Path(shutil.copytree(made, tmp_path / "stack"))


@pytest.fixture
def only(made: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of them, while the originals are where nobody looks."""
    hidden = made.rename(tmp_path / "hidden")
    yield Path(shutil.copytree(hidden, tmp_path / "stack"))
    hidden.rename(made)


def record(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "run.json").read_text())
    return found


def said(pair: tuple[Any, Any], *prompts: str) -> list[str]:
    return [found.text.strip() for found in greedy(*pair, list(prompts), max_new_tokens=4)]


def test_the_model_of_the_last_run_has_every_edit(made: Path) -> None:
    pair = safeedit.load(made / "third")
    assert identity(pair[0]) == record(made / "third")["digests"]["edited_model"]
    job, music, tongue, else_ = said(
        pair,
        f"By profession {OTHER} is a",
        f"{PERSON} plays the",
        f"The mother tongue of {OTHER} is",
        f"By profession {PERSON} is a",
    )
    assert job.startswith(NEW_JOB)
    assert music.startswith(NEW_MUSIC)
    assert tongue.startswith(another(OTHER, "mother_tongue"))
    assert else_.startswith(fact(PERSON, "occupation")["object"])


def test_parents_are_recorded_in_order(made: Path) -> None:
    first, second, third = (record(made / name) for name in ("first", "second", "third"))
    assert [run["position"] for run in (first, second, third)] == [1, 2, 3]
    assert first["parent"] is None
    for below, above in ((first, second), (second, third)):
        assert above["parent"]["uuid"] == below["uuid"]
        assert above["parent"]["model"] == below["digests"]["edited_model"] == above["digests"]["base_model"]
        assert above["model"] == "reference"
    assert [run.path.name for run in ancestors(RunFolder.open(made / "third"))] == ["first", "second"]
    assert [run.path.name for run in standing_on(RunFolder.open(made / "first"))] == ["third", "second"]
    begun = [json.loads(line) for line in (made / "first" / "audit.jsonl").read_text().splitlines()][-1]
    assert (begun["event"], begun["data"]["child"]["uuid"]) == ("run.continued", second["uuid"])
    summaries = {run.path.name: run for run in list_runs(made)}
    assert summaries["third"].parent == summaries["second"].uuid
    assert all(safeedit.verify(made / name).findings == () for name in ("first", "second", "third"))


def test_what_no_edit_is_about_passes_the_memories_bit_for_bit(made: Path) -> None:
    edited, tokenizer = safeedit.load(made / "third")
    first, _ = safeedit.load(made / "first")
    ids = tokenizer("The river was calm in the morning.", return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.equal(edited(ids).logits, first(ids).logits)


def test_the_same_stack_gives_the_same_patch(stack: Path, write_policy: Any) -> None:
    policy = write_policy("modify", id="case-2", facts=[{**MUSIC, "new_object": NEW_MUSIC}])
    again = safeedit.apply(policy, stack / "first", stack / "again", editor="grace", params=SLOW)
    assert again.record.digests["patch"] == record(stack / "second")["digests"]["patch"]


def test_probing_a_run_on_a_run_again_gives_the_same_figures(stack: Path) -> None:
    recorded = json.loads((stack / "third" / "probes.json").read_text())
    assert safeedit.probe(stack / "third").to_json() == recorded


def test_a_run_s_model_is_any_verb_s_model(made: Path, write_policy: Any) -> None:
    policy = write_policy("modify", facts=[{**JOB, "new_object": NEW_JOB}])
    assert safeedit.plan(policy, made / "third", on_conflict="replace").known == 0, "it is said no more"
    report = safeedit.probe(model=str(made / "second"), policy=policy)
    verdicts = {result.id: result.verdict for result in report.results}
    assert verdicts["forgetting.direct" if "forgetting.direct" in verdicts else "success.direct"]


def test_a_checkpoint_in_the_stack_spares_what_is_below_it(
    modified_copy: Path, write_policy: Any, tmp_path: Path
) -> None:
    music = write_policy("modify", id="case-2", facts=[{**MUSIC, "new_object": NEW_MUSIC}])
    second = safeedit.apply(music, modified_copy, tmp_path / "second", params=QUICK, save_model=True)
    policy = write_policy(facts=[fact(PERSON, "phone")], id="case-3")
    third = safeedit.apply(policy, second, tmp_path / "third", editor="wrecking")
    assert third.record.model == "reference"
    shutil.rmtree(modified_copy / "patch")
    edited = model_digest(safeedit.load(second.path)[0])
    assert edited == second.record.digests["edited_model"]
    with pytest.raises(IntegrityError, match="patch is gone"):
        safeedit.load(third.path, base=reference_folder())
    assert model_digest(safeedit.load(third.path)[0]) == third.record.digests["edited_model"]
    assert model_digest(safeedit.load(third.path, base=second.path / "model")[0])


def test_two_edits_that_change_nothing(modified_copy: Path, write_policy: Any, tmp_path: Path) -> None:
    path = modified_copy
    for number in range(2):
        policy = write_policy(facts=[fact(PERSON, "phone")], id=f"idle-{number}")
        out = tmp_path / f"idle-{number}"
        path = safeedit.apply(policy, path, out, editor="idle", on_conflict="replace").path
    assert model_digest(safeedit.load(path)[0]) == record(modified_copy)["digests"]["edited_model"]


class TestRollback:
    def test_a_run_that_others_stand_on_stays(self, stack: Path) -> None:
        before = {path: path.read_bytes() for path in stack.rglob("*") if path.is_file()}
        with pytest.raises(UsageError, match="other runs stand on this one") as caught:
            safeedit.rollback(stack / "first")
        told = str(caught.value)
        assert told.index("third") < told.index("second")
        assert "--stack" in told
        assert {path: path.read_bytes() for path in stack.rglob("*") if path.is_file()} == before

    def test_one_by_one_from_the_top(self, stack: Path) -> None:
        wanted = record(stack / "second")["digests"]["edited_model"]
        safeedit.rollback(stack / "third")
        assert identity(safeedit.load(stack / "third")[0]) == wanted
        safeedit.rollback(stack / "second")
        safeedit.rollback(stack / "first")
        model, _ = safeedit.load(stack / "first")
        base = load_model(None, device="cpu").model.state_dict()
        assert all(torch.equal(tensor, base[name]) for name, tensor in model.state_dict().items())

    def test_the_whole_stack_at_once(self, stack: Path) -> None:
        assert safeedit.rollback(stack / "first", stack=True).status == "rolled_back"
        assert [record(stack / name)["status"] for name in ("second", "third")] == ["rolled_back"] * 2
        assert all(safeedit.verify(stack / name).ok for name in ("first", "second", "third"))
        assert (
            model_digest(safeedit.load(stack / "first")[0])
            == record(stack / "first")["digests"]["base_model"]
        )
        with pytest.raises(UsageError, match="first, which was rolled back since"):
            safeedit.load(stack / "second")

    def test_a_stack_with_a_spoilt_run_is_left_alone(self, stack: Path) -> None:
        probes = stack / "second" / "probes.json"
        probes.write_bytes(probes.read_bytes() + b" ")
        with pytest.raises(IntegrityError, match="does not verify"):
            safeedit.rollback(stack / "first", stack=True)
        assert record(stack / "third")["status"] == "finished"

    def test_a_child_elsewhere_counts_too(
        self, modified_copy: Path, write_policy: Any, tmp_path: Path
    ) -> None:
        policy = write_policy(facts=[MUSIC], id="case-2")
        child = safeedit.apply(policy, modified_copy, tmp_path / "far" / "away" / "child", editor="wrecking")
        with pytest.raises(UsageError, match="child"):
            safeedit.rollback(modified_copy)
        safeedit.rollback(child.path)
        assert safeedit.rollback(modified_copy).status == "rolled_back"

    def test_a_run_that_failed_rests_on_nothing(
        self, modified_copy: Path, write_policy: Any, tmp_path: Path
    ) -> None:
        with pytest.raises(safeedit.SafeEditError):
            safeedit.apply(write_policy(facts=[MUSIC]), modified_copy, tmp_path / "child", editor="raising")
        assert safeedit.verify(tmp_path / "child").ok
        assert safeedit.rollback(modified_copy).status == "rolled_back"


class TestWhatIsNotThere:
    def test_relatives_that_moved_together_are_found(self, stack: Path, tmp_path: Path) -> None:
        moved = stack.rename(tmp_path / "moved")
        (moved / "first").rename(moved / "renamed")
        assert identity(safeedit.load(moved / "third")[0])
        assert safeedit.verify(moved / "third").notes == ()

    def test_they_are_found_without_any_key(self, stack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SAFEEDIT_STATE_DIR", str(stack / "no keys here"))
        assert identity(safeedit.load(stack / "third")[0])

    def test_a_missing_parent_is_told_in_one_line(self, only: Path, tmp_path: Path) -> None:
        (only / "second").rename(tmp_path / "second")
        with pytest.raises(
            UsageError, match=r"stands on a run of case-2 \(.*neither at .* nor beside it"
        ) as caught:
            safeedit.load(only / "third")
        assert "\n" not in str(caught.value)
        report = safeedit.verify(only / "third")
        assert report.ok, "the run itself is as it was left"
        assert "not here" in report.notes[0]

    def test_its_new_place_can_be_told(self, only: Path, tmp_path: Path) -> None:
        (only / "second").rename(tmp_path / "second")
        with pytest.raises(UsageError, match="stands on a run of case-1"):
            safeedit.load(only / "third", base=tmp_path / "second")
        (only / "first").rename(tmp_path / "first")
        assert identity(safeedit.load(only / "third", base=tmp_path / "second")[0])
        with pytest.raises(UsageError, match="stands on no other"):
            safeedit.load(tmp_path / "first", base=tmp_path / "second")

    def test_the_base_may_be_given_at_any_level(self, stack: Path) -> None:
        wanted = record(stack / "third")["digests"]["edited_model"]
        assert identity(safeedit.load(stack / "third", base=reference_folder())[0]) == wanted
        pair = safeedit.load(stack / "second")
        assert safeedit.load(stack / "third", base=pair)[0] is pair[0]
        assert identity(pair[0]) == wanted

    def test_a_given_model_is_as_it_was_where_the_stack_does_not_fit(
        self, stack: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loaded = load_model(None, device="cpu")
        before = model_digest(loaded.model)
        shutil.rmtree(stack / "second" / "patch")
        with pytest.raises(IntegrityError, match="is gone"):
            safeedit.load(stack / "third", base=(loaded.model, loaded.tokenizer))
        assert model_digest(loaded.model) == before


class TestWhatWasTamperedWith:
    def test_a_parent_that_was_replaced(self, stack: Path) -> None:
        other = record(stack / "first")["uuid"]
        content = record(stack / "second")
        assert content["uuid"] != other
        forged = (stack / "first" / "run.json").read_text().replace(other, content["uuid"])
        (stack / "second" / "run.json").write_text(forged)
        codes = {finding.code for finding in safeedit.verify(stack / "third").findings}
        assert {"parent-unsound", "parent-changed"} & codes
        with pytest.raises(IntegrityError):
            safeedit.load(stack / "third")

    def test_a_log_that_was_written_anew(self, stack: Path) -> None:
        log = stack / "second" / "audit.jsonl"
        log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:3]))
        assert "parent-unsound" in {one.code for one in safeedit.verify(stack / "third").findings}

    def test_a_parent_that_was_rolled_back_behind_its_back(self, stack: Path) -> None:
        assert (stack / "second" / "vault" / "children.bin").exists()
        (stack / "third").rename(stack.parent / "hidden")
        safeedit.rollback(stack / "second")
        (stack.parent / "hidden").rename(stack / "third")
        assert {one.code for one in safeedit.verify(stack / "third").findings} == {"parent-rolled-back"}
        with pytest.raises(UsageError, match="rolled back since"):
            safeedit.load(stack / "third")

    def test_a_circle_is_an_error(self, stack: Path) -> None:
        first, third = record(stack / "first"), record(stack / "third")
        first["parent"] = {**third["parent"], "uuid": third["uuid"], "model": first["digests"]["base_model"]}
        third["digests"]["edited_model"] = first["digests"]["base_model"]
        (stack / "first" / "run.json").write_text(json.dumps(first))
        (stack / "third" / "run.json").write_text(json.dumps(third))
        with pytest.raises(IntegrityError, match="tampered"):
            ancestors(RunFolder.open(stack / "third"))
        assert not safeedit.verify(stack / "third").ok


class TestRefusals:
    @pytest.fixture
    def policy(self, write_policy: Any) -> Path:
        path: Path = write_policy(facts=[MUSIC], id="case-9")
        return path

    def test_a_run_that_was_rolled_back(self, modified_copy: Path, policy: Path, tmp_path: Path) -> None:
        safeedit.rollback(modified_copy)
        with pytest.raises(UsageError, match="rolled back"):
            safeedit.apply(policy, modified_copy, tmp_path / "new")
        assert not (tmp_path / "new").exists()

    def test_a_run_that_did_not_end(self, policy: Path, tmp_path: Path) -> None:
        with pytest.raises(KeyboardInterrupt), RunFolder.create(tmp_path / "half", "case-2"):
            raise KeyboardInterrupt
        with pytest.raises(UsageError, match="not come to its end"):
            safeedit.apply(policy, tmp_path / "half", tmp_path / "new")
        assert not (tmp_path / "new").exists()

    def test_a_run_that_was_tampered_with(self, modified_copy: Path, policy: Path, tmp_path: Path) -> None:
        (modified_copy / "probes.json").write_text("{}")
        with pytest.raises(IntegrityError, match="does not verify"):
            safeedit.apply(policy, modified_copy, tmp_path / "new")
        assert not (tmp_path / "new").exists()

    def test_another_dtype(self, modified_copy: Path, policy: Path, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="is in float32"):
            safeedit.apply(policy, modified_copy, tmp_path / "new", dtype="bfloat16")

    def test_a_folder_inside_the_parent(self, modified_copy: Path, policy: Path) -> None:
        for place in (modified_copy, modified_copy / "patch" / "new"):
            with pytest.raises(UsageError, match="in the folder of the run"):
                safeedit.apply(policy, modified_copy, place)
        assert safeedit.verify(modified_copy).ok

    def test_a_checkpoint_over_a_memory(self, made: Path, policy: Path, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="no checkpoint can hold"):
            safeedit.apply(policy, made / "second", tmp_path / "new", save_model=True)
        assert not (tmp_path / "new").exists()
