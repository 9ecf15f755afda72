"""`safeedit export` as a person and a program see it: what was written, what is refused, which exit code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command_types import Command

import safeedit as library
from safeedit.models.load import reference_folder

_KNOWN = [
    json.loads(line) for line in (reference_folder() / "controls.jsonl").read_text("utf-8").splitlines()
]
FACT = next(row for row in _KNOWN if row["relation"] == "occupation")
OTHER_JOB = next(
    row["object"] for row in _KNOWN if row["relation"] == "occupation" and row["object"] != FACT["object"]
)
CANARIES = (FACT["subject"], *FACT["subject"].split(), FACT["object"], OTHER_JOB)


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of LoRA on the reference model; not to be changed."""
    folder = tmp_path_factory.mktemp("edited")
    fact = {
        "subject": FACT["subject"],
        "relation": "occupation",
        "object": FACT["object"],
        "new_object": OTHER_JOB,
    }
    policy = {
        "apiVersion": "safeedit/v1",
        "metadata": {"id": "case-9", "regime": "internal", "received": "2026-11-02"},
        "operations": [{"op": "modify", "facts": [fact]}],
        "editor": {"name": "lora", "params": {"rank": 3}},
        "probes": {"suite": "smoke"},
    }
    (folder / "policy.yaml").write_text(json.dumps(policy))
    return library.apply(folder / "policy.yaml", out=folder / "run", device="cpu").path


@pytest.fixture
def run(edited: Path, here: Path) -> Path:
    """A copy of that run."""
    return Path(shutil.copytree(edited, here / "run"))


def test_a_checkpoint(safeedit: Command, run: Path) -> None:
    done = safeedit("export", run, "--format", "hf", "-o", "out")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("exported out: checkpoint (")
    assert Path("out/config.json").is_file()
    assert Path("out/tokenizer.json").is_file()
    assert safeedit("verify", run).code == 0
    assert safeedit("probe", "--help").code == 0


def test_an_adapter_for_programs(safeedit: Command, run: Path) -> None:
    done = safeedit("export", run, "--format", "peft", "--out", "out", "--json")
    told = done.json()
    assert (done.code, done.err, told["exit_code"]) == (0, "", 0)
    assert (told["format"], told["out"], told["rank"], told["lost"]) == ("peft", "out", 3, 0.0)
    assert told["base_model"] == json.loads((run / "run.json").read_text())["digests"]["base_model"]
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert json.loads(Path("out/adapter_config.json").read_text())["r"] == 3


def test_what_is_lost_is_told(safeedit: Command, run: Path) -> None:
    out = safeedit("export", run, "--format", "peft", "-o", "out", "--rank", "1").out
    assert "out: adapter of rank 1 (" in out
    assert "% of the change" in out
    again = safeedit("export", run, "--format", "peft", "-o", "other", "--rank", "1", "--json").json()
    assert 0 < again["lost"] < 1


def test_nothing_personal_is_printed_or_written_in_the_open(safeedit: Command, run: Path) -> None:
    printed = ""
    for format in ("hf", "peft"):
        for words in ((), ("--json",)):
            done = safeedit("export", run, "--format", format, "-o", f"{format}{len(words)}", *words)
            printed += done.out + done.err
    printed += Path("peft0/adapter_config.json").read_text() + (run / "audit.jsonl").read_text()
    assert not any(canary in printed for canary in CANARIES)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--format", "gguf", "-o", "out"), "'gguf' is not one of"),
        (("-o", "out"), "--format"),
        (("--format", "hf"), "--out"),
        (("--format", "peft", "-o", "out", "--rank", "0"), "--rank"),
        (("--format", "hf", "-o", "out", "--rank", "3"), "rank is for adapters"),
        (("--format", "hf", "-o", "."), "not empty"),
    ],
)
def test_bad_usage_is_exit_code_2(words: tuple[str, ...], message: str, safeedit: Command, run: Path) -> None:
    done = safeedit("export", run, *words)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert not Path("out").exists()


def test_a_rolled_back_run_is_refused(safeedit: Command, run: Path) -> None:
    assert safeedit("rollback", run).code == 0
    done = safeedit("export", run, "--format", "hf", "-o", "out")
    assert done.code == 2
    assert "rolled back" in done.err
    assert not Path("out").exists()


def test_tampering_is_exit_code_5(safeedit: Command, run: Path) -> None:
    content = bytearray((run / "patch" / "patch.safetensors").read_bytes())
    content[-1] ^= 1
    (run / "patch" / "patch.safetensors").write_bytes(content)
    done = safeedit("export", run, "--format", "peft", "-o", "out", "--json")
    assert (done.code, done.json()["error"]["kind"]) == (5, "integrity")
    assert not Path("out").exists()
