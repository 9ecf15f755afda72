"""What every scorer keeps to, how one is found by its name, and the linear ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from safeedit.errors import PolicyError, ProbeError, UsageError
from safeedit.toxicity import SCORERS, beside, fit, scorer
from safeedit.toxicity.base import Scorer
from safeedit.toxicity.linear import FEATURES, vectoriser

SECRET = "Zenobia Harkaway"


class Several(Scorer):
    name = "several"
    fit_for_release = True
    labels = ("calm", "threat", "insult")
    toxic = ("threat", "insult")
    digest = "0"
    given: Mapping[str, Sequence[float]] = {"calm": [0.9], "threat": [0.2], "insult": [0.3]}

    def probabilities(self, texts: Sequence[str]) -> list[float]:
        return [max(some) for some in zip(self.given["threat"], self.given["insult"], strict=True)]

    def labelled(self, texts: Sequence[str]) -> Mapping[str, Sequence[float]]:
        return self.given


def test_of_no_text_nothing_is_said() -> None:
    one = Several()
    assert (one.score([SECRET]), one.scores([SECRET])) == ([0.3], one.given)
    assert one.scores([]) == {"calm": [], "threat": [], "insult": []}
    assert one.score([]) == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"calm": [0.1], "threat": [0.1]}, "every label"),
        ({"calm": [0.1], "threat": [0.1], "insult": []}, "every text"),
        ({"calm": [0.1], "threat": [math.nan], "insult": [0.1]}, "probability"),
        ({"calm": [0.1], "threat": [1.1], "insult": [0.1]}, "probability"),
        ({"calm": [0.1], "threat": [-0.1], "insult": [0.1]}, "probability"),
    ],
)
def test_what_is_no_answer_is_an_error_without_the_text(given: Any, message: str) -> None:
    one = Several()
    one.given = given
    with pytest.raises(ProbeError, match=message) as told:
        one.scores([SECRET])
    assert SECRET not in str(told.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("embeded", "did you mean 'embedded'"),
        ("detoxfy:original", "did you mean 'detoxify'"),
        ("", "unknown scorer"),
        ("embedded:x", "takes nothing after it"),
        ("linear", r"linear:FILE\.safetensors"),
        ("linear:/no/such/file", "there is no such file"),
        ("linear:/", "this is a folder"),
        ("transformers", "transformers:FOLDER"),
        ("transformers:/no/such/folder", "there is no folder"),
        ("transformers:nobody/never-cached", "not in the hub's cache, and HF_HUB_OFFLINE forbids"),
    ],
)
def test_a_scorer_that_is_not_there_is_told_in_one_line(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as told:
        scorer(spec)
    assert "\n" not in str(told.value)


def test_a_path_beside_a_policy_becomes_a_whole_one(tmp_path: Path) -> None:
    for name in ("judge", "judge#2", "original"):
        (tmp_path / name).mkdir()
    whole = tmp_path.resolve()
    for spec, expected in (
        ("transformers:judge", f"transformers:{whole}/judge"),
        ("transformers:judge#a,b", f"transformers:{whole}/judge#a,b"),
        ("transformers:judge#2", f"transformers:{whole}/judge#2"),
        ("transformers:judge#2#a", f"transformers:{whole}/judge#2#a"),
        *((same, same) for same in ("embedded", "detoxify:original", "transformers:owner/name#a", "x:")),
    ):
        assert beside(spec, tmp_path) == expected


def test_a_scorer_is_made_once() -> None:
    assert scorer("embedded") is scorer("embedded")
    assert scorer("embedded").score(["The rain came."]) == scorer("embedded").score(["The rain came."])


def test_a_scorer_of_another_package_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Foreign(Several):
        name = "foreign"

    monkeypatch.setattr(SCORERS, "get", lambda name: Foreign)
    assert scorer("foreign").score(["a"]) == [0.3]
    with pytest.raises(UsageError, match="takes nothing"):
        scorer("foreign:x")


def linear(path: Path, weight: Any, bias: Any) -> str:
    path.write_bytes(save({"weight": weight, "bias": bias}))
    return f"linear:{path}"


def test_a_linear_scorer_is_the_regression_that_it_holds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=FEATURES).astype(np.float32)
    spec = linear(tmp_path / "a.safetensors", weight, np.array([0.5], np.float32))
    texts = ["One text.", "another", ""]
    logits = vectoriser().transform(texts) @ weight + 0.5
    assert scorer(spec).score(texts) == pytest.approx((1 / (1 + np.exp(-logits))).tolist())
    first = scorer(spec).digest
    linear(tmp_path / "a.safetensors", weight * 1e6, np.array([0.5], np.float32))
    assert scorer(spec).digest != first
    assert set(scorer(spec).score(texts[:2])) <= {0.0, 1.0}


@pytest.mark.parametrize(
    ("weight", "bias", "message"),
    [
        (np.zeros(5, np.float32), np.zeros(1, np.float32), "is not a linear scorer"),
        (np.zeros(FEATURES, np.float64), np.zeros(1, np.float32), "is not a linear scorer"),
        (np.zeros(FEATURES, np.float32), np.array([np.nan], np.float32), "not a finite number"),
    ],
)
def test_a_file_that_holds_no_linear_scorer(tmp_path: Path, weight: Any, bias: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        scorer(linear(tmp_path / "a.safetensors", weight, bias))


def test_what_is_no_safetensors_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"not at all")
    with pytest.raises(UsageError, match="is not a linear scorer"):
        scorer(f"linear:{tmp_path / 'a.safetensors'}")


def tweets(path: Path) -> Path:
    """Lines as in published tables: a label that is no number, and a text."""
    texts, rude = fit.examples(4, 60)
    lines = [f'{"hate" if label else "neither"},"{text}"' for text, label in zip(texts, rude, strict=True)]
    path.write_text("label,text\n" + "\n".join(lines) + "\n", "utf-8")
    return path


def test_labelled_texts_of_ones_own_make_a_scorer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, prose, out = tweets(tmp_path / "a.csv"), tmp_path / "prose.txt", tmp_path / "o.safetensors"
    prose.write_text("The bell rings at noon. The road is closed.\n")
    fit.main(f"--csv {table} --column label --toxic hate,offensive --harmless {prose} --out {out}".split())
    told = capsys.readouterr().out
    assert told.startswith("122 texts, 60 toxic; AUC on what was left out 0.9")
    texts, rude = fit.examples(5, 50)
    scores = scorer(f"linear:{out}").score(texts)
    assert np.mean([(p >= 0.5) == bool(label) for p, label in zip(scores, rude, strict=True)]) > 0.85


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a", "toxic": 1}\n{"text": "Zenobia Harkaway"}\n', ":2:1: the field 'toxic' is missing"),
        ('{"text": "Zenobia Harkaway", "toxic": 2}\n', ":1:1: 'toxic'"),
        ('{"text": "Zenobia Harkaway", "toxic": 1}\n', "all are of one kind"),
        ('{"text": "Zenobia Harkaway", "toxic": 1, "identities": ["Zenobia Harkaway"]}\n', "'identities'"),
    ],
)
def test_what_is_wrong_with_labelled_texts_is_told_without_them(
    tmp_path: Path, content: str, message: str
) -> None:
    from safeedit.toxicity.labelled import labelled

    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises((PolicyError, UsageError), match=message) as told:
        labelled(tmp_path / "a.jsonl")
    assert SECRET not in str(told.value)


def test_without_texts_the_script_makes_the_embedded_scorer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "EACH", 50)
    fit.main(["--out", str(tmp_path / "e.safetensors")])
    assert (tmp_path / "e.safetensors").read_bytes() == fit.weights(*fit.examples(fit.SEED, 50))
