"""Planted failures: what is edited wrongly, not at all or half is noticed, recorded and taken back."""

from __future__ import annotations

import json
import traceback
from pathlib import Path
from typing import Any

import planted_editors
import pytest
from run_cases import JOB, MUSIC, OTHER, PERSON, QUICK, UNKNOWN

import safeedit
from safeedit.errors import EditorError, ModelError, SafeEditError, UsageError
from safeedit.models import generate
from safeedit.runs.guard import RESULTS


def record_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "run.json").read_text())
    return found


def no_results(path: Path) -> bool:
    return not any((path / name).exists() for name in RESULTS)


@pytest.mark.parametrize("editor", ["idle", "empty"])
def test_an_editor_that_does_nothing_fails(
    editor: str, given: Any, tmp_path: Path, write_policy: Any
) -> None:
    run = safeedit.apply(write_policy(facts=[JOB]), given.pair, tmp_path / "run", editor=editor)
    assert (run.verdict, run.exit_code) == ("FAIL", 1)
    assert run.record.digests["edited_model"] == run.record.digests["base_model"]
    assert safeedit.verify(run.path).ok


def test_a_model_that_was_wrecked_does_not_pass_for_having_forgotten(
    given: Any, tmp_path: Path, write_policy: Any
) -> None:
    run = safeedit.apply(write_policy(facts=[JOB]), given.pair, tmp_path / "run", editor="wrecking")
    verdicts = {probe.id: probe.verdict for probe in run.probes}
    assert verdicts["utility.perplexity"] == "FAIL"
    assert (run.verdict, run.exit_code) == ("FAIL", 1)


@pytest.mark.parametrize(
    ("editor", "kind", "told"),
    [
        ("raising", SafeEditError, "stage 'edit' failed .RuntimeError."),
        ("not-finite", EditorError, "not finite"),
        ("careless", EditorError, "left the model changed"),
        ("foreign", EditorError, "for another model"),
        ("no-patch", SafeEditError, "failed .AttributeError."),
    ],
)
def test_a_failing_editor_leaves_the_model_and_no_result(
    editor: str, kind: type[SafeEditError], told: str, given: Any, tmp_path: Path, write_policy: Any
) -> None:
    out = tmp_path / "run"
    with pytest.raises(SafeEditError, match=told) as caught:
        safeedit.apply(write_policy(facts=[JOB]), given.pair, out, editor=editor)
    given.check()
    assert type(caught.value) is kind
    assert caught.value.exit_code == 4
    assert no_results(out)
    record = record_of(out)
    assert (record["status"], record["verdict"], record["exit_code"]) == ("failed", "ERROR", 4)
    assert safeedit.verify(out).ok
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert not any(word in shown for word in (OTHER, JOB["object"], "works as a"))


