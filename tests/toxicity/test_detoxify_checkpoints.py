"""Detoxify's format: scored as Detoxify itself does, and read without running anything that is in it."""

from __future__ import annotations

import copy
import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from detoxify import Detoxify
from transformers import RobertaConfig, RobertaForSequenceClassification

from safeedit.errors import ProbeError, UsageError
from safeedit.toxicity import public_name, scorer
from safeedit.toxicity.detoxify import read_checkpoint
from safeedit.toxicity.fit import examples
from safeedit.toxicity.released import RELEASED
from safeedit.toxicity.small import CLASSES, LENGTH, make
from safeedit.toxicity.small import main as small_main

SECRET = "Zenobia Harkaway"
RUDE = "You are a stupid worthless idiot. "


def stored(path: Path) -> dict[str, Any]:
    config, state = read_checkpoint(path, "it")
    return {"config": copy.deepcopy(config), "state_dict": state}


def changed(checkpoint: Path, tmp_path: Path, change: Any) -> str:
    """A copy of the checkpoint with something done to it, as a specification."""
    content = stored(checkpoint)
    change(content)
    torch.save(content, tmp_path / "changed.ckpt")
    return f"detoxify:{tmp_path / 'changed.ckpt'}"


def texts() -> list[str]:
    """Of every length up to a whole window, rude and plain."""
    rng, words = random.Random(3), " ".join(examples(5, 60)[0]).split()
    return [" ".join(rng.choices(words, k=n)) for n in range(1, 40)] + examples(6, 30)[0]


def test_detoxify_and_the_scorer_agree_on_every_label(checkpoint: Path) -> None:
    theirs, ours = Detoxify(checkpoint=str(checkpoint)), scorer(f"detoxify:{checkpoint}")
    assert ours.labels == tuple(theirs.class_names)
    assert len(ours.labels) == len(CLASSES)
    whole = [t for t in texts() if len(theirs.tokenizer(t)["input_ids"]) <= LENGTH]
    assert len(whole) > 60
    expected, found = theirs.predict(whole), ours.scores(whole)
    for label in ours.labels:
        assert found[label] == pytest.approx(expected[label], abs=1e-6)
    assert max(found["toxicity"]) - min(found["toxicity"]) > 0.2
    for text in whole[::9]:
        one = ours.scores([text])
        assert {label: p for label, (p,) in one.items()} == pytest.approx(theirs.predict(text), abs=1e-6)
    assert ours.score(whole) == found["toxicity"]


def test_what_is_longer_than_a_window_is_read_to_its_end(checkpoint: Path) -> None:
    theirs, ours = Detoxify(checkpoint=str(checkpoint)), scorer(f"detoxify:{checkpoint}")
    calm = "the rain came in the evening and the river rose. " * 20
    some = [calm, calm + RUDE * 8, RUDE * 8 + calm]
    low, high, early = ours.score(some)
    assert len(theirs.tokenizer(calm, truncation=False)["input_ids"]) > 3 * LENGTH
    assert high > low + 0.2
    # What Detoxify truncates is the first window; nothing can be lost by reading on.
    cut = theirs.predict(some)["toxicity"]
    assert cut[0] == pytest.approx(cut[1], abs=1e-6)
    assert all(mine >= its - 1e-6 for mine, its in zip((low, high, early), cut, strict=True))


def test_a_scorer_says_the_same_of_a_text_whatever_stands_beside_it(checkpoint: Path) -> None:
    ours, some = scorer(f"detoxify:{checkpoint}"), texts()
    together = ours.score(some)
    assert together == ours.score(some)
    assert ours.score(some[::-1])[::-1] == pytest.approx(together, abs=1e-6)
    assert ours.score([some[3]] * 3) == pytest.approx([together[3]] * 3, abs=1e-6)
    assert ours.scores([]) == {label: [] for label in ours.labels}
    assert ours.score([]) == []
    assert len(ours.score([""])) == 1


