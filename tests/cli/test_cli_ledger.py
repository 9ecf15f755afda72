"""`verify`, `ledger` and `shred` on runs without a model; and that none of them tells of whom a run was."""

from __future__ import annotations

import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from command_types import Command, Done
from policies_in_text import CANARIES, ERASURE
from signed_runs import Clock, make_run

from safeedit.evidence.ledger import LEDGER
from safeedit.runs import stored
from safeedit.runs.folder import RunFolder
from safeedit.runs.keys import STATE_VARIABLE, RunKey
from safeedit.triples.facts import Fact

FACT = Fact("erase", "Zebulon Quackenbush", "employer", "Xylographic Marmalade Works")


@pytest.fixture
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder and a folder for temporary files, of this test alone."""
    for variable, name in ((STATE_VARIABLE, "state"), ("TMPDIR", "temporary")):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / name))
    return tmp_path / "state"


@pytest.fixture
def runs(here: Path, own_state: Path) -> Path:
    """A workspace of two runs, whose vaults hold the request."""
    # Long past on every machine: the commands go on by the machine's own clock.
    clock = Clock(datetime(2024, 11, 2, tzinfo=UTC))
    for name in ("one", "two"):
        make_run(here / "runs" / name, clock)
    path = here / "runs" / "three"
    with RunFolder.create(path, "case-1", clock=clock) as folder:
        folder.vault.put(stored.REQUEST, {"text": ERASURE})
        stored.keep_facts(folder, [FACT])
        folder.finish("PASS", "G1", 0)
    return here / "runs"


@pytest.fixture
def key(safeedit: Command, own_state: Path) -> Path:
    """A trusted key without a passphrase."""
    made = safeedit("keys", "new", "auditor", "--no-passphrase", "--json").json()
    assert safeedit("keys", "trust", "auditor", made["public"]).code == 0
    return Path(made["private"])


def test_verify_has_one_line_for_each_thing_checked(safeedit: Command, runs: Path) -> None:
    done = safeedit("verify", runs / "one")
    assert done.code == 0
    lines = done.out.splitlines()
    for what in ("audit.jsonl", "run.json", "files", "vault", "in the ledger", "../ledger.jsonl"):
        assert sum(line.startswith(f"✓ {what} ") for line in lines) == 1
    assert lines[-1].startswith("✓ intact ")
    told = safeedit("verify", runs / "one", "--json").json()
    assert [check["outcome"] for check in told["checks"]].count("wrong") == 0
    assert len(safeedit("verify", runs / "one", "--quiet").out.splitlines()) < len(lines)


def test_verify_names_the_file_and_the_entry(safeedit: Command, runs: Path) -> None:
    log = runs / "one" / "audit.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:2] + lines[3:]))
    done = safeedit("verify", runs / "one")
    assert done.code == 5
    assert "✗ audit.jsonl entry 2 is gone log-dropped" in done.out
    whole = safeedit("verify", runs)
    assert whole.code == 5
    assert "✗ one/audit.jsonl entry 2 is gone log-dropped" in whole.out
    assert "✓ two/audit.jsonl" in whole.out


def test_verify_takes_a_whole_workspace(safeedit: Command, runs: Path) -> None:
    done = safeedit("verify", runs)
    assert (done.code, done.out.splitlines()[-1]) == (0, f"✓ intact {runs}: 3 runs; all as recorded")
    told = safeedit("verify", runs, "--json").json()
    assert (told["ok"], sorted(told["runs"])) == (True, ["one", "three", "two"])
    shutil.rmtree(runs / "two")
    gone = safeedit("verify", runs, "--json")
    assert gone.code == 5
    (finding,) = gone.json()["findings"]
    assert (finding["code"], finding["file"]) == ("run-missing", LEDGER)


def test_a_checkpoint_is_signed_and_proves_a_run_to_a_stranger(
    safeedit: Command, runs: Path, key: Path, here: Path
) -> None:
    assert "none yet" in safeedit("ledger", "show", runs).out
    made = safeedit("ledger", "checkpoint", runs, "--key", key, "--json").json()
    assert made["stamped"] is False
    assert safeedit("ledger", "show", runs, "--json").json()["checkpoint"]["size"] == made["size"]
    assert "✓ ../checkpoints.jsonl line 1" in safeedit("verify", runs / "one").out
    assert safeedit("ledger", "prove", runs / "one", "-o", "proof.json").code == 0
    alone = shutil.copytree(runs / "one", here / "alone" / "one")
    shutil.rmtree(runs)
    assert safeedit("ledger", "check", "proof.json", "--run", alone).code == 0
    found = safeedit("ledger", "check", "proof.json", "--json").json()
    assert (found["ok"], len(found["keys"])) == (True, 1)
    proof = json.loads((here / "proof.json").read_text())
    (here / "proof.json").write_text(json.dumps({**proof, "index": proof["index"] + 1}))
    assert safeedit("ledger", "check", "proof.json").code == 5
    assert safeedit("ledger", "check", "nothing.json").code == 2


def test_shredding_asks_and_is_proved(safeedit: Command, runs: Path) -> None:
    uuid = RunFolder.open(runs / "three").record.uuid
    refused = safeedit("shred", runs / "three")
    assert refused.code == 2
    assert "--yes" in refused.err
    assert RunKey.exists(uuid)
    assert safeedit("shred", runs / "three", "--keep-matcher", "--matcher", "--yes").code == 2
    done = safeedit("shred", runs / "three", "--yes", "--keep-matcher")
    assert done.code == 0
    assert "nobody can open" in done.out
    assert "backups" in done.out
    assert not RunKey.exists(uuid)
    checked = safeedit("verify", runs / "three")
    assert checked.code == 0
    assert "✓ vault shredded at" in checked.out
    assert (
        safeedit("shred", runs / "three", "--matcher", "--yes", "--json").json()["matcher_key"] == "destroyed"
    )
    again = safeedit("shred", runs / "three", "--yes", "--json").json()
    assert again["key_was_here"] is False
    assert safeedit("verify", runs).code == 0


def test_a_run_with_its_own_request_takes_no_policy(safeedit: Command, runs: Path, here: Path) -> None:
    (here / "policy.yaml").write_text(ERASURE)
    done = safeedit("probe", runs / "three", "--policy", "policy.yaml")
    assert done.code == 2
    assert "shredded" in done.err
    safeedit("shred", runs / "three", "--yes")
    assert "no matcher" in safeedit("probe", runs / "three", "--policy", "policy.yaml").err


def files_below(*folders: Path) -> list[Path]:
    return [Path(root) / name for folder in folders for root, _, names in os.walk(folder) for name in names]


def test_no_command_tells_of_whom_a_run_was(
    safeedit: Command, runs: Path, key: Path, here: Path, own_state: Path
) -> None:
    (here.parent / "policy.yaml").write_text(ERASURE)
    three, log = runs / "three", runs / "three" / "audit.jsonl"
    commands: list[tuple[object, ...]] = [
        ("verify", three),
        ("verify", runs),
        ("ledger", "checkpoint", runs, "--key", key),
        ("ledger", "show", runs),
        ("ledger", "prove", three),
        ("ledger", "prove", three, "-o", "proof.json"),
        ("ledger", "check", "proof.json"),
        ("probe", three, "--policy", here.parent / "policy.yaml"),
        ("shred", three),
        ("shred", three, "--yes", "--keep-matcher"),
        ("probe", three, "--policy", here.parent / "policy.yaml"),
        ("verify", three),
        ("shred", three, "--yes", "--matcher"),
        ("probe", three, "--policy", here.parent / "policy.yaml"),
        ("shred", three, "--yes"),
        ("ledger", "checkpoint", runs, "--key", here.parent / "policy.yaml"),
    ]
    said: list[Done] = []
    for command in commands:
        said += [safeedit(*command)]
        if command[0] != "shred" and command[1] != "prove":
            said += [safeedit(*command, "--json")]
    log.write_bytes(log.read_bytes()[:-90])
    said += [safeedit("verify", three), safeedit("verify", runs), safeedit("shred", three, "--yes")]
    printed = "\n".join(done.out + done.err for done in said)
    assert not [canary for canary in CANARIES if canary in printed]
    written = [path for path in files_below(here, own_state, here.parent / "temporary")]
    assert len(written) > 25
    found = [
        (path.name, canary)
        for path in written
        for canary in CANARIES
        if canary.encode() in path.read_bytes() or canary in str(path.name)
    ]
    assert found == []
    assert {0, 2, 5} <= {done.code for done in said}
