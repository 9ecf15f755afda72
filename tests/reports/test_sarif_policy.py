"""`report --format sarif --policy FILE`: results point at the policy of the run, and at no other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import safeedit
from safeedit.errors import UsageError
from safeedit.evidence.shred import shred
from safeedit.policy import Policy
from safeedit.reports.publish import publish
from safeedit.runs.folder import RunFolder

POLICY = """\
apiVersion: safeedit/v1
metadata: {id: dsar-7, regime: gdpr-17, received: 2026-11-02, description: about Zebulon Quackenbush}
operations:
  - op: erase
    facts_file: people.jsonl
probes:
  suite: standard
"""
FACT = '{"subject": "Zebulon Quackenbush", "relation": "employer", "object": "Xylographic Works"}\n'


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "case.yaml"
    path.write_text(POLICY)
    (tmp_path / "people.jsonl").write_text(FACT)
    return path


@pytest.fixture
def run(policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run of that policy, with the request in its vault as `apply` keeps it."""
    monkeypatch.setenv("SAFEEDIT_STATE_DIR", str(tmp_path / "state"))
    content = Policy.load(policy).model_dump(mode="json", exclude_none=True)
    kept = {"text": POLICY, "policy": content, "suite": "standard", "statistics": None, "own": {}}
    with RunFolder.create(tmp_path / "runs" / "run", "dsar-7") as folder:
        folder.vault.put("request", kept)
        commitment = folder.redactor.commitment(content)
        told: dict[str, Any] = {"policy": commitment, "regime": "gdpr-17", "received": "2026-11-02"}
        folder.update("policy.registered", told, digests={"policy": commitment})
        (folder.path / "probes.json").write_text(json.dumps({"facts": {"n": 1, "known": 1}, "results": []}))
        folder.finish("NO_BASELINE", None, 3)
    return folder.path


def place(text: str) -> Any:
    """File and line of the one result."""
    (result,) = json.loads(text)["runs"][0]["results"]
    where = result["locations"][0]["physicalLocation"]
    return where["artifactLocation"]["uri"], where["region"]["startLine"]


def test_the_policy_of_the_run(run: Path, policy: Path) -> None:
    assert place(publish(run, "sarif", policy=policy)[0])[1] == 3
    policy.write_text("# as its author reads it\n\n" + POLICY.replace(": {", ":  { "))
    assert place(publish(run, "sarif", policy=policy)[0])[1] == 5


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("dsar-7", "dsar-8"),
        ("op: erase", "op: insert"),
        ("2026-11-02", "2026-11-03"),
        ("metadata: {id: dsar-7, ", "metadata: {"),
    ],
)
def test_another_policy_is_refused(run: Path, policy: Path, tmp_path: Path, old: str, new: str) -> None:
    policy.write_text(POLICY.replace(old, new))
    before = (run / "audit.jsonl").read_bytes()
    with pytest.raises(UsageError) as caught:
        publish(run, "sarif", tmp_path / "out.sarif", policy)
    assert str(caught.value) == f"{policy} is not the policy of this run (id dsar-7)"
    assert not (tmp_path / "out.sarif").exists()
    assert (run / "audit.jsonl").read_bytes() == before


def test_other_facts_are_another_policy(run: Path, policy: Path, tmp_path: Path) -> None:
    (tmp_path / "people.jsonl").write_text(FACT.replace("Quackenbush", "Marmalade"))
    with pytest.raises(UsageError, match="is not the policy of this run") as caught:
        publish(run, "sarif", policy=policy)
    assert "Marmalade" not in str(caught.value)


def test_where_nothing_more_can_be_compared_the_id_decides(run: Path, policy: Path, tmp_path: Path) -> None:
    """Facts lie beside a policy in no repository; and a vault that was shredded has nothing to compare."""
    (tmp_path / "people.jsonl").unlink()
    assert place(publish(run, "sarif", policy=policy)[0])[1] == 3
    shred(run)
    policy.write_text(POLICY.replace("op: erase", "op: insert"))
    assert place(publish(run, "sarif", policy=policy)[0])[1] == 3
    policy.write_text(POLICY.replace("dsar-7", "dsar-8"))
    with pytest.raises(UsageError, match=r"is not the policy of this run \(id dsar-7\)"):
        publish(run, "sarif", policy=policy)


def test_a_run_with_facts_taken_out_goes_by_its_id(run: Path, policy: Path, tmp_path: Path) -> None:
    """Its vault holds what is left of the policy, which is no file."""
    left = {"text": "{}", "policy": {"less": True}, "suite": "standard", "statistics": None, "own": {}}
    other = "01234567-89ab-4def-8123-456789abcdef"
    with RunFolder.create(tmp_path / "runs" / "less", "dsar-7", replaces=other) as folder:
        folder.vault.put("request", left)
        (folder.path / "probes.json").write_text(json.dumps({"facts": {"n": 1, "known": 1}, "results": []}))
        folder.note("policy.registered", regime="gdpr-17", received="2026-11-02")
        folder.finish("NO_BASELINE", None, 3)
    assert place(publish(folder.path, "sarif", policy=policy)[0])[1] == 3


def test_the_policy_of_a_run_that_was_carried_out(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAFEEDIT_STATE_DIR", str(tmp_path / "state"))
    policy.write_text(POLICY.replace("suite: standard", "suite: smoke"))
    done = safeedit.apply(policy, out=tmp_path / "runs" / "real", device="cpu")
    assert done.verdict == "NO_BASELINE"
    assert place(publish(done.path, "sarif", policy=policy)[0])[1] == 3
    policy.write_text(POLICY)
    with pytest.raises(UsageError, match="is not the policy of this run"):
        publish(done.path, "sarif", policy=policy)
