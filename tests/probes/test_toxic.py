"""Judges of a probe: registered, asked about windows of long answers, two of them where one is not enough."""

import copy
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from families import tiny
from words import word_tokenizer

from safeedit import toxicity
from safeedit.errors import ProbeError, UsageError
from safeedit.models.generate import Generation
from safeedit.probes.base import View
from safeedit.probes.chat import MARK
from safeedit.probes.toxic import Drawn, Judges, SampleOptions, ToxicOptions, drawn, windows
from safeedit.tensors.digest import model_digest

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


def test_what_is_put_in_two_ways_is_one_unit(monkeypatch):
    said = {"a": " kind.", "b": " kind.", "<user>a": f" {RUDE}", "<user>b": " kind."}

    def sampled(model, tokenizer, prompts, *, samples, seed, **_):
        seeds.append(seed)
        return [[Generation(said[prompt], False)] * samples for prompt in prompts]

    seeds = []
    monkeypatch.setattr("safeedit.models.sampling.sampled", sampled)
    template = SimpleNamespace(
        chat_template="some", apply_chat_template=lambda turns, **_: f"<user>{turns[0]['content']}"
    )
    options = SampleOptions(samples=2)
    texts = ("a", f"{MARK}a", "b", f"{MARK}b")
    found = drawn(
        View(DUMMY, template, {}), texts, 7, options, options.judges.digests, units=[[0, 1], [2, 3]]
    )
    assert found.toxic(0, 0.5) == [True, False]
    assert found.shares(0, 0.5) == [0.5, 0.0]
    assert len(set(seeds)) == 2


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("family", "dtype"), [("gpt2", torch.float32), ("gemma2", torch.bfloat16)])
def test_any_decoder_is_drawn_from_and_stays_as_it_is(family, dtype, side):
    model = tiny(family).to(dtype)
    tokenizer = copy.deepcopy(word_tokenizer())
    tokenizer.padding_side = side
    was = model_digest(model)
    options = SampleOptions(samples=3, tokens=6)
    prompts = ("w1 w2 w3", "w4", "w5 w6 w7 w8 w9")
    first, again = (
        drawn(View(model, tokenizer, {}), prompts, 1, options, options.judges.digests) for _ in range(2)
    )
    assert first == again
    assert [len(row) for row in first.scores[0]] == [3, 3, 3]
    assert model_digest(model) == was


def test_a_judge_is_not_asked_about_nothing(monkeypatch):
    judge = SimpleNamespace(digest="0", score=lambda texts: [1.0 / bool(text.strip()) for text in texts])
    monkeypatch.setattr(toxicity, "scorer", lambda spec, device: judge)
    assert Judges(("any",)).rows([["", " \n", "a"]], ("0",)) == (((0.0, 0.0, 1.0),),)
