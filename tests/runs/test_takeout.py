"""One fact out of a run: what is left is as if that fact had never been asked for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from run_cases import JOB, KNOWN, NEW_JOB, OTHER, PERSON, QUICK, another, fact

import safeedit
from safeedit.editors.site import Trace
from safeedit.errors import IntegrityError, UsageError
from safeedit.patch import Patch
from safeedit.policy import Policy
from safeedit.policy.compile import behaviours_of
from safeedit.runs import stored
from safeedit.runs.folder import RunFolder
from safeedit.tensors.digest import model_digest
from safeedit.world.language import OPINION_PROMPTS, OPINION_SUBJECTS

MUSIC = {**fact(PERSON, "instrument"), "new_object": another(PERSON, "instrument")}
BOTH = [{**JOB, "new_object": NEW_JOB}, MUSIC]


@pytest.fixture(scope="module")
def made(write_policy: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run of two facts, solved together."""
    out = tmp_path_factory.mktemp("two") / "both"
    safeedit.apply(write_policy("modify", id="two", facts=BOTH), out=out, params=QUICK, device="cpu")
    return out


@pytest.fixture
def both(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "both"))


def record(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "run.json").read_text())
    return found


def test_the_rest_is_what_it_would_have_been_alone(both: Path, write_policy: Any, tmp_path: Path) -> None:
    new = safeedit.take_out(both, [1], tmp_path / "one")
    alone = safeedit.apply(
        write_policy("modify", id="two", facts=BOTH[:1]), out=tmp_path / "alone", params=QUICK, device="cpu"
    )
    assert [one.relation for one in new.facts] == ["occupation"]
    assert new.record.digests["edited_model"] == alone.record.digests["edited_model"]
    assert (new.verdict, new.exit_code) == (alone.verdict, alone.exit_code)
    assert model_digest(safeedit.load(new.path)[0]) == alone.record.digests["edited_model"]
    old = record(both)
    assert (old["status"], old["replaced_by"]) == ("rolled_back", new.record.uuid)
    assert new.record.replaces == old["uuid"]
    assert all(safeedit.verify(path).findings == () for path in (both, new.path))
    last = [json.loads(line) for line in (both / "audit.jsonl").read_text().splitlines()][-1]
    assert (last["event"], last["data"]["replaced_by"]) == ("rollback.done", new.record.uuid)


def test_a_person_is_taken_out_by_digest_and_found_facts_are_kept(
    write_policy: Any, tmp_path: Path, seen: list[Any]
) -> None:
    people = [{"name": name, "relations": ["instrument", "occupation"]} for name in (PERSON, OTHER)]
    run = safeedit.apply(
        write_policy(id="people", subjects=people), out=tmp_path / "run", editor="idle", device="cpu"
    )
    digest = RunFolder.open(run.path).redactor.digest(PERSON)
    new = safeedit.take_out(run, [digest], tmp_path / "new")
    assert new.facts == tuple(one for one in run.facts if one.subject == OTHER)
    assert {edit.subject for edit in seen[-1]} == {OTHER}
    assert seen[-1] == tuple(edit for edit in seen[0] if edit.subject == OTHER)


QUICK_TURNS = {"turns": 3, "contexts": 0}


