"""Greedy text in batches says what one prompt at a time says, and refuses numbers that are none."""

import pytest
import torch
from families import tiny
from words import word_tokenizer

from safeedit.editors.contexts import context_texts, own_texts
from safeedit.errors import ModelError
from safeedit.models import decode
from safeedit.models.generate import end_ids, greedy

PROMPTS = [f"w{i} " * (1 + i % 5) + f"w{3 * i}" for i in range(17)]


@pytest.mark.parametrize("family", ["gpt2", "llama", "gptj", "gemma2"])
def test_batches_agree_with_single_prompts(family):
    model, tokenizer = tiny(family), word_tokenizer()
    together = greedy(model, tokenizer, PROMPTS, max_new_tokens=8)
    alone = [greedy(model, tokenizer, [prompt], max_new_tokens=8)[0] for prompt in PROMPTS]
    assert together == alone
    assert greedy(model, tokenizer, PROMPTS, max_new_tokens=8, token_budget=60) == alone


PREAMBLE = " ".join(f"w{7 * i % 79}" for i in range(22))
SHARING = [f"{PREAMBLE} " + " ".join(f"w{(i * j) % 79}" for j in range(1, 2 + i % 6)) for i in range(30)]


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "gptj", "gemma2", "qwen3-local", "phi"])
def test_a_beginning_that_prompts_share_is_read_once_and_changes_nothing(family, monkeypatch):
    model, tokenizer = tiny(family), word_tokenizer()
    alone = [greedy(model, tokenizer, [prompt], max_new_tokens=8)[0] for prompt in (*SHARING, *PROMPTS)]
    shapes = []
    own = decode._pass

    def watched(model, ids, *rest):
        shapes.append(tuple(ids.shape))
        return own(model, ids, *rest)

    monkeypatch.setattr(decode, "_pass", watched)
    assert greedy(model, tokenizer, [*SHARING, *PROMPTS], max_new_tokens=8) == alone
    assert (1, 22) in shapes
    assert all(rows == 1 or columns < 22 for rows, columns in shapes)


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "qwen3-local"])
def test_several_beginnings_of_one_batch_are_read_together(family, monkeypatch):
    model, tokenizer = tiny(family), word_tokenizer()
    others = [" ".join(f"w{(k * i) % 79}" for i in range(18 + k)) for k in (11, 13)]
    prompts = [f"{other} w{i} w{(3 * i) % 79}" for i in range(40) for other in (PREAMBLE, *others)]
    alone = [greedy(model, tokenizer, [prompt], max_new_tokens=6)[0] for prompt in prompts[:12]]
    shapes = []
    own = decode._pass

    def watched(model, ids, *rest):
        shapes.append(tuple(ids.shape))
        return own(model, ids, *rest)

    monkeypatch.setattr(decode, "_pass", watched)
    assert greedy(model, tokenizer, prompts, max_new_tokens=6)[:12] == alone
    assert (3, 31) in shapes
    # Every row then reads what it does not share; three quarters of all tokens are not read again.
    read = sum(rows * columns for rows, columns in shapes if columns > 1)
    assert read < sum(len(prompt.split()) for prompt in prompts) / 4


def test_a_run_is_left_whole_by_the_batches(monkeypatch):
    rows = [[k, *range(10, 30), i] for k in range(6) for i in range(40, 52)]
    chunks = list(decode.batches(rows, 4, 800))
    assert sorted(i for chunk in chunks for i in chunk) == list(range(len(rows)))
    assert [{i // 12 for i in chunk} for chunk in chunks] == [{0, 1}, {2, 3}, {4, 5}]
    assert all(decode._fits(rows, chunk, 4, 800) for chunk in chunks)


def test_a_model_whose_cache_is_not_by_position_reads_every_prompt_whole(monkeypatch):
    class Other(decode.DynamicLayer):
        pass

    class Cache(decode.DynamicCache):
        def __init__(self, config):
            super().__init__(config=config)
            self.layers = [Other() for _ in self.layers]

    monkeypatch.setattr(decode, "DynamicCache", Cache)
    model, tokenizer = tiny("llama"), word_tokenizer()
    alone = [greedy(model, tokenizer, [prompt], max_new_tokens=4)[0] for prompt in SHARING[:4]]
    assert greedy(model, tokenizer, SHARING, max_new_tokens=4)[:4] == alone


def test_rows_that_ended_leave_the_batch(monkeypatch):
    """They leave together with those that end later, not only with those that end at the same token."""
    model, tokenizer = tiny("gpt2"), word_tokenizer()
    with torch.no_grad():
        model.transformer.ln_f.bias.add_(4.0 * model.lm_head.weight[2])
    alone = [greedy(model, tokenizer, [prompt], max_new_tokens=12)[0] for prompt in SHARING]
    rows = []
    own = decode._pass

    def watched(model, ids, *rest):
        rows.append(len(ids))
        return own(model, ids, *rest)

    monkeypatch.setattr(decode, "_pass", watched)
    assert greedy(model, tokenizer, SHARING, max_new_tokens=12) == alone
    going = sum(found.truncated for found in alone)
    assert rows[-1] <= max(1, going / decode.LEAVE_AT)


def test_a_prompt_that_has_its_special_tokens_gets_no_others():
    model, tokenizer = tiny("llama"), word_tokenizer()
    assert decode.token_rows(tokenizer, ["w1"], special=False) == [[5]]
    found = greedy(model, tokenizer, ["w1 w2"], max_new_tokens=4, special=False)
    assert found == greedy(model, tokenizer, ["w1 w2"], max_new_tokens=4)


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