class Evil:
    """Runs a command as soon as it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"echo {SECRET} > {self.file}",)


def planted(content: dict[str, Any], where: str, evil: Evil) -> Any:
    if where == "alone":
        return evil
    if where == "settings":
        content["config"]["arch"]["args"]["extra"] = [evil]
    elif where == "weights":
        content["state_dict"]["classifier.bias"] = evil
    elif where == "name":
        content["config"]["arch"]["args"]["model_name"] = evil
    return content


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("where", ["alone", "settings", "weights", "name"])
def test_a_malicious_pickle_is_refused_and_not_run(
    checkpoint: Path, tmp_path: Path, where: str, zipped: bool
) -> None:
    file, path = tmp_path / "ran", tmp_path / "evil.ckpt"
    content = planted(stored(checkpoint), where, Evil(file))
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UsageError, match="without running code in it; nothing was run") as told:
        scorer(f"detoxify:{path}")
    assert not file.exists()
    assert "\n" not in str(told.value)
    assert SECRET not in str(told.value)
    if where == "settings":
        # The fault is a real one: Detoxify itself runs it.
        with pytest.raises(TypeError):
            Detoxify(checkpoint=str(path))
        assert file.exists()


def no_class(content: dict[str, Any]) -> None:
    content["config"]["arch"]["args"]["model_name"] = "Trainer"


def no_tokenizer(content: dict[str, Any]) -> None:
    content["config"]["arch"]["args"]["tokenizer_name"] = "pipeline"


def few_columns(content: dict[str, Any]) -> None:
    content["config"]["arch"]["args"]["num_classes"] = 2


def other_size(content: dict[str, Any]) -> None:
    content["config"]["arch"]["args"]["num_classes"] = len(CLASSES) + 5


def lost(content: dict[str, Any]) -> None:
    del content["state_dict"]["bert.encoder.layer.1.output.dense.weight"]


def left_over(content: dict[str, Any]) -> None:
    content["state_dict"]["bert.encoder.layer.9.output.dense.weight"] = torch.zeros(3)


def other_positions(content: dict[str, Any]) -> None:
    content["state_dict"]["bert.embeddings.position_ids"] = torch.ones(1, LENGTH, dtype=torch.long)


def not_a_number(content: dict[str, Any]) -> None:
    content["state_dict"]["classifier.weight"][0, 0] = float("nan")


def no_classes(content: dict[str, Any]) -> None:
    content["config"]["dataset"] = {}


def not_toxic(content: dict[str, Any]) -> None:
    content["config"]["dataset"]["args"]["classes"] = ["calm", "loud"]


def elsewhere(content: dict[str, Any]) -> None:
    content["config"]["arch"]["args"]["model_type"] = "/nowhere/at/all"


def a_hub_id(content: dict[str, Any]) -> None:
    content["config"]["arch"]["args"]["model_type"] = "bert-base-never-cached"


def only_weights(content: dict[str, Any]) -> None:
    del content["config"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (no_class, "no sequence classifier of transformers"),
        (no_tokenizer, "no tokenizer of transformers"),
        (few_columns, "must be at least the number of its classes"),
        (other_size, "does not fit its model: classifier.* has another shape"),
        (lost, r"lacks bert\.encoder\.layer\.1\.output\.dense\.weight"),
        (left_over, r"no use for bert\.encoder\.layer\.9"),
        (other_positions, r"no use for bert\.embeddings\.position_ids"),
        (not_a_number, "not a finite number"),
        (no_classes, r"no config\.dataset\.args"),
        (not_toxic, "its labels are calm, loud"),
        (elsewhere, "there is no folder /nowhere/at/all"),
        (a_hub_id, "not in the hub's cache, and HF_HUB_OFFLINE forbids"),
        (only_weights, "needs 'config' and 'state_dict'"),
    ],
)
def test_what_is_wrong_with_a_checkpoint_is_told_in_one_line(
    checkpoint: Path, tmp_path: Path, change: Any, message: str
) -> None:
    with pytest.raises(UsageError, match=message) as told:
        scorer(changed(checkpoint, tmp_path, change))
    assert "\n" not in str(told.value)


def with_counted_positions(content: dict[str, Any]) -> None:
    """As checkpoints have them that older versions of transformers wrote."""
    content["state_dict"]["bert.embeddings.position_ids"] = torch.arange(LENGTH)[None]


def with_a_prefix(content: dict[str, Any]) -> None:
    content["state_dict"] = {f"model.{name}": value for name, value in content["state_dict"].items()}


@pytest.mark.parametrize("change", [with_counted_positions, with_a_prefix])
def test_forms_of_older_versions_score_the_same(checkpoint: Path, tmp_path: Path, change: Any) -> None:
    older, ours = scorer(changed(checkpoint, tmp_path, change)), scorer(f"detoxify:{checkpoint}")
    assert older.score(texts()) == ours.score(texts())
    assert older.digest != ours.digest


def test_a_pooler_that_no_head_uses_is_borne(checkpoint: Path, tmp_path: Path) -> None:
    """RoBERTa's older checkpoints have one."""
    size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    vocabulary = (checkpoint.parent / "small-bert").glob("*")
    folder = tmp_path / "roberta"
    folder.mkdir()
    for file in vocabulary:
        (folder / file.name).write_bytes(file.read_bytes())
    config = RobertaConfig(vocab_size=4000, max_position_embeddings=34, num_labels=8, pad_token_id=1, **size)
    config.save_pretrained(folder)
    torch.manual_seed(0)
    content = stored(checkpoint)
    content["state_dict"] = RobertaForSequenceClassification(config).state_dict()
    content["config"]["arch"]["args"] |= {
        "model_type": str(folder),
        "model_name": "RobertaForSequenceClassification",
    }
    content["state_dict"]["roberta.pooler.dense.weight"] = torch.zeros(8, 8)
    torch.save(content, tmp_path / "roberta.ckpt")
    found = scorer(f"detoxify:{tmp_path / 'roberta.ckpt'}")
    # Of 34 positions the first two are below the padding's and of no use.
    assert found.window == 32
    assert len(found.score(texts())) == len(texts())


