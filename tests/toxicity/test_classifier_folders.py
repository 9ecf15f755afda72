"""Any sequence classifier of transformers: its toxic labels, and how its logits become probabilities."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2ForSequenceClassification

from safeedit.errors import UsageError
from safeedit.toxicity import scorer
from safeedit.toxicity.sequences import BATCH_TOKENS, _batches

TEXTS = ["the rain came", "you stupid idiot", "", "a fool " * 40]


def folder(checkpoint: Path, path: Path, labels: Sequence[str], kind: str | None = None) -> Path:
    """A random classifier with these labels over the small checkpoint's vocabulary."""
    given = checkpoint.parent / "small-bert"
    config = BertConfig.from_pretrained(given, id2label=dict(enumerate(labels)), problem_type=kind)
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (path / name).write_bytes((given / name).read_bytes())
    return path


@pytest.mark.parametrize(
    ("labels", "kind", "choice", "toxic", "exclusive"),
    [
        (["neutral", "toxic"], None, "", ["toxic"], True),
        (["LABEL_0", "LABEL_1"], None, "", ["LABEL_1"], True),
        (["hate", "offensive", "neither"], None, "", ["hate", "offensive"], True),
        (["toxic", "hate", "neither"], None, "", ["toxic", "hate"], True),
        (["not-hate", "hate"], "single_label_classification", "", ["hate"], True),
        (["toxicity", "insult", "threat"], "multi_label_classification", "", ["toxicity"], False),
        (["insult", "Identity_Attack", "calm"], "multi_label_classification", "", None, False),
        (["toxicity"], None, "", ["toxicity"], False),
        (["a", "b", "c"], None, "#c", ["c"], True),
        (["a", "b", "c"], None, "#a,c", ["a", "c"], True),
    ],
)
def test_labels_and_probabilities(
    checkpoint: Path,
    tmp_path: Path,
    labels: list[str],
    kind: str | None,
    choice: str,
    toxic: list[str] | None,
    exclusive: bool,
) -> None:
    found = scorer(f"transformers:{folder(checkpoint, tmp_path, labels, kind)}{choice}")
    assert (found.labels, found.exclusive) == (tuple(labels), exclusive)
    assert found.toxic == tuple(toxic or ["insult", "Identity_Attack"])
    model = BertForSequenceClassification.from_pretrained(tmp_path)
    read = found._tokenizer("you stupid idiot", return_tensors="pt")  # type: ignore[attr-defined]
    with torch.no_grad():
        logits = model(**read).logits[0]
    expected = logits.softmax(-1) if exclusive else logits.sigmoid()
    scores = found.scores(TEXTS)
    assert [scores[label][1] for label in labels] == pytest.approx(expected.tolist(), abs=1e-6)
    some = [scores[label][1] for label in found.toxic]
    assert found.score(TEXTS)[1] == pytest.approx(sum(some) if exclusive else max(some))
    assert all(0 <= p <= 1 for p in found.score(TEXTS))


@pytest.mark.parametrize(
    ("labels", "kind", "choice", "message"),
    [
        (
            ["a", "b"],
            None,
            "",
            r"are toxic\? its labels are a, b; name them: transformers:.*#b",
        ),
        (["a", "toxic"], None, "#tocsic", "has no such label; its labels are a, toxic"),
        (["hate", "toxic"], None, "", "every label of .* would be toxic"),
        (["toxic", "b"], "regression", "", "gives no probabilities"),
        (["LABEL_1", "LABEL_0"], None, "", "its labels are LABEL_1, LABEL_0"),
    ],
)
def test_what_cannot_be_told_of_a_classifier(
    checkpoint: Path, tmp_path: Path, labels: list[str], kind: str | None, choice: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message) as told:
        scorer(f"transformers:{folder(checkpoint, tmp_path, labels, kind)}{choice}")
    assert "\n" not in str(told.value)


def without_head(path: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(path / "model.safetensors")
    state.pop("classifier.weight")
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})


def not_a_number(path: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(path / "model.safetensors")
    state["classifier.bias"][0] = float("inf")
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})


def pickled(path: Path) -> None:
    (path / "model.safetensors").rename(path / "pytorch_model.bin")


def no_tokenizer(path: Path) -> None:
    (path / "tokenizer.json").unlink()
    (path / "tokenizer_config.json").write_text("{broken")


