"""A run from a policy to a verdict, and what it leaves on the disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from run_cases import JOB, KNOWN, NEW_JOB, OTHER, PERSON, QUICK

import safeedit
from safeedit.errors import UsageError
from safeedit.models.generate import greedy
from safeedit.runs.folder import RunFolder
from safeedit.tensors.digest import model_digest


def events(path: Path) -> list[str]:
    return [json.loads(line)["event"] for line in (path / "audit.jsonl").read_text().splitlines()]


def test_the_edit_is_judged_and_passes(modified: Any) -> None:
    verdicts = {probe.id: probe.verdict for probe in modified.probes}
    assert verdicts["success.direct"] == verdicts["success.old_answer"] == "PASS"
    assert (modified.verdict, modified.exit_code) == ("PASS", 0)
    assert modified.grade is None, "the smoke suite is no evidence"
    assert modified.known == (True,)
    assert [fact.object for fact in modified.facts] == [JOB["object"]]


def test_the_record_says_what_was_done_and_with_what(modified: Any) -> None:
    record = json.loads((modified.path / "run.json").read_text())
    assert (record["status"], record["verdict"], record["exit_code"]) == ("finished", "PASS", 0)
    assert (record["model"], record["device"], record["dtype"], record["seed"]) == (
        "reference",
        "cpu",
        "float32",
        0,
    )
    assert record["editor"]["name"] == "memit"
    assert record["editor"]["params"]["clamp"] == 1.5
    assert record["editor"]["params"]["layers"], "the layers that were chosen are part of the record"
    assert {"base_model", "policy", "patch", "edited_model", "probes"} <= record["digests"].keys()
    assert record["digests"]["patch"] == modified.patch.digest
    assert {"load", "baseline", "edit", "probes"} <= record["seconds"].keys()
    assert record["peak_memory_bytes"] > 10**7
    assert {"safeedit", "torch", "transformers", "python"} <= record["versions"].keys()


def test_probes_are_registered_before_anything_is_edited(modified: Any) -> None:
    found = events(modified.path)
    wanted = [
        "run.started",
        "policy.registered",
        "model.loaded",
        "probes.registered",
        "baseline.measured",
        "edit.started",
        "edit.made",
        "probes.measured",
        "verdict.reached",
        "run.finished",
    ]
    assert found[: len(wanted)] == wanted


def test_the_commitment_in_the_log_is_to_the_probes_that_were_run(modified: Any) -> None:
    entries = [json.loads(line) for line in (modified.path / "audit.jsonl").read_text().splitlines()]
    registered = next(entry["data"] for entry in entries if entry["event"] == "probes.registered")
    assert registered["probes"] == modified.record.digests["probes"]
    asked = {row["prompt"] for row in modified.report.transcripts()["before"]}
    assert registered["prompts"] >= len(asked) > 50


def test_the_folder_is_the_contract_s(modified: Any) -> None:
    names = {path.name for path in modified.path.iterdir()}
    assert names == {"run.json", "audit.jsonl", "probes.json", "patch", "vault", ".lock"}
    content = json.loads((modified.path / "probes.json").read_text())
    assert content["suite"] == "smoke"
    first = content["results"][0]
    keys = {"id", "family", "grade", "metric", "unit", "before", "after", "n", "leaks", "upper95"}
    assert keys | {"placebo", "gate", "verdict", "protocol"} <= first.keys()
    assert safeedit.verify(modified.path).findings == ()


def test_the_vault_holds_the_request_and_what_was_said(modified: Any) -> None:
    vault = RunFolder.open(modified.path).vault
    assert set(vault.names()) == {"request", "model", "facts", "known", "transcripts"}
    assert OTHER in vault.get("request")["text"]
    assert vault.get("transcripts")["after"] != vault.get("transcripts")["before"]


def test_the_loaded_model_says_the_new_object_and_is_the_one_that_was_judged(modified: Any) -> None:
    model, tokenizer = safeedit.load(modified.path)
    assert model_digest(model) == modified.record.digests["edited_model"]
    prompts = [f"By profession {OTHER} is a", f"By profession {PERSON} is a"]
    edited, other = (found.text for found in greedy(model, tokenizer, prompts, max_new_tokens=4))
    assert edited.strip().startswith(NEW_JOB)
    assert other.strip().startswith(KNOWN[PERSON, "occupation"])
    ids = tokenizer(prompts[0], return_tensors="pt")
    written = model.generate(**ids, max_new_tokens=3, do_sample=False)
    assert NEW_JOB in tokenizer.decode(written[0])


def test_run_model_is_load(modified: Any) -> None:
    model, _ = modified.model(device="cpu")
    assert model_digest(model) == modified.record.digests["edited_model"]


def test_the_patch_goes_on_and_off_bit_for_bit(modified: Any, reference: Any) -> None:
    before = {name: tensor.clone() for name, tensor in reference.model.state_dict().items()}
    patch = safeedit.Patch.load(modified.path / "patch")
    with patch.applied(reference.model):
        assert model_digest(reference.model) == modified.record.digests["edited_model"]
    after = reference.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_same_seed_gives_the_same_patch(
    modified: Any, given: Any, tmp_path: Path, write_policy: Any
) -> None:
    policy = write_policy("modify", facts=[{**JOB, "new_object": NEW_JOB}])
    again = safeedit.apply(policy, given.pair, tmp_path / "run", params=QUICK)
    assert again.patch == modified.patch
    assert again.record.digests["policy"] != modified.record.digests["policy"], "commitments are keyed"


def test_a_second_run_into_the_folder_is_refused(modified: Any, write_policy: Any) -> None:
    before = (modified.path / "run.json").read_bytes()
    policy = write_policy("modify", facts=[{**JOB, "new_object": NEW_JOB}])
    with pytest.raises(UsageError, match="already holds a finished run") as caught:
        safeedit.apply(policy, out=modified.path, params=QUICK)
    assert caught.value.exit_code == 2
    assert (modified.path / "run.json").read_bytes() == before


def test_a_person_is_found_by_asking_and_only_what_is_known_is_edited(
    nobody: str, given: Any, tmp_path: Path, write_policy: Any, seen: list[Any]
) -> None:
    subjects = [
        {"name": PERSON, "aliases": ["M. Tolland"], "relations": ["instrument", "phone"]},
        {"name": nobody, "relations": ["phone"]},
    ]
    policy = write_policy("erase", subjects=subjects)
    run = safeedit.apply(policy, given.pair, tmp_path / "run", editor="idle")
    assert {(fact.subject, fact.relation, fact.object) for fact in run.facts} == {
        (PERSON, "instrument", KNOWN[PERSON, "instrument"]),
        (PERSON, "phone", KNOWN[PERSON, "phone"]),
    }
    assert [one.known for one in run.resolved] == [True, True, False]
    assert {edit.subject for edit in seen[0]} == {PERSON, "M. Tolland"}
    assert json.loads((run.path / "probes.json").read_text())["subjects"] == {"n": 2, "known": 1}
    log = (run.path / "audit.jsonl").read_text()
    assert '"known":2,"known_subjects":1,"relations":3,"subjects":2' in log


def test_a_loaded_model_takes_no_device(given: Any, tmp_path: Path, write_policy: Any) -> None:
    with pytest.raises(UsageError, match="loaded already"):
        safeedit.apply(write_policy(facts=[JOB]), given.pair, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_progress_names_every_stage(given: Any, tmp_path: Path, write_policy: Any) -> None:
    told: list[tuple[str, int, int]] = []
    policy = write_policy(subjects=[{"name": PERSON, "relations": ["instrument"]}])
    safeedit.apply(
        policy, given.pair, tmp_path / "run", editor="idle", progress=lambda *what: told.append(what)
    )
    stages = dict.fromkeys(stage for stage, _, _ in told)
    assert list(stages) == ["load", "subjects", "register", "baseline", "edit", "probes"]
    assert all(0 <= done <= total for _, done, total in told)
    assert {stage: (done, total) for stage, done, total in told}["probes"][0] > 1
