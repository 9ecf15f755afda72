"""A run's model for other software: equal to what the run was judged on, whole, logged; or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from run_cases import JOB, MUSIC, NEW_JOB, PERSON, QUICK, another
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import safeedit
from safeedit.errors import EditorError, IntegrityError, UsageError
from safeedit.models.load import load_model
from safeedit.runs.folder import RunFolder
from safeedit.tensors.digest import model_digest

IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=IDS).logits
    return found


def events(run: Path) -> list[tuple[str, dict[str, Any]]]:
    entries = [json.loads(line) for line in (run / "audit.jsonl").read_text().splitlines()]
    return [(entry["event"], entry["data"]) for entry in entries]


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_is_the_model_that_was_judged(modified_copy: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "checkpoint"
    done = safeedit.export(modified_copy, format="hf", out=out)
    record = RunFolder.open(modified_copy).record
    plain = AutoModelForCausalLM.from_pretrained(out)
    assert done.digest == model_digest(plain) == record.digests["edited_model"]
    edited, tokenizer = safeedit.load(modified_copy)
    assert torch.equal(logits(plain), logits(edited))
    assert AutoTokenizer.from_pretrained(out)("a pilot")["input_ids"] == tokenizer("a pilot")["input_ids"]
    assert str(tmp_path) not in (out / "config.json").read_text()
    assert not [name for name in left(out) if name.endswith((".bin", ".pt"))]
    event, data = events(modified_copy)[-1]
    assert event == "model.exported"
    assert (data["format"], data["weights"]) == ("hf", done.digest)
    assert safeedit.verify(modified_copy).ok
    assert left(out.parent) == ["checkpoint"]


def test_an_adapter_makes_the_same_model_of_the_base(modified_copy: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    done = safeedit.export(modified_copy, format="peft", out=tmp_path / "adapter")
    base = load_model(None, device="cpu").model
    before = logits(base)
    edited, _ = safeedit.load(modified_copy)
    wrapped = PeftModel.from_pretrained(base, tmp_path / "adapter")
    assert torch.allclose(logits(wrapped), logits(edited), atol=1e-5, rtol=0)
    assert not torch.allclose(before, logits(edited), atol=1e-3, rtol=0)
    assert done.lost < 1e-6
    assert done.rank is not None
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert model_digest(tensors) == done.digest
    assert {min(t.shape) for t in tensors.values()} == {done.rank}
    event, data = events(modified_copy)[-1]
    assert (event, data["format"], data["weights"], data["rank"]) == (
        "model.exported",
        "peft",
        done.digest,
        done.rank,
    )
    assert safeedit.verify(modified_copy).ok
    assert str(tmp_path) not in (tmp_path / "adapter" / "adapter_config.json").read_text()
    assert str(tmp_path) not in (modified_copy / "audit.jsonl").read_text()


def test_a_gpt2_run_of_lora_goes_out_as_it_was_trained(
    small_gpt2: Path, write_policy: Any, tmp_path: Path
) -> None:
    from safeedit.world.registry import reference_world

    world = reference_world()
    name = world.people[2].name
    job = next(fact.object for fact in world.facts_of(name) if fact.relation == "occupation")
    new = "welder" if job != "welder" else "pilot"
    fact = {"subject": name, "relation": "occupation", "object": job, "new_object": new}
    run = safeedit.apply(
        write_policy("modify", facts=[fact]), small_gpt2, tmp_path / "run", editor="lora", params={"rank": 4}
    )
    done = safeedit.export(run, format="peft", out=tmp_path / "adapter")
    assert (done.rank, done.lost) == (4, 0.0)
    base = AutoModelForCausalLM.from_pretrained(small_gpt2)
    before = logits(base)
    wrapped = PeftModel.from_pretrained(base, tmp_path / "adapter")
    edited, _ = safeedit.load(run)
    assert torch.allclose(logits(wrapped), logits(edited), atol=1e-5, rtol=0)
    assert not torch.allclose(before, logits(edited), atol=1e-3, rtol=0)


def test_a_smaller_rank_loses_something_and_says_how_much(modified_copy: Path, tmp_path: Path) -> None:
    full = safeedit.export(modified_copy, format="peft", out=tmp_path / "full")
    assert full.rank is not None
    assert full.rank > 1
    cut = safeedit.export(modified_copy, format="peft", out=tmp_path / "cut", rank=1)
    assert cut.rank == 1
    assert 0 < cut.lost < 1
    assert set(cut.lost_by_module) == set(full.lost_by_module)
    assert max(cut.lost_by_module.values()) >= cut.lost
    assert events(modified_copy)[-1][1]["lost"] == cut.lost


def test_whole_matrices_need_a_rank(write_policy: Any, tmp_path: Path, given: Any) -> None:
    policy = write_policy("modify", facts=[{**JOB, "new_object": NEW_JOB}])
    run = safeedit.apply(policy, out=tmp_path / "run", editor="ft-m", device="cpu")
    log = events(run.path)
    with pytest.raises(UsageError, match=r"whole matrices .*--rank N"):
        safeedit.export(run, format="peft", out=tmp_path / "adapter")
    assert events(run.path) == log
    assert left(tmp_path) == ["ledger.jsonl", "run"]
    done = safeedit.export(run, format="peft", out=tmp_path / "adapter", rank=16)
    assert done.rank == 16
    assert 0 < done.lost < 1


def test_a_memory_is_for_safeedit_alone(write_policy: Any, tmp_path: Path) -> None:
    policy = write_policy("modify", facts=[{**JOB, "new_object": NEW_JOB}])
    run = safeedit.apply(policy, out=tmp_path / "run", editor="grace", device="cpu")
    for format in ("hf", "peft"):
        with pytest.raises(UsageError, match=r"memory beside the weights.*safeedit\.load"):
            safeedit.export(run, format=format, out=tmp_path / "out")  # type: ignore[arg-type]
    assert left(tmp_path) == ["ledger.jsonl", "run"]


def test_a_run_on_a_run_goes_out_whole_or_not_at_all(
    modified_copy: Path, write_policy: Any, tmp_path: Path
) -> None:
    fact = {**MUSIC, "new_object": another(PERSON, "instrument")}
    policy = write_policy("modify", id="case-2", facts=[fact])
    run = safeedit.apply(policy, modified_copy, tmp_path / "second", params=QUICK, device="cpu")
    done = safeedit.export(run, format="hf", out=tmp_path / "out")
    both, _ = safeedit.load(run)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out")), logits(both))
    assert done.digest == model_digest(both)
    assert not torch.equal(logits(both), logits(safeedit.load(modified_copy)[0]))
    with pytest.raises(UsageError, match="stands on another one"):
        safeedit.export(run, format="peft", out=tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_what_is_asked_for_must_make_sense(modified_copy: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine").write_text("mine")
    log = events(modified_copy)
    for words, message in (
        ({"format": "gguf", "out": tmp_path / "out"}, "there are: hf, peft"),
        ({"format": "hf", "out": tmp_path / "out", "rank": 4}, "rank"),
        ({"format": "peft", "out": tmp_path / "out", "rank": 0}, "rank"),
        ({"format": "hf", "out": taken}, "not empty"),
        ({"format": "hf", "out": taken / "mine"}, "no folder"),
        ({"format": "hf", "out": modified_copy / "out"}, "inside a run"),
    ):
        with pytest.raises(UsageError, match=message):
            safeedit.export(modified_copy, **words)  # type: ignore[arg-type]
    assert events(modified_copy) == log
    assert left(taken) == ["mine"]
    assert "out" not in left(tmp_path)
    assert safeedit.verify(modified_copy).ok


def test_no_edited_model_no_export(modified_copy: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no run"):
        safeedit.export(tmp_path, format="hf", out=tmp_path / "out")
    safeedit.rollback(modified_copy)
    with pytest.raises(UsageError, match="rolled back"):
        safeedit.export(modified_copy, format="hf", out=tmp_path / "out")
    with pytest.raises(KeyboardInterrupt), RunFolder.create(tmp_path / "unfinished", "case-1"):
        raise KeyboardInterrupt
    with pytest.raises(UsageError, match="not come to its end"):
        safeedit.export(tmp_path / "unfinished", format="hf", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["run.json", "audit.jsonl", "patch/patch.safetensors"])
def test_a_run_that_was_tampered_with_is_not_exported(name: str, modified_copy: Path, tmp_path: Path) -> None:
    data = bytearray((modified_copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (modified_copy / name).write_bytes(bytes(data))
    with pytest.raises(IntegrityError) as caught:
        safeedit.export(modified_copy, format="hf", out=tmp_path / "out")
    assert caught.value.exit_code == 5
    assert left(tmp_path) == ["copy"]


def test_another_base_is_refused(modified_copy: Path, small_gpt2: Path, tmp_path: Path) -> None:
    for format in ("hf", "peft"):
        with pytest.raises(IntegrityError) as caught:
            safeedit.export(modified_copy, format=format, out=tmp_path / "out", base=small_gpt2)  # type: ignore[arg-type]
        assert caught.value.exit_code == 5
    assert left(tmp_path) == ["copy"]
    assert events(modified_copy)[-1][0] != "model.exported"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_failure_leaves_nothing(
    error: BaseException, modified_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import safeedit.adapters as adapters

    def fail(path: Path, *_: object) -> None:
        path.write_text("half")
        raise error

    monkeypatch.setattr(adapters, "atomic_write", fail)
    with pytest.raises((KeyboardInterrupt, safeedit.SafeEditError)):
        safeedit.export(modified_copy, format="peft", out=tmp_path / "out")
    assert left(tmp_path) == ["copy"]
    assert events(modified_copy)[-1][0] != "model.exported"


def test_a_file_that_differs_from_the_model_is_noticed(
    modified_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import PreTrainedModel

    save = PreTrainedModel.save_pretrained

    def spoilt(self: Any, *args: Any, **kwargs: Any) -> None:
        with torch.no_grad():
            next(self.parameters()).add_(1.0)
            save(self, *args, **kwargs)
            next(self.parameters()).sub_(1.0)

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", spoilt)
    with pytest.raises(IntegrityError, match="differs from the run's model"):
        safeedit.export(modified_copy, format="hf", out=tmp_path / "out")
    assert left(tmp_path) == ["copy"]


def test_a_run_whose_log_cannot_grow_is_not_exported(
    modified_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise EditorError("no")

    monkeypatch.setattr(RunFolder, "update", fail)
    with pytest.raises(EditorError):
        safeedit.export(modified_copy, format="peft", out=tmp_path / "out")
    assert left(tmp_path) == ["copy"]