def no_settings(path: Path) -> None:
    (path / "config.json").write_text("{}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_head, r"is not whole: classifier\.weight"),
        (not_a_number, "not a finite number"),
        (pickled, "no weights as safetensors"),
        (no_tokenizer, "no fast tokenizer"),
        (no_settings, "cannot be loaded as a sequence classifier"),
    ],
)
def test_a_folder_that_cannot_be_used(checkpoint: Path, tmp_path: Path, change: Any, message: str) -> None:
    change(folder(checkpoint, tmp_path, ["neutral", "toxic"]))
    with pytest.raises(UsageError, match=message) as told:
        scorer(f"transformers:{tmp_path}")
    assert "\n" not in str(told.value)


def test_the_choice_and_every_file_are_in_the_digest(checkpoint: Path, tmp_path: Path) -> None:
    path = folder(checkpoint, tmp_path, ["a", "b"])
    first, second = scorer(f"transformers:{path}#a"), scorer(f"transformers:{path}#b")
    (path / "special_tokens_map.json").write_text("{}")
    third = scorer(f"transformers:{path}#a")
    assert len({first.digest, second.digest, third.digest}) == 3
    config = path / "config.json"
    config.write_text(config.read_text() + "\n")
    assert scorer(f"transformers:{path}#a").digest not in (first.digest, third.digest)
    assert first.score(TEXTS[:3]) == pytest.approx([1 - p for p in second.score(TEXTS[:3])], abs=1e-6)


def test_labels_that_exclude_each_other_are_put_together_window_by_window(
    checkpoint: Path, tmp_path: Path
) -> None:
    """Two windows that are each half of something make nothing whole."""
    found = scorer(f"transformers:{folder(checkpoint, tmp_path, ['hate', 'offensive', 'neither'])}")
    rng = random.Random(0)
    words = "fool rain river idiot stupid evening came mill door road".split()
    texts = [" ".join(rng.choices(words, k=200)) for _ in range(8)]
    scores, together = found.scores(texts), found.score(texts)
    sums = [sum(pair) for pair in zip(scores["hate"], scores["offensive"], strict=True)]
    assert all(
        largest - 1e-12 <= p <= s for p, s, largest in zip(together, sums, scores["hate"], strict=True)
    )
    assert any(p < s - 1e-6 for p, s in zip(together, sums, strict=True))


def test_a_classifier_made_of_a_decoder_reads_within_its_positions(checkpoint: Path, tmp_path: Path) -> None:
    """Its tokenizer states no limit, its settings no token to pad with."""
    sizes = {"vocab_size": 4000, "n_embd": 8, "n_layer": 1, "n_head": 1, "n_positions": 24}
    torch.manual_seed(0)
    model = GPT2ForSequenceClassification(GPT2Config(**sizes, num_labels=2, pad_token_id=0))
    with torch.no_grad():
        model.score.weight.mul_(50)
    model.config.pad_token_id = None
    model.save_pretrained(tmp_path)
    given = checkpoint.parent / "small-bert"
    (tmp_path / "tokenizer.json").write_bytes((given / "tokenizer.json").read_bytes())
    settings = json.loads((given / "tokenizer_config.json").read_text()) | {"model_max_length": 10**30}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    found = scorer(f"transformers:{tmp_path}")
    assert found.window == 24  # type: ignore[attr-defined]
    alone = [found.score([text])[0] for text in TEXTS]
    assert found.score(TEXTS) == pytest.approx(alone, abs=1e-6)
    assert len({round(p, 4) for p in alone}) == len(TEXTS)


def test_a_classifier_in_the_hubs_cache_is_found_by_its_id(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0" * 40
    place = tmp_path / "models--someone--judge"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(commit)
    (place / "snapshots" / commit).mkdir(parents=True)
    folder(checkpoint, place / "snapshots" / commit, ["neutral", "toxic"])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    there = scorer(f"transformers:{place / 'snapshots' / commit}")
    assert scorer("transformers:someone/judge").score(TEXTS) == there.score(TEXTS)


def test_batches_hold_every_row_once_and_keep_to_their_budget() -> None:
    lengths = [1, 500, 3, 500, 40, *[100] * 300, 9000]
    chunks = list(_batches(lengths))
    assert sorted(i for chunk in chunks for i in chunk) == list(range(len(lengths)))
    assert all(len(c) == 1 or max(lengths[i] for i in c) * len(c) <= BATCH_TOKENS for c in chunks)
    assert len(chunks) < 10
    assert list(_batches([])) == []
