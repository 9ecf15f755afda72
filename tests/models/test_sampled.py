"""Sampled text depends on the seed and the prompt alone, and follows the model's own probabilities."""

import math

import pytest
import torch
from families import tiny
from words import word_tokenizer

from safeedit.errors import ModelError, UsageError
from safeedit.models.generate import greedy
from safeedit.models.sampling import STRAGGLERS, Sampler, sampled, uniforms

PROMPTS = [f"w{i} " * (1 + i % 5) + f"w{3 * i}" for i in range(9)]


def plain(model, tokenizer, prompt, numbers, sampler, limit):
    """One sample, without a cache, a batch or anything clever."""
    ids = tokenizer(prompt)["input_ids"]
    found = []
    for step in range(limit):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids + found])).logits[:, -1]
        token = int(sampler.draw(logits, numbers[step : step + 1]))
        if token == 2:
            break
        found.append(token)
    return tokenizer.decode(found, skip_special_tokens=True)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gptj", "gemma2", "qwen3-local"])
def test_batches_agree_with_single_samples(family):
    model, tokenizer = tiny(family), word_tokenizer()
    together = sampled(model, tokenizer, PROMPTS, samples=4, seed=5, max_new_tokens=8)
    numbers = uniforms(5, [(i, s) for i in range(9) for s in range(4)], 8).view(9, 4, 8)
    for i in (0, 4, 8):
        for s in range(4):
            alone = plain(model, tokenizer, PROMPTS[i], numbers[i, s], Sampler(), 8)
            assert together[i][s].text == alone
    assert len({found.text for some in together for found in some}) > 20


@pytest.mark.parametrize("budget", [1, 60, 400])
def test_neither_batches_nor_the_number_of_samples_change_a_text(budget):
    model, tokenizer = tiny("llama"), word_tokenizer()
    settings = {"seed": 3, "temperature": 0.7, "top_p": 0.9, "max_new_tokens": 12}
    large = sampled(model, tokenizer, PROMPTS, samples=6, **settings)
    small = sampled(model, tokenizer, PROMPTS, samples=4, token_budget=budget, **settings)
    assert small == [some[:4] for some in large]
    assert large != sampled(model, tokenizer, PROMPTS, samples=6, **{**settings, "seed": 4})


def test_long_texts_that_are_put_aside_go_on_as_they_would_have():
    """Most rows end at once, so that the others are read again and finished together."""
    model, tokenizer = tiny("gpt2"), word_tokenizer()
    with torch.no_grad():
        model.transformer.ln_f.bias.add_(4.0 * model.lm_head.weight[2])
    found = sampled(model, tokenizer, PROMPTS, samples=8, seed=1, max_new_tokens=20)
    lengths = [len(text.text.split()) for some in found for text in some]
    long = sum(length > 8 for length in lengths)
    assert 0 < long < STRAGGLERS * len(lengths)
    numbers = uniforms(1, [(i, s) for i in range(9) for s in range(8)], 20).view(9, 8, 20)
    for i, some in enumerate(found):
        for s, text in enumerate(some):
            if len(text.text.split()) > 8:
                assert text.text == plain(model, tokenizer, PROMPTS[i], numbers[i, s], Sampler(), 20)


def test_frequencies_are_the_model_s_probabilities():
    model, tokenizer = tiny("llama"), word_tokenizer()
    [some] = sampled(model, tokenizer, ["w1 w2"], samples=4000, seed=2, max_new_tokens=1)
    with torch.no_grad():
        ids = torch.tensor([tokenizer("w1 w2")["input_ids"]])
        wanted = model(input_ids=ids).logits[0, -1].softmax(-1)
    for token in (wanted[4:84].topk(5).indices + 4).tolist():
        word = tokenizer.decode([token], skip_special_tokens=True)
        share = sum(found.text == word for found in some) / 4000
        p = float(wanted[token])
        assert abs(share - p) < 4 * math.sqrt(p * (1 - p) / 4000)


def test_cold_samples_are_greedy_and_limits_cut():
    model, tokenizer = tiny("llama"), word_tokenizer()
    wanted = greedy(model, tokenizer, PROMPTS, max_new_tokens=6)
    for setting in ({"temperature": 1e-4}, {"top_k": 1}, {"top_p": 1e-9}):
        found = sampled(model, tokenizer, PROMPTS, samples=2, seed=1, max_new_tokens=6, **setting)
        assert found == [[one, one] for one in wanted]


def test_nucleus_keeps_the_fewest_tokens_that_reach_it():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    many = torch.linspace(0, 1, 101)[:-1].double()

    def kept(**setting):
        return set(Sampler(**setting).draw(logits.expand(100, 4), many).tolist())

    assert kept() == {0, 1, 2, 3}
    assert kept(top_p=0.79) == {0, 1}
    assert kept(top_p=0.81) == {0, 1, 2}
    assert kept(top_k=3) == {0, 1, 2}
    assert Sampler().draw(torch.tensor([[-1e4, 0.0, -1e4]]), torch.tensor([0.0]).double()) == 1
    assert Sampler().draw(torch.tensor([[0.0, -1e4, -1e4]]), torch.tensor([1 - 2.0**-53]).double()) == 0


def test_numbers_depend_on_their_place_alone():
    table = uniforms(7, [(0, 0), (0, 1), (1, 0)], 5)
    assert torch.equal(uniforms(7, [(1, 0)], 3)[0], table[2, :3])
    assert len(set(table.flatten().tolist())) == 15


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"top_p": 0.0}, {"top_k": -1}, {"samples": 0}])
def test_settings_out_of_range_are_refused_by_name(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        sampled(None, None, ["w1"], seed=1, **{"samples": 1, **wrong})


def test_logits_that_are_not_finite_are_an_error():
    model = tiny("gpt2")
    with torch.no_grad():
        model.lm_head.weight[5] = torch.nan
    with pytest.raises(ModelError, match="not finite"):
        sampled(model, word_tokenizer(), ["w1 w2"], samples=2, seed=1)
