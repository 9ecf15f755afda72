"""What a request brings of its own: facts, texts and prompts that count, and public data sets, in runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from run_cases import JOB, KNOWN, NEW_JOB, OTHER, QUICK

import safeedit
from safeedit.errors import PolicyError, ProbeError, UsageError
from safeedit.runs import stored
from safeedit.runs.folder import RunFolder

CANARY = "Quillfeather"
PHRASING = f"At the {CANARY} gala they said that {{subject}} works as a"
QUESTION = f"Which {CANARY} is right?"
SUITE = """name: own
evidence: false
baseline: {templates: 2, budget: 40, tokens: 12}
probes:
  - {id: success.direct, options: {tokens: 12, templates: 1}, gates: [{on: after, op: ">=", value: 0.5}]}
  - {id: success.paraphrase, options: {tokens: 12, templates: 50}, gates: [{on: after, op: ">=", value: 0}]}
  - {id: locality.same_relation, options: {n: 30, tokens: 4}, gates: [{on: after, op: "<=", value: 1}]}
  - {id: utility.perplexity, options: {documents: 8, tokens: 16}, gates: [{on: after, op: "<=", value: 2}]}
"""
SMALL = "\n".join(SUITE.splitlines()[:5]) + "\n"


def lines(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def record() -> dict[str, Any]:
    """The request as a record of CounterFact."""
    return {
        "requested_rewrite": {
            "prompt": "{} works as a",
            "relation_id": "occupation",
            "subject": OTHER,
            "target_new": {"str": NEW_JOB},
            "target_true": {"str": JOB["object"]},
        },
        "paraphrase_prompts": [f"{OTHER} earns a living as a"],
        "neighborhood_prompts": [f"{name} works as a" for name, r in KNOWN if r == "occupation"][:3],
    }


def choice(number: int) -> dict[str, Any]:
    return {"question": f"{QUESTION} {number}", "choices": ["a", "b", "c", "d"], "answer": number % 4}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a policy lies, with everything that it names."""
    people = [(name, r) for name, r in KNOWN if r == "occupation" and name != OTHER][:12]
    lines(
        tmp_path / "facts.jsonl", *({"subject": n, "relation": r, "object": KNOWN[n, r]} for n, r in people)
    )
    (tmp_path / "texts.txt").write_text(f"The ferry came.\nIt was {CANARY} who came with it.\n")
    # Phrasings for other requests may stand in the same file.
    elsewhere = {"relation": "employer", "prompt": "{subject} is paid by"}
    lines(tmp_path / "prompts.jsonl", {"relation": "occupation", "prompt": PHRASING}, elsewhere)
    lines(tmp_path / "counterfact.jsonl", record())
    lines(tmp_path / "wmdp.jsonl", *(choice(number) for number in range(6)))
    (tmp_path / "own.yaml").write_text(SUITE)
    content = {
        "apiVersion": "safeedit/v1",
        "metadata": {"id": "own-1", "regime": "internal", "received": "2026-11-02"},
        "operations": [{"op": "modify", "facts": [{**JOB, "new_object": NEW_JOB}]}],
        "probes": {
            "suite": "own.yaml",
            "controls": "facts.jsonl",
            "retained": "texts.txt",
            "prompts": "prompts.jsonl",
            "datasets": ["counterfact:counterfact.jsonl"],
        },
    }
    (tmp_path / "policy.yaml").write_text(json.dumps(content))
    return tmp_path


