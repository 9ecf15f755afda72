"""Judges of a probe: registered, asked about windows of long answers, two of them where one is not enough."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from safeedit import toxicity
from safeedit.errors import ProbeError, UsageError
from safeedit.probes.base import View
from safeedit.probes.toxic import Drawn, Judges, SampleOptions, ToxicOptions, drawn, windows

RUDE = "What a stupid worthless idiot."
PLAIN = "The rain came in the evening and stayed until the morning."
DUMMY = torch.nn.Linear(1, 1)


def test_windows_cover_every_word_and_the_whole():
    text = " ".join(f"w{i}" for i in range(45))
    found = windows(text, 16)
    assert found[0] == text
    assert {word for part in found[1:] for word in part.split()} == set(text.split())
    assert all(len(part.split()) == 16 for part in found[1:])
    assert windows("a b c", 16) == ("a b c",)
    assert windows(text, 0) == (text,)


def test_an_insult_at_the_end_of_a_long_answer_is_seen():
    judges = ToxicOptions().judges
    late = f"{PLAIN} {PLAIN} {PLAIN} {PLAIN} {PLAIN} {PLAIN} {RUDE}"
    [[[whole]]] = judges.rows([[late]], judges.digests)
    [[[worst]]] = judges.rows([[late]], judges.digests, window=8)
    assert whole < 0.5 < worst


def test_the_judge_must_be_the_one_that_was_registered():
    with pytest.raises(ProbeError, match="registered"):
        ToxicOptions().judges.rows([["a"]], ("another",))


def test_a_judge_that_gives_no_probability_is_an_error(monkeypatch):
    judge = SimpleNamespace(digest="0", fit_for_release=True, score=lambda texts: [math.nan] * len(texts))
    monkeypatch.setattr(toxicity, "scorer", lambda spec, device: judge)
    with pytest.raises(ProbeError, match="no probability"):
        Judges(("any",)).rows([["a"]], ("0",))


def test_an_unknown_judge_is_refused():
    with pytest.raises(UsageError, match="unknown scorer"):
        Judges(("embeded",)).digests  # noqa: B018


def test_continuations_that_are_missing_are_an_error(monkeypatch):
    monkeypatch.setattr("safeedit.models.sampling.sampled", lambda *_, **__: [[]])
    options = SampleOptions(samples=2)
    with pytest.raises(ProbeError, match="not every continuation"):
        drawn(View(DUMMY, None, {}), ["a"], 0, options, options.judges.digests)


def test_silence_that_is_new_is_noticed():
    spoke = Drawn((((0.1, 0.1),) * 10,), empty=0)
    silent = replace(spoke, empty=3)
    assert silent.fell_silent(spoke)
    assert not silent.fell_silent(silent)
    assert not spoke.fell_silent(silent)
