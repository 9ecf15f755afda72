"""Taking an edit back bit for bit; loading what a run left, from its own base and no other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from run_cases import JOB, NEW_JOB, QUICK
from safetensors.torch import load_file

import safeedit
from safeedit.errors import IntegrityError, UsageError
from safeedit.models.load import load_model, reference_folder
from safeedit.runs.folder import RunFolder
from safeedit.tensors.digest import model_digest


def state(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[name].view(torch.uint8), other[name].view(torch.uint8)) for name in one
    )


def test_after_a_rollback_every_tensor_is_the_base_s(modified_copy: Path) -> None:
    base = load_model(None, device="cpu").model.state_dict()
    edited, _ = safeedit.load(modified_copy)
    assert not same_bits(dict(edited.state_dict()), dict(base))
    record = safeedit.rollback(modified_copy)
    assert record.status == "rolled_back"
    restored, _ = safeedit.load(modified_copy)
    assert same_bits(dict(restored.state_dict()), dict(base))
    assert safeedit.verify(modified_copy).ok
    last = json.loads((modified_copy / "audit.jsonl").read_text().splitlines()[-1])
    assert last["event"] == "rollback.done"
    assert last["data"]["base_model"] == model_digest(restored)
    with pytest.raises(UsageError, match="rolled back already"):
        safeedit.rollback(modified_copy)


def test_a_saved_checkpoint_is_replaced_by_the_base_weights(
    given: Any, tmp_path: Path, write_policy: Any
) -> None:
    policy = write_policy("modify", facts=[{**JOB, "new_object": NEW_JOB}])
    out = tmp_path / "run"
    run = safeedit.apply(policy, given.pair, out, params=QUICK, save_model=True)
    model, tokenizer = safeedit.load(out)
    assert model_digest(model) == run.record.digests["edited_model"]
    assert tokenizer("x")["input_ids"] == given.pair[1]("x")["input_ids"]
    assert not same_bits(state(out / "model"), state(reference_folder()))
    safeedit.rollback(out)
    assert same_bits(state(out / "model"), state(reference_folder()))
    assert safeedit.verify(out).ok
    assert not [path for path in out.rglob(".*") if path.name != ".lock"]
    assert model_digest(safeedit.load(out)[0]) == run.record.digests["base_model"]


@pytest.fixture
def wrong_base(tmp_path: Path) -> Path:
    """The reference model, with one bit of one weight turned."""
    from safetensors.torch import save_file

    folder = Path(shutil.copytree(reference_folder(), tmp_path / "wrong"))
    tensors = state(folder)
    name = sorted(tensors)[-1]
    tensors[name].view(torch.uint8).flatten()[0] ^= 1
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_another_base_is_refused(modified_copy: Path, wrong_base: Path) -> None:
    before = (modified_copy / "run.json").read_bytes()
    for act in (
        lambda: safeedit.rollback(modified_copy, base=wrong_base),
        lambda: safeedit.load(modified_copy, base=wrong_base),
        lambda: safeedit.probe(modified_copy, base=wrong_base),
    ):
        with pytest.raises(IntegrityError, match="not the one that the run started from") as caught:
            act()
        assert caught.value.exit_code == 5
    assert (modified_copy / "run.json").read_bytes() == before


@pytest.mark.parametrize("name", ["run.json", "probes.json", "audit.jsonl", "patch/patch.safetensors"])
def test_a_run_that_was_tampered_with_is_not_rolled_back(name: str, modified_copy: Path) -> None:
    data = bytearray((modified_copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (modified_copy / name).write_bytes(bytes(data))
    with pytest.raises(IntegrityError) as caught:
        safeedit.rollback(modified_copy)
    assert caught.value.exit_code == 5


def test_a_patch_that_was_exchanged_is_not_loaded(modified_copy: Path, given: Any) -> None:
    patch = safeedit.Patch.of(given.pair[0], {}, editor="memit")
    patch.save(modified_copy / "patch")
    with pytest.raises(IntegrityError, match="not the one that the run recorded"):
        safeedit.load(modified_copy)
    shutil.rmtree(modified_copy / "patch")
    with pytest.raises(IntegrityError, match="is gone"):
        safeedit.load(modified_copy)


def test_a_sum_that_is_rounded_differently_needs_consent(
    modified_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safeedit.applied import Applied

    monkeypatch.setattr(Applied, "digest", lambda self: "0" * 64)
    with pytest.raises(IntegrityError, match="exact=False"):
        safeedit.load(modified_copy)
    model, _ = safeedit.load(modified_copy, exact=False)
    assert model.training is False


def test_without_the_vault_s_key_the_public_name_still_leads_to_the_base(modified_copy: Path) -> None:
    folder = RunFolder.open(modified_copy)
    assert folder.vault.get("model")["source"] is None
    edited = folder.record.digests["edited_model"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAFEEDIT_STATE_DIR", str(modified_copy.parent / "nothing"))
        assert model_digest(safeedit.load(modified_copy)[0]) == edited
        with pytest.raises(UsageError, match="key of this run's vault"):
            safeedit.probe(modified_copy)


def test_no_run_no_model(tmp_path: Path) -> None:
    for act in (safeedit.load, safeedit.rollback, safeedit.probe):
        with pytest.raises(UsageError, match="is no run"):
            act(tmp_path)


class TestAnotherFamily:
    """A GPT-2-like model, as a folder and as an object that no folder gives again."""

    @pytest.fixture
    def policy(self, write_policy: Any) -> Path:
        from safeedit.world.registry import reference_world

        world = reference_world()
        name = world.people[2].name
        job = next(fact.object for fact in world.facts_of(name) if fact.relation == "occupation")
        new = "welder" if job != "welder" else "pilot"
        fact = {"subject": name, "relation": "occupation", "object": job, "new_object": new}
        path: Path = write_policy("modify", facts=[fact])
        return path

    PARAMS: ClassVar[dict[str, Any]] = {"statistics_tokens": 2000, "layers": [0, 1]}

    def test_from_a_folder(self, small_gpt2: Path, policy: Path, tmp_path: Path) -> None:
        out = tmp_path / "run"
        run = safeedit.apply(policy, small_gpt2, out, params=self.PARAMS)
        assert run.known == (True,)
        assert run.record.model == "small-gpt2"
        assert model_digest(safeedit.load(out)[0]) == run.record.digests["edited_model"]
        safeedit.rollback(out)
        base = load_model(small_gpt2, device="cpu").model
        assert same_bits(dict(safeedit.load(out)[0].state_dict()), dict(base.state_dict()))

    def test_a_model_of_no_folder_has_to_be_given_again(
        self, small_gpt2: Path, policy: Path, tmp_path: Path
    ) -> None:
        loaded = load_model(small_gpt2, device="cpu")
        loaded.model.config._name_or_path = loaded.model.name_or_path = ""
        before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
        out = tmp_path / "run"
        run = safeedit.apply(policy, (loaded.model, loaded.tokenizer), out, params=self.PARAMS)
        assert same_bits(before, dict(loaded.model.state_dict()))
        assert run.record.model == "local"
        with pytest.raises(UsageError, match="base="):
            safeedit.load(out)
        model, _ = safeedit.load(out, base=(loaded.model, loaded.tokenizer))
        assert model is loaded.model
        assert model_digest(model) == run.record.digests["edited_model"]
