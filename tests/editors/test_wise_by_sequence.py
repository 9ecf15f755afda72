"""A memory that is routed by sequence says the same whichever way the tokens before are kept."""

import copy

import pytest
import torch
from answers import ids
from families import tiny
from torch.nn.functional import normalize
from transformers import StaticCache
from words import word_tokenizer

from safeedit.models import decode
from safeedit.models.generate import greedy
from safeedit.models.sampling import sampled
from safeedit.models.scoring import score, score_candidates
from safeedit.models.segment import Prefix, Segment
from safeedit.models.structure import find_decoder
from safeedit.models.tokens import pad, pad_around
from safeedit.sidememory import SideMemory

ROUTED = "w5 w30 w31 w6 w7"
LATER = "w5 w30 w31 w8"
"""As far as its third word, where the memory comes on, it is the other one."""
PLAIN = ("w60 w61 w62", "w12 w50 w51 w52 w53 w54")
PROMPTS = (PLAIN[0], ROUTED, PLAIN[1], LATER)
LAYER = 2
families = pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "qwen3-local"])
SHAPES = ["llama", "qwen2", "qwen3", "qwen3-local", "gemma2"]


@torch.no_grad()
def memory_at(model, tokens, place):
    """A memory, routed by sequence, of exactly what the module takes at one of some tokens."""
    projection = find_decoder(model).projections[LAYER]
    seen = []
    handle = projection.module.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(torch.tensor([tokens]), use_cache=False)
    handle.remove()
    change = torch.randn(1, projection.outer, projection.inner, generator=torch.Generator().manual_seed(0))
    parts = {
        "change": 2 * change,
        "basis": torch.eye(projection.inner),
        "shift": torch.zeros(projection.inner),
        "keys": normalize(seen[0][0, place], dim=0)[:, None],
        "limits": torch.tensor([0.9999]),
        "owner": torch.zeros(1),
    }
    return SideMemory(parts, {"router": "keys", "route": "sequence"})


def put(model, tokens=None, place=2):
    """Put the memory of `ROUTED`, or of other tokens, at a model; what is returned takes it off."""
    memory = memory_at(model, ids(ROUTED) if tokens is None else tokens, place)
    return memory.put(find_decoder(model).projections[LAYER].module, model)


@families
def test_what_is_sampled_is_what_is_written(family):
    model, tokenizer = tiny(family), word_tokenizer()
    model.generation_config.eos_token_id = None
    before = greedy(model, tokenizer, PROMPTS, max_new_tokens=6)
    put(model)
    written = greedy(model, tokenizer, PROMPTS, max_new_tokens=6)
    assert [a == b for a, b in zip(written, before, strict=True)] == [True, False, True, False]
    found = sampled(model, tokenizer, PROMPTS, samples=2, seed=0, top_k=1, max_new_tokens=6)
    assert found == [[text] * 2 for text in written]


