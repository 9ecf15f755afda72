"""Key statistics: one pass, the right keys, and a cache that no other model or corpus can meet."""

import copy
import dataclasses

import pytest
import torch
from families import tiny
from tokenizers import processors
from words import word_tokenizer

from safeedit.editors.statistics import Corpus, OwnText, cached_moments, second_moments
from safeedit.errors import EditorError
from safeedit.models.structure import find_decoder

TEXTS = [f"w{i} w{(7 * i) % 40} w{(3 * i) % 50} w{i % 9}" for i in range(1, 60)]
CORPUS = Corpus(TEXTS, max_tokens=10_000, width=16, rows=4)

both = pytest.mark.parametrize("corpus", [CORPUS, OwnText(max_tokens=300)], ids=["texts", "own"])


@pytest.fixture
def decoder():
    return find_decoder(tiny("gpt2"))


def naive(decoder, layer, corpus):
    """The keys of every packed row, one row at a time, by a hook of its own."""
    tokenizer = word_tokenizer()
    ids = [i for row in tokenizer(corpus.texts)["input_ids"] for i in row]
    keys = []
    handle = decoder.projections[layer].module.register_forward_pre_hook(lambda _, a: keys.append(a[0][0]))
    with torch.no_grad():
        for start in range(0, len(ids), corpus.width):
            decoder.model(input_ids=torch.tensor([ids[start : start + corpus.width]]))
    handle.remove()
    k = torch.cat(keys)
    return k.T @ k / len(k), len(k)


def test_one_pass_gives_the_moment_of_every_layer(decoder):
    found = second_moments(decoder, word_tokenizer(), CORPUS, [0, 2])
    assert sorted(found.by_layer) == [0, 2]
    for layer, moment in found.by_layer.items():
        expected, count = naive(decoder, layer, CORPUS)
        assert found.tokens == count
        assert torch.allclose(moment, expected, atol=1e-5)


def test_the_pass_stops_at_the_last_layer(decoder):
    ran = []
    decoder.blocks[2].register_forward_pre_hook(lambda *_: ran.append(2))
    second_moments(decoder, word_tokenizer(), CORPUS, [0, 1])
    assert not ran


def test_the_token_limit_holds(decoder):
    limited = dataclasses.replace(CORPUS, max_tokens=50)
    assert second_moments(decoder, word_tokenizer(), limited, [0]).tokens <= 64


@pytest.mark.parametrize("texts", [[], [""]])
def test_an_empty_corpus_is_refused(decoder, texts):
    with pytest.raises(EditorError, match="no text"):
        second_moments(decoder, word_tokenizer(), Corpus(texts), [0])


def test_cache_is_used_and_is_told_apart(decoder, tmp_path):
    calls = []

    def moments(texts=TEXTS, digest="a", layers=(0,)):
        corpus = dataclasses.replace(CORPUS, texts=texts)
        calls.clear()
        return cached_moments(
            decoder,
            word_tokenizer(),
            corpus,
            layers,
            base_digest=digest,
            cache=tmp_path,
            progress=lambda *_: calls.append(1),
        )

    first = moments()
    assert calls
    again = moments()
    assert not calls
    assert torch.equal(first.by_layer[0], again.by_layer[0])
    assert first.tokens == again.tokens
    for other in ({"digest": "b"}, {"texts": TEXTS[1:]}, {"layers": (0, 1)}):
        moments(**other)
        assert calls


@both
def test_another_tokenizer_has_statistics_of_its_own(decoder, tmp_path, corpus):
    marking = copy.deepcopy(word_tokenizer())
    marking.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )

    def moments(tokenizer, cache=tmp_path):
        return cached_moments(decoder, tokenizer, corpus, [0], base_digest="a", cache=cache)

    first, second, fresh = moments(word_tokenizer()), moments(marking), moments(marking, None)
    assert not torch.equal(first.by_layer[0], second.by_layer[0])
    assert torch.equal(second.by_layer[0], fresh.by_layer[0])
    assert len(list(tmp_path.iterdir())) == 2
    # Which texts were cut or padded last says nothing of what the tokenizer makes of a text.
    cutting = copy.deepcopy(word_tokenizer())
    cutting(["w1 w2", "w3"], padding=True, truncation=True, max_length=2)
    moments(cutting)
    assert len(list(tmp_path.iterdir())) == 2


@both
def test_rows_of_another_length_have_statistics_of_their_own(decoder, tmp_path, corpus):
    def moments(positions, cache=tmp_path):
        decoder.model.config.max_position_embeddings = positions
        return cached_moments(decoder, word_tokenizer(), corpus, [0], base_digest="a", cache=cache)

    first, second = moments(16), moments(8)
    assert not torch.equal(first.by_layer[0], second.by_layer[0])
    assert torch.equal(second.by_layer[0], moments(8, None).by_layer[0])


def test_the_model_s_own_text_is_written_once(decoder, tmp_path):
    own = OwnText(max_tokens=300, seed=3)
    first = cached_moments(decoder, word_tokenizer(), own, [0], base_digest="a", cache=tmp_path)
    kept = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    calls = []
    again = cached_moments(
        decoder,
        word_tokenizer(),
        own,
        [0],
        base_digest="a",
        cache=tmp_path,
        progress=lambda *_: calls.append(1),
    )
    assert not calls
    assert torch.equal(first.by_layer[0], again.by_layer[0])
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == kept
    assert all(name.endswith(".safetensors") for name in kept)


def test_statistics_of_another_model_serve_but_are_never_made_up(decoder, tmp_path):
    def moments(digest, basis=None, layers=(0,)):
        options = {"base_digest": digest, "basis": basis, "cache": tmp_path}
        return cached_moments(decoder, word_tokenizer(), CORPUS, layers, **options)

    moments("edited", basis="base")
    own = {file.name for file in tmp_path.iterdir()}
    base = moments("base")
    assert {file.name for file in tmp_path.iterdir()} > own, "what was collected went by its own name"
    for file in tmp_path.iterdir():
        if file.name in own:
            file.unlink()
    assert torch.equal(moments("edited", basis="base").by_layer[0], base.by_layer[0])
    assert own.isdisjoint(file.name for file in tmp_path.iterdir())
    moments("edited", basis="base", layers=(0, 1))
    assert own <= {file.name for file in tmp_path.iterdir()}, "one layer is not there, so none is taken"