def test_the_digest_is_of_everything_that_decides(checkpoint: Path, tmp_path: Path) -> None:
    make(tmp_path / "again.ckpt", *examples(17, 20), steps=1)
    first = scorer(f"detoxify:{tmp_path / 'again.ckpt'}")
    assert first is scorer(f"detoxify:{tmp_path / 'again.ckpt'}")
    settings = tmp_path / "again-bert" / "tokenizer_config.json"
    settings.write_text(settings.read_text() + "\n")
    second = scorer(f"detoxify:{tmp_path / 'again.ckpt'}")
    assert second.digest != first.digest
    make(tmp_path / "again.ckpt", *examples(17, 20), steps=1, seed=5)
    third = scorer(f"detoxify:{tmp_path / 'again.ckpt'}")
    assert len({one.digest for one in (first, second, third)}) == 3


def test_the_script_makes_the_same_weights_again(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make(tmp_path / f"{name}.ckpt", *examples(17, 20), steps=2)
    first, second = (stored(tmp_path / f"{name}.ckpt")["state_dict"] for name in ("a", "b"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_script_learns_texts_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "a.csv"
    some = zip(*examples(4, 40), strict=True)
    lines = [f'{"hate" if toxic else "neither"},"{text}"' for text, toxic in some]
    table.write_text("label,text\n" + "\n".join(lines) + "\n", "utf-8")
    how = "--column label --toxic hate --steps 2".split()
    small_main([str(tmp_path / "o.ckpt"), "--csv", str(table), *how])
    assert len(scorer(f"detoxify:{tmp_path / 'o.ckpt'}").score(["a", "b"])) == 2
    with pytest.raises(SystemExit):
        small_main([str(tmp_path / "o.ckpt"), "--csv", str(table)])
    told = capsys.readouterr().err
    assert "a.csv:2:1: the field 'toxic' is missing" in told
    assert lines[0].partition(",")[2].strip('"') not in told


def test_what_the_script_makes_is_no_ground_for_a_release(checkpoint: Path, tmp_path: Path) -> None:
    assert scorer(f"detoxify:{checkpoint}").fit_for_release is False

    def unmarked(content: dict[str, Any]) -> None:
        del content["config"]["fit_for_release"]

    assert scorer(changed(checkpoint, tmp_path, unmarked)).fit_for_release is True


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("detoxify", "original, unbiased, multilingual"),
        ("detoxify:orignal", "did you mean 'original'"),
        ("detoxify:/no/such.ckpt", r"/no/such\.ckpt: there is no such file"),
    ],
)
def test_a_checkpoint_that_is_not_there(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        scorer(spec)


def test_a_published_checkpoint_comes_from_the_cache_of_torch_hub(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(UsageError, match="HF_HUB_OFFLINE forbids to fetch it"):
        scorer("detoxify:original")
    (tmp_path / "checkpoints").mkdir()
    place = tmp_path / "checkpoints" / RELEASED["original"].rpartition("/")[2]
    place.write_bytes(checkpoint.read_bytes())
    assert scorer("detoxify:original").score([RUDE]) == scorer(f"detoxify:{checkpoint}").score([RUDE])


def test_a_published_checkpoint_is_fetched_where_that_is_allowed(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fetch(url: str, target: str, progress: bool) -> None:
        asked.append(url)
        Path(target).write_bytes(checkpoint.read_bytes())

    def fail(url: str, target: str, progress: bool) -> None:
        raise OSError(f"no route\n{SECRET}")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(UsageError, match=r"could not be fetched from its project's release \(OSError\)"):
        scorer("detoxify:unbiased")
    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    assert len(scorer("detoxify:unbiased").score([RUDE])) == 1
    assert len(scorer("detoxify:unbiased").score([RUDE])) == 1
    assert asked == [
        "https://github.com/unitaryai/detoxify/releases/download/v0.3-alpha/toxic_debiased-c7548aa0.ckpt"
    ]


def test_a_public_name_holds_no_place() -> None:
    assert public_name("detoxify:unbiased") == "detoxify:unbiased"
    assert public_name(f"detoxify:/home/{SECRET}.ckpt") == "detoxify"
    assert public_name("transformers:/home/x#toxic") == "transformers"


def test_a_scorer_shows_no_text(checkpoint: Path) -> None:
    ours = scorer(f"detoxify:{checkpoint}")
    ours.score([SECRET])
    assert repr(ours) == "<Detoxify>"

    ours._tokenizer, kept = _leaving_out(ours._tokenizer), ours._tokenizer
    try:
        with pytest.raises(ProbeError, match="left a text out") as told:
            ours.score([SECRET, "a"])
    finally:
        ours._tokenizer = kept
    assert SECRET not in str(told.value)


def _leaving_out(tokenizer: Any) -> Any:
    def read(texts: list[str], **options: Any) -> Any:
        return tokenizer(texts[:-1], **options)

    return read