@families
def test_candidates_are_scored_as_they_are_one_by_one(family):
    model, tokenizer = tiny(family), word_tokenizer()
    own = [" w40 w41", " w40 w42 w5", " w43 w44"]
    pairs = [(prompt, continuation) for prompt in PROMPTS for continuation in own]
    before = score(model, tokenizer, pairs)
    put(model)
    expected = score(model, tokenizer, pairs)
    changed = [one.log_p != other.log_p for one, other in zip(expected, before, strict=True)]
    assert changed == [PROMPTS[i // 3] not in PLAIN for i in range(12)]
    for budget in (8192, 16):
        found = score_candidates(model, tokenizer, PROMPTS, [own] * 4, token_budget=budget)
        for one, other in zip([one for some in found for one in some], expected, strict=True):
            assert one.log_p == pytest.approx(other.log_p, abs=1e-4)
            assert one.top == other.top


@families
@torch.no_grad()
def test_a_pass_on_a_kept_prefix_is_the_rest_of_the_whole_pass(family):
    model = tiny(family)
    put(model)
    segment = Segment(find_decoder(model))
    rows, pivots = [ids(prompt) for prompt in PROMPTS], [1, 4, 2, 3]
    batch, columns = pad_around(rows, pivots, 0), max(pivots)
    rest = batch.columns(slice(columns, None))
    real = rest.attention_mask.bool()
    expected = segment.run(batch)[:, columns:][real]
    for keep in (1, LAYER, LAYER + 1):
        hidden, prefix = segment.with_prefix(batch, columns, keep)
        for _ in range(2):
            found = segment.run(rest, start=keep, hidden=hidden, prefix=prefix)[real]
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    hidden, prefix = segment.with_prefix(batch, columns, 1)
    some = torch.tensor([3, 0])
    found = segment.run(rest.rows(some), start=1, hidden=hidden[some], prefix=prefix.rows(some))
    wanted = segment.run(batch)[some][:, columns:]
    torch.testing.assert_close(found[real[some]], wanted[real[some]], rtol=1e-3, atol=1e-3)
    parts = []
    for one, pivot in zip(range(4), pivots, strict=True):
        part = batch.rows(torch.tensor([one])).columns(slice(columns - pivot, None))
        parts.append(segment.with_prefix(part, pivot, 1))
    joined = Prefix.joined([part for _, part in parts])
    hidden = torch.cat([part for part, _ in parts])
    found = segment.run(rest, start=1, hidden=hidden, prefix=joined)[real]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_a_cache_that_was_copied_goes_on_as_the_other_one():
    model = tiny("llama")
    tokens = torch.tensor([ids(ROUTED), ids("w60 w61 w62 w63 w64")])
    base = model(tokens).logits
    put(model)
    whole = model(tokens).logits
    assert [not torch.equal(one, other) for one, other in zip(whole, base, strict=True)] == [True, False]
    cache = model(tokens[:, :3], use_cache=True).past_key_values
    for each in (copy.deepcopy(cache), copy.deepcopy(cache), cache):
        found = model(tokens[:, 3:], past_key_values=each, use_cache=True).logits
        torch.testing.assert_close(found, whole[:, 3:], rtol=1e-3, atol=1e-3)
        assert [layer.get_seq_length() for layer in each.layers] == [5] * 5


@torch.no_grad()
def test_equal_memories_at_two_modules_keep_apart_where_each_row_is():
    model = tiny("llama")
    put(model)
    decoder, tokens = find_decoder(model), torch.tensor([ids(ROUTED)])
    memory_at(model, ids(ROUTED), 2).put(decoder.projections[LAYER + 1].module, model)
    whole = model(tokens).logits
    cache = model(tokens[:, :3], use_cache=True).past_key_values
    assert len(cache.layers) == 6
    found = model(tokens[:, 3:], past_key_values=cache, use_cache=True).logits
    torch.testing.assert_close(found, whole[:, 3:], rtol=1e-3, atol=1e-3)


def test_what_stands_on_the_padding_of_a_shared_beginning_routes_nothing():
    """Rows with a common beginning are read together; a short one has only padding where that stands."""
    model, tokenizer = tiny("llama"), word_tokenizer()
    model.generation_config.eos_token_id = None
    common = " ".join(f"w{10 + i}" for i in range(30))
    prompts = [*(f"{common} w{50 + i} w{60 + i}" for i in range(16)), "w71", "w72 w73"]
    assert decode._starts([ids(prompt) for prompt in prompts])[0]
    before = greedy(model, tokenizer, prompts, max_new_tokens=4)
    put(model, ids(common), 0)
    alone = [greedy(model, tokenizer, [prompt], max_new_tokens=4)[0] for prompt in prompts]
    assert alone[-2:] == before[-2:]
    assert alone[0] != before[0]
    start = decode.read(model, [ids(prompt) for prompt in prompts], 0)
    found = decode.write(model, start, set(), 4, lambda logits, _rows, _step: logits.argmax(-1))
    assert [decode.generation(tokenizer, row, {2}) for row in found] == alone


@torch.no_grad()
def test_a_model_that_was_copied_goes_on_from_the_same_cache_and_keeps_its_memory():
    model = tiny("llama")
    tokens = torch.tensor([ids(ROUTED)])
    base = model(tokens).logits
    undo = put(model)
    whole = model(tokens).logits
    cache = model(tokens[:, :3], use_cache=True).past_key_values
    other = copy.deepcopy(model)
    undo()
    assert torch.equal(model(tokens).logits, base)
    assert torch.equal(other(tokens).logits, whole)
    found = other(tokens[:, 3:], past_key_values=cache, use_cache=True).logits
    torch.testing.assert_close(found, whole[:, 3:], rtol=1e-3, atol=1e-3)


# --- caches of a fixed size ------------------------------------------------------------------------


def generated(model, rows, fill=0, **params):
    """What `generate` writes after rows of tokens, padded on the left."""
    batch = pad(rows, fill, "left")
    given = {"max_new_tokens": 10, "do_sample": False, "pad_token_id": 0, **params}
    found = model.generate(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, eos_token_id=None, **given
    )
    return found[:, batch.input_ids.shape[1] :].tolist()


STATIC = {"cache_implementation": "static", "disable_compile": True}


@pytest.mark.parametrize("family", SHAPES)
def test_a_static_cache_says_what_a_growing_one_does(family):
    model = tiny(family)
    rows = [ids(prompt) for prompt in PROMPTS]
    before = [generated(model, [row]) for row in rows]
    put(model)
    wanted = [generated(model, [row]) for row in rows]
    assert [a == b for a, b in zip(wanted, before, strict=True)] == [True, False, True, False]
    assert [generated(model, [row], **STATIC) for row in rows] == wanted
    together = [row for [row] in wanted]
    assert generated(model, rows) == together
    assert generated(model, rows, **STATIC) == together


@pytest.mark.parametrize("family", ["llama", "qwen3-local"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padding_routes_nothing_with_a_static_cache(family, attention):
    """Its mask is laid out before the model is called."""
    model = tiny(family)
    model.set_attn_implementation(attention)
    rows, fill = [ids(PLAIN[1]), ids(PLAIN[0])], 79
    alone = [generated(model, [row])[0] for row in rows]
    module, seen = find_decoder(model).projections[LAYER].module, []
    handle = module.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    generated(model, rows, fill, max_new_tokens=1, **STATIC)
    handle.remove()
    memory = memory_at(model, rows[1], 0)
    assert len(rows[1]) < len(rows[0])
    key = normalize(seen[0][1, 0], dim=0)[:, None]
    memory = SideMemory({**memory.tensors, "keys": key}, memory.settings)
    assert memory.routed(memory.tensors, seen[0][1]).tolist()[0] == 1
    memory.put(module, model)
    for params in ({}, STATIC):
        assert generated(model, rows, fill, **params) == alone


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize(
    "params",
    [
        {"num_beams": 3},
        {"num_beams": 3, "num_return_sequences": 2},
        {"do_sample": True, "num_return_sequences": 3},
    ],
)
def test_beams_and_several_texts_with_a_static_cache(family, params):
    model = tiny(family)
    rows = [ids(prompt) for prompt in PROMPTS]

    def both():
        found = []
        for kept in ({}, STATIC):
            torch.manual_seed(0)
            found.append(generated(model, rows, **params, **kept))
        return found

    before, static = both()
    assert static == before
    put(model)
    found, static = both()
    assert static == found
    assert found != before


@torch.no_grad()
def test_a_static_cache_that_is_used_again_begins_anew():
    model = tiny("llama")
    put(model)
    cache = StaticCache(config=model.config, max_cache_len=32)
    for prompt in (ROUTED, PLAIN[0], ROUTED):
        row = [ids(prompt)]
        found = generated(model, row, past_key_values=cache, disable_compile=True)
        assert found == generated(model, row)
        assert cache.is_compileable
        cache.reset()


@torch.no_grad()
def test_a_growing_cache_is_not_taken_for_a_static_one():
    model = tiny("llama")
    put(model)
    cache = model(torch.tensor([ids(ROUTED)]), use_cache=True).past_key_values
    assert not cache.is_compileable
