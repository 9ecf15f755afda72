"""Input that cannot be used: one clear line, exit 2, nothing written, and torch not even imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from command_types import Command, WritePolicy
from policies_in_text import BOTH, CANARIES, ERASURE, MODIFICATION, WITH_DETOX

MISSPELT = ERASURE.replace("relation: employer", "relation: employr")


def left(folder: Path) -> list[Path]:
    return list(folder.rglob("*"))


def test_a_missing_policy(safeedit: Command, here: Path) -> None:
    done = safeedit("erase", "--policy", "nowhere.yaml")
    assert (done.code, done.out) == (2, "")
    assert done.err == "nowhere.yaml:1:1: there is no such file\n"
    assert left(here) == []


def test_a_malformed_policy_gets_one_line_with_its_position(
    safeedit: Command, policy: WritePolicy, here: Path
) -> None:
    path = policy(MISSPELT)
    done = safeedit("erase", "--policy", path)
    (line,) = done.err.splitlines()
    assert (done.code, done.out) == (2, "")
    assert line.startswith(f"{path}:6:50: ")
    assert "did you mean 'employer'?" in line
    assert left(here) == []
    assert not any(canary in line for canary in CANARIES)


def test_everything_that_is_wrong_is_told_at_once(safeedit: Command, policy: WritePolicy) -> None:
    path = policy(MISSPELT.replace("regime: gdpr-17", "regime: gdpr-71") + "colour: blue\n")
    done = safeedit("plan", "--policy", path)
    positions = [line.removeprefix(f"{path}:").split(": ")[0] for line in done.err.splitlines()]
    assert done.code == 2
    assert positions == ["2:32", "6:50", "8:1"]


def test_problems_as_json(safeedit: Command, policy: WritePolicy) -> None:
    path = policy(MISSPELT)
    done = safeedit("erase", "--policy", path, "--json")
    told = done.json()
    assert (done.code, done.err) == (2, "")
    assert told["exit_code"] == 2
    assert told["error"]["kind"] == "policy"
    (problem,) = told["error"]["problems"]
    assert (problem["file"], problem["line"], problem["column"]) == (str(path), 6, 50)
    assert not any(canary in done.out for canary in CANARIES)


def test_a_policy_of_another_kind_names_apply(safeedit: Command, policy: WritePolicy, here: Path) -> None:
    done = safeedit("erase", "--policy", policy(BOTH))
    assert (done.code, done.out) == (2, "")
    assert "'modify'" in done.err
    assert "safeedit apply" in done.err
    assert left(here) == []
    assert safeedit("insert", "--policy", policy(MODIFICATION), "--dry-run").code == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--editor", "memmit"], "unknown editor 'memmit'; did you mean 'memit'?"),
        (["--suite", "smok"], "did you mean 'smoke'?"),
        (["--suite", "mine.yaml"], "mine.yaml:1:1: there is no such file"),
        (["--model", "no/such/folder"], "there is no folder no/such/folder"),
        (["--device", "gpu"], "unknown device 'gpu'"),
        (["--dtype", "int4"], "Invalid value for '--dtype': 'int4' is not one of 'auto', "),
        (["--seed", "many"], "Invalid value for '--seed'"),
        (["--seed", "-1"], "--seed"),
        (["--seed", "4294967296"], "4294967295"),
        (["--seed", "99999999999999999999999"], "--seed"),
        (["--polcy", "x"], "--polcy"),
        (["--out", "."], "."),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_a_wrong_flag(
    words: list[str], said: str, safeedit: Command, policy: WritePolicy, here: Path
) -> None:
    (here / "mine.txt").write_text("not a run")
    done = safeedit("erase", "--policy", policy(ERASURE), *words)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert not any(canary in done.err for canary in CANARIES)
    assert left(here) == [here / "mine.txt"]
    told = safeedit("erase", "--policy", policy(ERASURE), *words, "--json").json()
    assert told["exit_code"] == 2
    assert told["error"]["kind"] in ("usage", "policy")


@pytest.mark.parametrize("verb", [["erase", "--policy"], ["plan", "--policy"], ["lint"]])
def test_settings_in_the_file_are_told_with_their_places(
    verb: list[str], safeedit: Command, policy: WritePolicy
) -> None:
    bad = "{Zebulon Quackenbush: 1, clamp: -1, layers: []}"
    path = policy(f"{ERASURE}editor: {{name: memit, params: {bad}}}\n")
    done = safeedit(*verb, path)
    positions = [line.removeprefix(f"{path}:").split(": ")[0] for line in done.err.splitlines()]
    assert (done.code, positions) == (2, ["8:32", "8:63", "8:75"])
    assert not any(canary in done.err for canary in CANARIES)
    told = safeedit(*verb, path, "--json")
    assert not any(canary in told.out for canary in CANARIES)


@pytest.mark.parametrize("given", ["2026-13-01", "Zebulon Quackenbush", "2026-11-02T10:00"])
def test_what_is_no_day(given: str, safeedit: Command, here: Path) -> None:
    for words in (
        ["request", "received", "case-1", "--regime", "gdpr-17", "--on", given],
        ["keys", "revoke", "alice", "--from", given],
        ["sign-off", "run", "--expires", given],
    ):
        done = safeedit(*words)
        assert (done.code, done.out) == (2, "")
        assert "must be a day such as 2026-11-02" in done.err
        assert given not in done.err
    assert left(here) == []


def test_a_detox_operation_is_refused_in_words(safeedit: Command, policy: WritePolicy, here: Path) -> None:
    done = safeedit("apply", "--policy", policy(WITH_DETOX))
    assert done.code == 2
    assert "detox" in done.err
    assert left(here) == []


@pytest.mark.parametrize("verb", ["verify", "rollback", "probe"])
def test_what_is_no_run(verb: str, safeedit: Command, here: Path) -> None:
    done = safeedit(verb, "nowhere")
    assert (done.code, done.out) == (2, "")
    assert "nowhere is no run" in done.err
    assert left(here) == []


@pytest.mark.parametrize(
    "words",
    [("verify",), ("rollback",), ("probe",), ("report",), ("report", "--format", "md"), ("ledger", "prove")],
    ids=" ".join,
)
def test_a_file_is_no_run(words: tuple[str, ...], safeedit: Command, policy: WritePolicy, here: Path) -> None:
    path = policy(ERASURE)
    done = safeedit(*words, path)
    assert (done.code, done.out) == (2, "")
    assert f"{path} is no run" in done.err
    assert left(here) == []


@pytest.mark.parametrize("verb", ["locate", "calibrate", "plan"])
def test_every_verb_bounds_its_seed(verb: str, safeedit: Command, policy: WritePolicy, here: Path) -> None:
    words = ["memit"] if verb == "calibrate" else ["--policy", policy(ERASURE)]
    done = safeedit(verb, *words, "--seed", "4294967296")
    assert (done.code, done.out) == (2, "")
    assert "4294967295" in done.err


def test_the_policy_is_required(safeedit: Command) -> None:
    done = safeedit("erase")
    assert done.code == 2
    assert "Missing option '--policy'" in done.err
    assert "safeedit erase --help" in done.err


def test_probe_needs_a_run_or_a_policy(safeedit: Command, policy: WritePolicy) -> None:
    assert safeedit("probe").code == 2
    assert safeedit("probe", "run", "--policy", policy(ERASURE)).code == 2


def test_training_spares_what_is_there(safeedit: Command, here: Path) -> None:
    (here / "kept.txt").write_text("kept")
    done = safeedit("world", "train", "--out", ".")
    assert done.code == 2
    assert "not an empty folder" in done.err
    assert left(here) == [here / "kept.txt"]


def test_a_person_who_is_not_in_the_world(safeedit: Command) -> None:
    done = safeedit("world", "show", CANARIES[0])
    assert done.code == 2
    assert CANARIES[0] not in done.err


@pytest.mark.parametrize("text", [MISSPELT, BOTH, ""], ids=["malformed", "kinds", "empty"])
def test_a_faulty_policy_is_answered_without_torch(text: str, policy: WritePolicy, here: Path) -> None:
    code = f"""
import sys
sys.argv = ["safeedit", "erase", "--policy", {str(policy(text))!r}]
from safeedit_cli.main import main
try:
    main()
except SystemExit as ended:
    assert ended.code == 2, ended.code
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
