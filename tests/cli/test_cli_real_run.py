"""The embedded reference model through the command line, from a request to its undoing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from command_types import SCRIPT, Command, WritePolicy
from policies_in_text import CANARIES, ERASURE

from safeedit.models.load import reference_folder

# What the model was trained on lies beside it.
KNOWN = [json.loads(line) for line in (reference_folder() / "controls.jsonl").read_text("utf-8").splitlines()]
PERSON = KNOWN[0]["subject"]
RELATIONS = ("instrument", "occupation")
OBJECTS = [
    fact["object"]
    for relation in RELATIONS
    for fact in KNOWN
    if (fact["subject"], fact["relation"]) == (PERSON, relation)
]
REQUEST = {
    "apiVersion": "safeedit/v1",
    "metadata": {"id": "real-1", "regime": "gdpr-17", "received": "2026-11-02"},
    "operations": [{"op": "erase", "subjects": [{"name": PERSON, "relations": list(RELATIONS)}]}],
    "editor": {"name": "memit", "params": {"statistics_tokens": 4000, "passes": 4}},
    "probes": {"suite": "smoke"},
}


@pytest.fixture(scope="module")
def erased(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run made by the installed script, its exit code and all that it printed."""
    import subprocess

    folder = tmp_path_factory.mktemp("erased")
    (folder / "request.yaml").write_text(json.dumps(REQUEST))
    done = subprocess.run(
        [str(SCRIPT), "erase", "--policy", "request.yaml", "--out", "run", "--device", "cpu", "--save-model"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return {"run": folder / "run", "policy": folder / "request.yaml", "done": done}


@pytest.fixture
def run(erased: dict[str, Any], here: Path) -> Path:
    """A copy of that run, to be spoilt."""
    assert erased["done"].returncode in (0, 1, 3), erased["done"].stderr
    return Path(shutil.copytree(erased["run"], here / "run"))


def test_the_run_is_what_was_printed(erased: dict[str, Any]) -> None:
    done, record = erased["done"], json.loads((erased["run"] / "run.json").read_text())
    assert (record["status"], record["exit_code"]) == ("finished", done.returncode)
    assert f" {record['verdict']} " in done.stdout
    assert done.stdout.endswith("run     run\nnext    safeedit verify run\n")
    for relation in RELATIONS:
        assert relation in done.stdout
    assert "loading the model …" in done.stderr


def test_nothing_personal_is_printed(erased: dict[str, Any]) -> None:
    printed = erased["done"].stdout + erased["done"].stderr
    for canary in (PERSON, *PERSON.split(), *OBJECTS):
        assert canary not in printed
    assert printed.count("hmac:") >= 4


def test_plan_finds_what_the_model_knows(safeedit: Command, erased: dict[str, Any], here: Path) -> None:
    words = ("plan", "--policy", erased["policy"], "--device", "cpu", "--json")
    told = safeedit(*words).json()
    assert [fact["relation"] for fact in told["facts"]] == list(RELATIONS)
    assert all(fact["found"] and fact["action"] == "erase" for fact in told["facts"])
    assert not any(canary in json.dumps(told) for canary in (PERSON, *OBJECTS))
    shown = safeedit("erase", *words[1:], "--dry-run", "--show-sensitive").json()
    assert [fact["object"] for fact in shown["facts"]] == OBJECTS
    assert list(here.iterdir()) == []


def test_verify_rollback_and_the_list(safeedit: Command, run: Path) -> None:
    assert "✓ intact" in safeedit("verify", run).out
    undone = safeedit("rollback", run, "--json").json()
    assert undone["status"] == "rolled_back"
    assert safeedit("verify", run, "--json").json()["status"] == "rolled_back"
    again = safeedit("rollback", run)
    assert (again.code, again.out) == (2, "")
    (listed,) = safeedit("runs", run.parent, "--json").json()["runs"]
    assert (listed["id"], listed["status"]) == ("real-1", "rolled_back")
    assert "rolled_back" in safeedit("runs", run.parent).out


@pytest.mark.parametrize("file", ["probes.json", "audit.jsonl", "patch/patch.safetensors"])
def test_tampering_is_exit_code_5(file: str, safeedit: Command, run: Path) -> None:
    content = bytearray((run / file).read_bytes())
    content[len(content) // 2] ^= 1
    (run / file).write_bytes(content)
    done = safeedit("verify", run)
    assert done.code == 5
    assert file.split("/")[-1] in done.out
    told = safeedit("verify", run, "--json").json()
    assert (told["ok"], told["exit_code"]) == (False, 5)
    assert told["findings"]
    failed = safeedit("rollback", run, "--json")
    assert (failed.code, failed.json()["error"]["kind"]) == (5, "integrity")


def test_the_probes_can_be_repeated(safeedit: Command, erased: dict[str, Any], run: Path) -> None:
    before = json.loads((run / "probes.json").read_text())
    again = safeedit("probe", run, "--device", "cpu", "--json")
    told = again.json()
    assert again.code == told["exit_code"] == erased["done"].returncode
    assert [(r["id"], r["after"], r["verdict"]) for r in told["results"]] == [
        (r["id"], r["after"], r["verdict"]) for r in before["results"]
    ]


def test_what_the_model_never_knew(safeedit: Command, policy: WritePolicy) -> None:
    done = safeedit("erase", "--policy", policy(ERASURE), "--out", "run", "--device", "cpu")
    assert done.code == 3
    assert "NO_BASELINE" in done.out
    assert "nothing was edited" in done.out
    assert not any(canary in done.out + done.err for canary in CANARIES)
    assert safeedit("verify", "run").code == 0


def test_an_interrupted_run_is_not_called_spoilt(safeedit: Command, here: Path) -> None:
    from safeedit.runs.folder import RunFolder

    with pytest.raises(KeyboardInterrupt), RunFolder.create(here / "run", "case-1"):
        raise KeyboardInterrupt
    done = safeedit("verify", "run")
    assert done.code == 5
    assert "? not finished run: 1 finding" in done.out
    assert "start it again with the same command" in done.out
