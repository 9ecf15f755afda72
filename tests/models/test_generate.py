"""Greedy text in batches says what one prompt at a time says, and refuses numbers that are none."""

import pytest
import torch
from families import tiny
from words import word_tokenizer

from safeedit.editors.contexts import context_texts, own_texts
from safeedit.errors import ModelError
from safeedit.models.generate import end_ids, greedy

PROMPTS = [f"w{i} " * (1 + i % 5) + f"w{3 * i}" for i in range(17)]


@pytest.mark.parametrize("family", ["gpt2", "llama", "gptj", "gemma2"])
def test_batches_agree_with_single_prompts(family):
    model, tokenizer = tiny(family), word_tokenizer()
    together = greedy(model, tokenizer, PROMPTS, max_new_tokens=8)
    alone = [greedy(model, tokenizer, [prompt], max_new_tokens=8)[0] for prompt in PROMPTS]
    assert together == alone
    assert greedy(model, tokenizer, PROMPTS, max_new_tokens=8, token_budget=60) == alone


def test_agrees_with_the_library_that_the_model_is_of():
    model, tokenizer = tiny("llama"), word_tokenizer()
    ids = torch.tensor([tokenizer(PROMPTS[3])["input_ids"]])
    theirs = model.generate(input_ids=ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :]
    [ours] = greedy(model, tokenizer, [PROMPTS[3]], max_new_tokens=8)
    assert ours.text == tokenizer.decode(theirs, skip_special_tokens=True)


def test_text_stops_at_the_end_token():
    model, tokenizer = tiny("gpt2"), word_tokenizer()
    with torch.no_grad():
        model.transformer.ln_f.bias.copy_(100 * model.lm_head.weight[2])
    [found] = greedy(model, tokenizer, ["w1 w2"], max_new_tokens=8)
    assert found.text == ""
    assert not found.truncated


def test_a_limit_is_told():
    model, tokenizer = tiny("gpt2"), word_tokenizer()
    model.generation_config.eos_token_id = None
    tokenizer = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, pad_token="<pad>")
    assert end_ids(model, tokenizer) == set()
    [found] = greedy(model, tokenizer, ["w1 w2"], max_new_tokens=3)
    assert found.truncated


def test_logits_that_are_not_finite_are_an_error():
    model = tiny("gpt2")
    with torch.no_grad():
        model.lm_head.weight[5] = torch.nan
    with pytest.raises(ModelError, match="not finite"):
        greedy(model, word_tokenizer(), ["w1 w2"])


def test_a_prompt_without_a_token_is_an_error():
    with pytest.raises(ModelError, match="no token"):
        greedy(tiny("gpt2"), word_tokenizer(), ["w1", ""])


def test_what_was_generated_is_not_shown():
    [found] = greedy(tiny("gpt2"), word_tokenizer(), ["w1 w2"], max_new_tokens=3)
    assert repr(found) == "<Generation>"


def test_the_model_s_own_texts_depend_on_the_seed_alone():
    model, tokenizer = tiny("llama"), word_tokenizer()
    assert context_texts(model, tokenizer, 3, 6, seed=1) == context_texts(model, tokenizer, 3, 6, seed=1)
    assert context_texts(model, tokenizer, 3, 6, seed=1) != context_texts(model, tokenizer, 3, 6, seed=2)
    assert all(text.endswith(". ") for text in context_texts(model, tokenizer, 3, 6, seed=1))
    texts = own_texts(model, tokenizer, 200, seed=1, width=20, rows=5)
    assert texts == own_texts(model, tokenizer, 200, seed=1, width=20, rows=5)
    assert "</s>" not in " ".join(texts)
    assert 100 < len(tokenizer(" ".join(texts))["input_ids"]) <= 200