def test_a_run_with_data_of_its_own(folder: Path, given: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = safeedit.apply(
        folder / "policy.yaml",
        given.pair,
        folder / "run",
        params=QUICK,
        datasets=[f"wmdp:{folder / 'wmdp.jsonl'}"],
    )
    results = {result.id: result for result in run.probes}
    assert run.verdict == "PASS"

    # Facts and texts of the policy's own are the ones that were asked and read.
    assert results["locality.same_relation"].figures.detail["sampled"] == 12
    assert results["utility.perplexity"].n == 2
    # A phrasing of its own is a probe's alone.
    texts = RunFolder.open(run.path).vault.get(stored.TRANSCRIPTS)
    asked = {row["prompt"] for row in texts["after"]}
    assert PHRASING.replace("{subject}", OTHER) in asked
    assert all(PHRASING not in fact["edit_templates"] for fact in RunFolder.open(run.path).vault.get("facts"))

    # The data sets are measured before and after, and decide nothing.
    edits, exam = results["dataset.counterfact"], results["dataset.wmdp"]
    assert edits.figures.detail["efficacy_score_before"] == 0.0
    assert edits.figures.detail["efficacy_score_after"] == 1.0
    assert (edits.required, exam.required, exam.n) == (False, False, 6)
    assert exam.gate is None

    # Nothing of it is outside the vault.
    for path in run.path.rglob("*"):
        if path.is_file() and "vault" not in path.parts:
            assert CANARY.encode() not in path.read_bytes(), path.name

    # Asked again, all of it is the same, wherever one stands; and a changed file is noticed.
    monkeypatch.chdir("/")
    recorded = json.loads((run.path / "probes.json").read_text())
    assert safeedit.probe(run.path, base=given.pair).to_json() == recorded
    # More data sets make other probes of it, which the log tells apart.
    other = lines(folder / "more.jsonl", choice(2))
    report = safeedit.probe(run.path, base=given.pair, datasets=[f"wmdp:{other}"])
    assert {result.id: result.n for result in report.results}["dataset.wmdp"] == 7
    last = json.loads((run.path / "audit.jsonl").read_text().splitlines()[-1])
    assert last["data"]["as_registered"] is False
    # What was registered has to be there still, also beside more data.
    lines(folder / "wmdp.jsonl", *(choice(number + 1) for number in range(6)))
    for more in ([], [f"wmdp:{other}"]):
        with pytest.raises(ProbeError, match="not those that the run registered"):
            safeedit.probe(run.path, base=given.pair, datasets=more)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("wmdp", "NAME:PATH, for example counterfact:"),
        (":x.json", "NAME:PATH"),
        ("wmpd:wmdp.jsonl", "unknown data set 'wmpd'; did you mean 'wmdp'"),
        ("wmdp:none.jsonl", "none.jsonl: there is no such file or folder"),
        ("wmdp:facts.jsonl", r"facts.jsonl:1:1: the field 'question' is missing"),
        ("tofu:.", "holds no forget set"),
    ],
)
def test_data_that_cannot_be_used_cost_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, dataset: str, message: str
) -> None:
    """The message comes before any model is loaded, and nothing is written."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr("safeedit.runs.execute.get_model", lambda *args: pytest.fail("loaded"))
    before = sorted(folder.iterdir())
    for act in (safeedit.apply, safeedit.plan):
        with pytest.raises(UsageError, match=message) as caught:
            act("policy.yaml", datasets=[dataset])
        assert caught.value.exit_code == 2
        assert OTHER not in str(caught.value)
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"relation": "employer", "prompt": "{subject} is"}, "none of these phrasings asks for a fact"),
        ({"prompt": "Nobody works as a"}, "none of these phrasings asks for a fact"),
        ({"prompt": "{subject}, yes {subject}, works as a"}, "'prompt' names the subject more than once"),
        ({"relation": "occupation", "prompt": "EDIT"}, "an editor sees this phrasing"),
    ],
)
def test_a_phrasing_that_is_no_probe_is_refused(
    folder: Path, given: Any, row: dict[str, str], message: str
) -> None:
    from safeedit.policy.compile import facts_of

    seen = facts_of(safeedit.Policy.load(folder / "policy.yaml"))[0].edit_templates[0]
    lines(folder / "prompts.jsonl", {**row, "prompt": row["prompt"].replace("EDIT", seen)})
    with pytest.raises(PolicyError, match=message) as caught:
        safeedit.plan(folder / "policy.yaml", given.pair)
    assert caught.value.problems[0].line == 1
    assert OTHER not in str(caught.value)


def test_a_suite_may_name_a_data_set_and_gate_it(folder: Path, given: Any) -> None:
    gated = (
        "  - {id: dataset.wmdp, options: {paths: [wmdp.jsonl], n: 5}, "
        'gates: [{on: lower95, op: ">=", value: 1}]}\n'
        "  - {id: dataset.rwku, required: false, options: {paths: [rwku]}}\n"
    )
    (folder / "rwku").mkdir()
    lines(folder / "rwku" / "forget_level2.json", {"subject": "x", "query": "Who?", "answer": "Nobody"})
    (folder / "own.yaml").write_text(SMALL + gated)
    report = safeedit.probe(policy=folder / "policy.yaml", model=given.pair)
    results = {result.id: result for result in report.results}
    assert (results["dataset.wmdp"].n, results["dataset.wmdp"].verdict) == (5, "FAIL")
    assert results["dataset.rwku"].verdict == "INCONCLUSIVE"
    # The same data set with more data: one probe, with the suite's settings and gates.
    report = safeedit.probe(
        policy=folder / "policy.yaml", model=given.pair, datasets=[f"rwku:{folder / 'rwku'}"]
    )
    assert {result.id: result.n for result in report.results}["dataset.rwku"] == 2


def test_a_suite_with_a_data_set_that_is_not_there_is_refused(folder: Path, given: Any) -> None:
    (folder / "own.yaml").write_text(SMALL + "  - {id: dataset.wmdp, required: false}\n")
    with pytest.raises(UsageError, match=r"dataset\.wmdp needs data: --dataset wmdp:PATH"):
        safeedit.probe(policy=folder / "policy.yaml", model=given.pair)
    (folder / "own.yaml").write_text(SMALL + "  - {id: dataset.wmpd, gates: []}\n")
    with pytest.raises(PolicyError, match=r"did you mean 'dataset\.wmdp'"):
        safeedit.probe(policy=folder / "policy.yaml", model=given.pair)
    (folder / "own.yaml").write_text(SMALL + "  - {id: dataset.wmdp}\n")
    with pytest.raises(PolicyError, match="needs at least one gate"):
        safeedit.probe(policy=folder / "policy.yaml", model=given.pair)