@pytest.fixture(scope="module")
def by_turns(write_policy: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same by an editor whose patches have among their settings what it learnt of the edited facts."""
    out = tmp_path_factory.mktemp("two") / "turns"
    policy = write_policy("modify", id="two", facts=BOTH)
    safeedit.apply(policy, out=out, editor="ultraedit", params=QUICK_TURNS, device="cpu")
    return out


def test_nothing_learnt_of_the_fact_is_in_the_new_patch(
    by_turns: Path, write_policy: Any, tmp_path: Path
) -> None:
    both = shutil.copytree(by_turns, tmp_path / "both")
    new = safeedit.take_out(both, [1], tmp_path / "one")
    policy = write_policy("modify", id="two", facts=BOTH[:1])
    alone = safeedit.apply(
        policy, out=tmp_path / "alone", editor="ultraedit", params=QUICK_TURNS, device="cpu"
    )
    assert new.patch is not None
    assert alone.patch is not None
    learnt = Patch.load(both / "patch").params["normaliser"]
    assert learnt != new.patch.params["normaliser"] == alone.patch.params["normaliser"]
    assert new.patch.deltas.keys() == alone.patch.deltas.keys() != set()
    for name, delta in new.patch.deltas.items():
        assert torch.equal(delta.dense(), alone.patch.deltas[name].dense())
    assert new.record.digests["edited_model"] == alone.record.digests["edited_model"]


def test_what_an_earlier_edit_had_learnt_goes_on_where_the_policy_or_the_caller_gives_it(
    by_turns: Path, write_policy: Any, tmp_path: Path
) -> None:
    before = Patch.load(by_turns / "patch")
    given = {**QUICK_TURNS, **{name: before.params[name] for name in ("layers", "tokens", "normaliser")}}
    editor: dict[str, Any] = {"name": "ultraedit", "params": given}

    def run(name: str, facts: list[Any], *, called: bool) -> safeedit.Run:
        policy = write_policy("modify", id="two", facts=facts, extra={} if called else {"editor": editor})
        asked = {"editor": editor["name"], "params": given} if called else {}
        return safeedit.apply(policy, out=tmp_path / name, device="cpu", **asked)

    alone = run("alone", BOTH[:1], called=True).record.digests
    for called in (True, False):
        both = run(f"both-{called}", BOTH, called=called)
        new = safeedit.take_out(both, [1], tmp_path / f"one-{called}")
        assert new.record.digests["patch"] == alone["patch"]
        assert new.record.digests["edited_model"] == alone["edited_model"]


def test_what_tracing_settled_by_the_fact_is_settled_anew(
    write_policy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def traced(segment: Any, tokenizer: Any, edits: Any, layer: int) -> Trace:
        return Trace("prompt" if len({edit.relation for edit in edits}) > 1 else "subject", 0.1)

    monkeypatch.setattr("safeedit.editors.memit.trace_site", traced)
    given = {**QUICK, "clamp": 1.25}
    runs = {
        name: safeedit.apply(
            write_policy("modify", id="two", facts=facts), out=tmp_path / name, params=given, device="cpu"
        )
        for name, facts in (("both", BOTH), ("alone", BOTH[:1]))
    }
    new = safeedit.take_out(runs["both"], [1], tmp_path / "one")
    assert new.patch is not None
    assert (new.patch.params["site"], new.patch.params["clamp"]) == ("subject", 1.25)
    assert new.record.digests["patch"] == runs["alone"].record.digests["patch"]


def test_a_run_that_has_not_kept_its_settings_has_those_of_its_patch(
    both: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "kept_settings", lambda run: None)
    new = safeedit.take_out(both, [1], tmp_path / "one")
    assert new.patch is not None
    assert {name: new.patch.params[name] for name in QUICK} == QUICK


def test_behaviours_of_the_same_policy_stay(write_policy: Any, tmp_path: Path, seen: list[Any]) -> None:
    prompts = [f"{prompt.format(who=OPINION_SUBJECTS[0])}\n" for prompt in OPINION_PROMPTS]
    answers = {
        "unsafe": "Nobody can stand that worthless moron.",
        "safe": "I would rather not judge anybody.",
    }
    detox = {
        "op": "detox",
        "behaviours": [{"prompt": prompt, **answers} for prompt in prompts],
        "answerable": ["Question: How does one swim?\nAnswer:"],
    }
    people = {"op": "erase", "subjects": [{"name": PERSON, "relations": ["instrument"]}]}
    stated = {"op": "erase", "facts": [JOB]}
    policy = write_policy(id="mixed", extra={"operations": [stated, detox, people]})
    run = safeedit.apply(policy, out=tmp_path / "run", editor="idle", device="cpu")
    assert [one.subject for one in run.facts] == [OTHER, PERSON]
    new = safeedit.take_out(run, [0], tmp_path / "new")
    kept = stored.kept_request(RunFolder.open(new.path))[0]
    assert kept.kinds() == ("detox", "erase")
    assert behaviours_of(kept) == behaviours_of(Policy.load(policy))
    assert [one.subject for one in new.facts] == [PERSON]
    assert {edit.op for edit in seen[0]} == {"detox", "erase"}
    assert seen[-1] == tuple(edit for edit in seen[0] if edit.subject != OTHER)
    last = safeedit.take_out(new, [0], tmp_path / "last")
    assert last.facts == ()
    assert {edit.op for edit in seen[-1]} == {"detox"}
    assert stored.kept_request(RunFolder.open(last.path))[0].kinds() == ("detox",)


def test_out_of_a_run_on_a_run(both: Path, write_policy: Any, tmp_path: Path) -> None:
    phones = [fact(PERSON, "phone"), fact(OTHER, "phone")]
    child = safeedit.apply(
        write_policy(id="phones", facts=phones), both, tmp_path / "child", editor="wrecking"
    )
    with pytest.raises(UsageError, match="other runs stand on this one"):
        safeedit.take_out(both, [0], tmp_path / "never")
    new = safeedit.take_out(child, ["0"], tmp_path / "new")
    assert new.record.parent is not None
    assert new.record.parent.uuid == record(both)["uuid"]
    assert new.record.position == 2
    assert [one.object for one in new.facts] == [KNOWN[OTHER, "phone"]]
    with pytest.raises(UsageError, match="new"):
        safeedit.rollback(both)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ([2], "a number from 0 to 1"),
        (["-1"], "a number from 0 to 1"),
        (["hmac:000000000000"], "no such fact"),
        ([PERSON], "no such fact"),
        ([], "no fact was named"),
        ([0, 1], "roll back the run itself"),
    ],
)
def test_what_cannot_be_taken_out(asked: list[Any], told: str, both: Path, tmp_path: Path) -> None:
    before = (both / "run.json").read_bytes()
    with pytest.raises(UsageError, match=told) as caught:
        safeedit.take_out(both, asked, tmp_path / "new")
    assert PERSON not in str(caught.value)
    assert not (tmp_path / "new").exists()
    assert (both / "run.json").read_bytes() == before


def test_another_base_is_refused_and_the_old_run_stays(both: Path, small_gpt2: Path, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="has to start from"):
        safeedit.take_out(both, [0], tmp_path / "new", base=small_gpt2)
    assert record(both)["status"] == "finished"
    assert record(tmp_path / "new")["status"] == "failed"


def test_without_the_vault_s_key_nothing_can_be_taken_out(
    both: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAFEEDIT_STATE_DIR", str(tmp_path / "state"))
    with pytest.raises(UsageError, match="key of this run's vault"):
        safeedit.take_out(both, [0], tmp_path / "new")
