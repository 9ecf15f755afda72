"""A text that a model has no positions for is refused in words; one that it can read never is."""

import pytest
import torch
from families import FAMILIES, tiny
from transformers import AutoConfig, AutoModelForCausalLM
from words import word_tokenizer

from safeedit.editors.contexts import own_texts
from safeedit.errors import UsageError
from safeedit.models.generate import greedy
from safeedit.models.hooks import frozen
from safeedit.models.positions import positions_of
from safeedit.models.sampling import sampled
from safeedit.models.scoring import score, score_candidates
from safeedit.models.tokens import pad

ROOM = 64
TOO_LONG = rf"65 tokens.* {ROOM}"


def words(count):
    return " ".join(f"w{i % 80}" for i in range(count))


def small(kind, **more):
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, vocab_size=96, pad_token_id=0, bos_token_id=1, eos_token_id=2, **more)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


MORE = {
    "opt": lambda: small(
        "opt", hidden_size=16, ffn_dim=32, num_hidden_layers=1, num_attention_heads=2, word_embed_proj_dim=16,
        max_position_embeddings=ROOM,
    ),
    "gpt_neo": lambda: small(
        "gpt_neo", hidden_size=16, num_layers=1, num_heads=2, attention_types=[[["global"], 1]],
        max_position_embeddings=ROOM,
    ),
    "codegen": lambda: small("codegen", n_embd=16, n_layer=1, n_head=4, rotary_dim=4, n_positions=ROOM),
    "bloom": lambda: small("bloom", hidden_size=16, n_layer=1, n_head=2),
}  # fmt: skip
TABLES = ("gpt2", "gptj", "opt", "gpt_neo", "codegen")


@pytest.mark.parametrize("kind", [*sorted(FAMILIES), *sorted(MORE)])
def test_a_table_is_found_where_a_text_that_is_too_long_fails(kind):
    model = MORE[kind]() if kind in MORE else tiny(kind)

    def reads(length):
        ids = torch.full((1, length), 5, device=model.device)
        try:
            model(input_ids=ids, position_ids=torch.arange(length, device=model.device)[None])
        except TypeError:  # a model without positions
            model(input_ids=ids)

    reads(ROOM)
    found = positions_of(model)
    assert (found is not None) == (kind in TABLES)
    if found is None:
        with frozen(model):
            reads(ROOM + 1)
        return
    assert found == ROOM
    if model.device.type == "cpu":  # elsewhere a device is lost by it
        with pytest.raises((IndexError, RuntimeError)):
            reads(ROOM + 1)
    with frozen(model):
        reads(ROOM)
        with pytest.raises(UsageError, match=TOO_LONG):
            reads(ROOM + 1)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_model_that_does_not_say_where_its_words_are_has_its_table_found(monkeypatch):
    def nowhere():
        raise NotImplementedError

    model = tiny("gpt2")
    monkeypatch.setattr(model, "get_input_embeddings", nowhere)
    assert positions_of(model) == ROOM
    assert positions_of(torch.nn.Linear(2, 2)) is None


@pytest.mark.parametrize("family", ["gpt2", "gptj"])
def test_prompts_that_are_too_long_are_refused_without_their_words(family):
    model, tokenizer = tiny(family), word_tokenizer()
    fits, beyond = words(ROOM), words(ROOM + 1)
    for ask in (
        lambda prompt: greedy(model, tokenizer, ["w1", prompt], max_new_tokens=1),
        lambda prompt: sampled(model, tokenizer, ["w1", prompt], samples=2, seed=0, max_new_tokens=1),
        lambda prompt: score(model, tokenizer, [("w1", " w2"), (prompt, " w2")]),
        lambda prompt: score_candidates(model, tokenizer, ["w1", prompt], [[" w2", " w3"]] * 2),
    ):
        ask(fits)
        with pytest.raises(UsageError, match=TOO_LONG) as error:
            ask(beyond)
        assert "w1" not in str(error.value)
        assert "\n" not in str(error.value)


def test_an_answer_for_which_no_position_is_left_is_refused():
    model, tokenizer = tiny("gpt2"), word_tokenizer()
    model.generation_config.eos_token_id = None
    found = greedy(model, tokenizer, [words(ROOM - 3)], max_new_tokens=4)
    assert len(found) == 1
    with pytest.raises(UsageError, match=TOO_LONG):
        greedy(model, tokenizer, [words(ROOM)], max_new_tokens=4)


def test_a_model_without_a_table_reads_on():
    model, tokenizer = tiny("llama"), word_tokenizer()
    assert len(greedy(model, tokenizer, [words(ROOM + 20)], max_new_tokens=2)) == 1
    assert len(score(model, tokenizer, [(words(ROOM + 20), " w2")])) == 1


def test_padding_takes_no_position():
    """A batch may be wider than a model has positions, as long as each of its rows fits."""
    model = tiny("gpt2")
    mask = torch.ones(1, ROOM + 8, dtype=torch.long)
    mask[0, :8] = 0
    batch = pad([[5] * ROOM], 0)
    with frozen(model), torch.no_grad():
        plain = model(**batch.to(model.device).forward_args()).logits
        wide = model(
            input_ids=torch.full((1, ROOM + 8), 5, device=model.device),
            attention_mask=mask.to(model.device),
            position_ids=(mask.cumsum(1) - 1).clamp(min=0).to(model.device),
        ).logits
    assert torch.allclose(wide[:, 8:], plain, atol=1e-4)


def test_the_model_s_own_texts_keep_within_its_positions():
    model, tokenizer = tiny("gpt2"), word_tokenizer()
    assert own_texts(model, tokenizer, 2 * ROOM, seed=0, width=ROOM, rows=2)
    with pytest.raises(UsageError, match=TOO_LONG):
        own_texts(model, tokenizer, 4 * ROOM, seed=0, width=2 * ROOM, rows=2)