def test_the_whole_error_is_shown_only_where_that_is_asked_for(
    given: Any, tmp_path: Path, write_policy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAFEEDIT_DEBUG", "1")
    with pytest.raises(RuntimeError, match=OTHER):
        safeedit.apply(write_policy(facts=[JOB]), given.pair, tmp_path / "run", editor="raising")
    assert record_of(tmp_path / "run")["status"] == "failed"


def test_an_interrupted_run_says_so_and_starts_again(given: Any, tmp_path: Path, write_policy: Any) -> None:
    out, policy = tmp_path / "run", write_policy(facts=[JOB])
    with pytest.raises(KeyboardInterrupt):
        safeedit.apply(policy, given.pair, out, editor="interrupted")
    given.check()
    assert record_of(out)["status"] == "interrupted"
    assert no_results(out)
    assert [finding.code for finding in safeedit.verify(out).findings] == ["interrupted"]
    with pytest.raises(UsageError, match="has not come to its end"):
        safeedit.load(out)
    run = safeedit.apply(policy, given.pair, out, editor="idle")
    assert run.record.status == "finished"
    assert "run.restarted" in (out / "audit.jsonl").read_text()
    assert safeedit.verify(out).ok


@pytest.mark.parametrize("stage", ["subjects", "baseline", "statistics", "values", "weights", "probes"])
def test_an_interrupt_at_any_stage_leaves_model_and_folder_whole(
    stage: str, given: Any, tmp_path: Path, write_policy: Any
) -> None:
    def stop(now: str, done: int, total: int) -> None:
        if now == stage:
            raise KeyboardInterrupt

    out = tmp_path / "run"
    policy = write_policy(subjects=[{"name": PERSON, "relations": ["instrument"]}])
    # A number of tokens of its own, so that no cache can spare the pass over the corpus.
    params = {**QUICK, "statistics_tokens": 3000 + len(stage)}
    with pytest.raises(KeyboardInterrupt):
        safeedit.apply(policy, given.pair, out, params=params, progress=stop)
    given.check()
    assert record_of(out)["status"] == "interrupted"
    assert no_results(out)


def test_what_the_model_never_knew_is_reported_and_not_edited(
    given: Any, tmp_path: Path, write_policy: Any, seen: list[Any]
) -> None:
    run = safeedit.apply(write_policy(facts=[UNKNOWN]), given.pair, tmp_path / "run", editor="idle")
    assert (run.verdict, run.exit_code, run.known) == ("NO_BASELINE", 3, (False,))
    assert seen == []
    assert run.patch is None
    assert not (run.path / "patch").exists()
    assert "edit.refused" in (run.path / "audit.jsonl").read_text()
    assert safeedit.verify(run.path).ok
    with pytest.raises(UsageError, match="edited nothing"):
        safeedit.rollback(run.path)


def test_of_several_facts_only_those_that_are_known_are_edited(
    given: Any, tmp_path: Path, write_policy: Any, seen: list[Any]
) -> None:
    run = safeedit.apply(write_policy(facts=[UNKNOWN, MUSIC]), given.pair, tmp_path / "run", editor="idle")
    assert run.known == (False, True)
    assert [edit.subject for edit in seen[0]] == [PERSON]
    assert run.verdict == "FAIL"


def test_an_insertion_needs_no_baseline(
    given: Any, tmp_path: Path, write_policy: Any, seen: list[Any]
) -> None:
    safeedit.apply(write_policy("insert", facts=[UNKNOWN]), given.pair, tmp_path / "run", editor="idle")
    assert [edit.target for edit in seen[0]] == [UNKNOWN["object"]]


def test_a_person_of_whom_nothing_is_known_is_no_baseline(
    nobody: str, given: Any, tmp_path: Path, write_policy: Any
) -> None:
    policy = write_policy(subjects=[{"name": nobody, "relations": ["phone", "email"]}])
    run = safeedit.apply(policy, given.pair, tmp_path / "run", editor="idle")
    assert (run.verdict, run.exit_code, run.facts) == ("NO_BASELINE", 3, ())
    content = json.loads((run.path / "probes.json").read_text())
    assert (content["verdict"], content["results"]) == ("NO_BASELINE", [])
    assert content["subjects"] == {"n": 1, "known": 0}
    assert safeedit.verify(run.path).ok
    with pytest.raises(UsageError, match="knew nothing"):
        safeedit.probe(run.path)


def test_an_erasure_that_finds_nothing_does_not_pass_for_an_insertion_that_holds(
    nobody: str, given: Any, tmp_path: Path, write_policy: Any
) -> None:
    """The person leaves no fact, and the verdict must still be one on the erasure as well."""
    suite = tmp_path / "stated.yaml"
    gates = "gates: [{on: after, op: '>=', value: 0.5}]"
    probes = "".join(f"  - {{id: success.{name}, {gates}}}\n" for name in ("direct", "paraphrase"))
    suite.write_text(f"name: stated\nprobes:\n{probes}")
    stated = {"op": "insert", "facts": [JOB]}  # it holds without any edit, so that the idle editor will do
    person = {"op": "erase", "subjects": [{"name": nobody, "relations": ["phone", "email"]}]}
    found = {}
    for name, operations in (("alone", [stated]), ("with a person", [stated, person])):
        policy = write_policy(extra={"operations": operations})
        run = safeedit.apply(policy, given.pair, tmp_path / name, editor="idle", suite=suite)
        found[name] = (run.verdict, run.exit_code, {result.verdict for result in run.report.results})
    assert found == {"alone": ("PASS", 0, {"PASS"}), "with a person": ("INCONCLUSIVE", 3, {"PASS"})}


def test_a_baseline_that_cannot_be_measured_is_an_error_and_nothing_is_edited(
    given: Any, tmp_path: Path, write_policy: Any, seen: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ModelError("the model gave a logit that is not finite")

    monkeypatch.setattr(generate, "greedy", broken)
    run = safeedit.apply(write_policy(facts=[JOB]), given.pair, tmp_path / "run", editor="idle")
    assert (run.verdict, run.exit_code) == ("ERROR", 4)
    assert (seen, run.patch) == ([], None)


def test_a_measurement_that_fails_after_the_edit_is_an_error(
    given: Any, tmp_path: Path, write_policy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = generate.greedy, []

    def fails_later(*args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) > 2:
            raise ModelError("the model gave a logit that is not finite")
        return real(*args, **options)

    monkeypatch.setattr(generate, "greedy", fails_later)
    run = safeedit.apply(write_policy(facts=[JOB]), given.pair, tmp_path / "run", editor="wrecking")
    assert (run.verdict, run.exit_code) == ("ERROR", 4)


def test_a_full_disk_leaves_no_half_of_a_patch(
    given: Any, tmp_path: Path, write_policy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Any, folder: Path) -> Path:
        Path(folder).mkdir()
        (Path(folder) / "patch.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device", str(folder))

    monkeypatch.setattr(safeedit.Patch, "save", full)
    with pytest.raises(SafeEditError, match="OSError: No space left on device") as caught:
        safeedit.apply(write_policy(facts=[JOB]), given.pair, tmp_path / "run", editor="idle")
    assert caught.value.exit_code == 4
    assert no_results(tmp_path / "run")
    assert record_of(tmp_path / "run")["status"] == "failed"


DETOX = {"behaviours": [{"prompt": "Say something.", "unsafe": "Idiot.", "safe": "Hello."}]}


@pytest.mark.parametrize(
    ("policy", "options", "told"),
    [
        ({"op": "detox", **DETOX}, {"editor": "memit"}, "memit cannot detox: "),
        ({"facts": [JOB]}, {"kinds": "modify"}, "safeedit apply"),
        ({"facts": [JOB]}, {"kinds": ("insert", "modify")}, "'erase'.*safeedit apply"),
        ({"facts": [JOB]}, {"editor": "memitt"}, "did you mean 'memit'"),
        ({"facts": [JOB]}, {"params": {"layer": [1]}}, "did you mean 'layers'"),
        ({"facts": [JOB]}, {"params": {"steps": 0}}, "steps"),
        ({"facts": [JOB]}, {"suite": "smok"}, "did you mean 'smoke'"),
        (
            {"facts": [JOB], "suite": "nowhere.yaml"},
            {},
            r"policy\.yaml:1:\d+: 'suite': there is no such file",
        ),
        ({"facts": [JOB]}, {"model": "./nowhere"}, "no folder"),
        ({"facts": [JOB]}, {"device": "tpu"}, "unknown device"),
        ({"facts": [JOB]}, {"dtype": "int8"}, "unknown dtype"),
        ({"facts": [JOB]}, {"statistics": "./nowhere/at/all.txt"}, "no file"),
        (
            {"facts": [JOB], "extra": {"editor": {"name": "memit", "params": {"lay": 1}}}},
            {},
            r"policy\.yaml:1:\d+: .*no such setting",
        ),
    ],
)
def test_what_cannot_be_done_as_asked_is_refused_before_anything_is_written(
    policy: dict[str, Any], options: dict[str, Any], told: str, tmp_path: Path, write_policy: Any
) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        safeedit.apply(write_policy(**policy), out=tmp_path / "run", **options)
    assert caught.value.exit_code == 2
    assert not any(tmp_path.iterdir())


def test_an_editor_that_cannot_do_the_operation_is_refused(
    tmp_path: Path, write_policy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import planted_editors

    monkeypatch.setattr(planted_editors.Planted, "operations", frozenset({"insert"}))
    policy = write_policy(subjects=[{"name": PERSON}])
    with pytest.raises(UsageError, match="idle cannot erase; it can insert"):
        safeedit.apply(policy, out=tmp_path / "run", editor="idle")
    assert not any(tmp_path.iterdir())


def test_a_layer_that_the_model_has_not_is_the_caller_s_mistake(
    given: Any, tmp_path: Path, write_policy: Any
) -> None:
    params = {**QUICK, "layers": [40]}
    with pytest.raises(UsageError, match="40 is too large"):
        safeedit.apply(write_policy(facts=[JOB]), given.pair, tmp_path / "run", params=params)
    assert record_of(tmp_path / "run")["exit_code"] == 2


def test_what_a_policy_protects_reaches_the_editor(given: Any, tmp_path: Path, write_policy: Any) -> None:
    policy = write_policy(facts=[MUSIC], extra={"protect": ["The lighthouse is kept by"]})
    safeedit.apply(policy, given.pair, tmp_path / "run", editor="idle")
    assert tuple(planted_editors.Planted.options["controls"]) == ("The lighthouse is kept by",)
    safeedit.apply(write_policy(facts=[MUSIC]), given.pair, tmp_path / "other", editor="idle")
    assert tuple(planted_editors.Planted.options["controls"]) == ()
