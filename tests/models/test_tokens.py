"""Tokens of a text are those that a model reads before it goes on, and each belongs to a part of the text."""

import pytest
from families import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from subwords import TURN, around, byte_level, sentence_pieces
from tokenizers import Tokenizer, models, processors
from transformers import PreTrainedTokenizerFast
from words import word_tokenizer

from safeedit.editors import objectives
from safeedit.editors.contexts import own_texts
from safeedit.editors.objectives import Aim, build_task
from safeedit.editors.rows import Text, rows_of
from safeedit.models.decode import token_rows
from safeedit.models.generate import greedy
from safeedit.models.hooks import frozen
from safeedit.models.scoring import score, score_candidates
from safeedit.models.segment import Segment
from safeedit.models.structure import find_decoder
from safeedit.models.tokens import tokenise
from safeedit.triples.facts import Edit

KINDS = {
    "trimmed": byte_level(trimmed=True),
    "whole": byte_level(trimmed=False),
    "trimmed, digits with their space": byte_level(trimmed=True, split=False),
    "trimmed, a space before texts": byte_level(trimmed=True, split=False, prefix=True),
    "a space before texts": byte_level(trimmed=False, split=False, prefix=True),
    "normalised": sentence_pieces(None),
    "first": sentence_pieces("first"),
    "always": sentence_pieces("always"),
    "never": sentence_pieces("never"),
}
PLAIN, ENDING = around(word_tokenizer(), "<s> $A"), around(word_tokenizer(), "<s> $A </s>")
PROMPTS = ["w5 w6 w7", "w8", ""]
LETTERS = st.text(st.sampled_from("abinrsPéß你好жд😀"), min_size=1, max_size=5)
DIGITS = st.text(st.sampled_from("0123456789"), min_size=1, max_size=7)
PHRASE = st.lists(LETTERS | DIGITS, min_size=1, max_size=4).map(" ".join)


def pieces(tokenizer, ids):
    return tokenizer.convert_ids_to_tokens(list(ids))


@pytest.mark.parametrize("single", ["<s> $A </s>", "$A </s>", "<s> <s> $A </s> </s>"])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_what_ends_a_text_is_left_out_and_what_begins_it_stays(kind, single):
    before = single.split(" $A")[0] if single.startswith("<") else ""
    ending, plain = around(KINDS[kind], single), around(KINDS[kind], f"{before} $A".strip())
    texts = ["Ann Bee is in Paris", "1984", "", f"{TURN}in{TURN}", f"in </s>{TURN}", "né </s>"]
    found = tokenise(ending, texts)
    assert found == tokenise(plain, texts)
    assert [one.ids for one in found] == [plain(text)["input_ids"] for text in texts]
    assert [one.added for one in found] == [len(before.split())] * len(texts)
    # A token in the text is the text's, whatever it means.
    assert [pieces(ending, one.ids)[-1] for one in found[3:]] == [TURN, TURN, "</s>"]
    assert tokenise(ending, texts, special=False) == tokenise(plain, texts, special=False)


def test_a_text_of_characters_without_tokens_has_what_begins_it():
    own = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "w": 2}, unk_token="<unk>"))
    own.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=own)
    assert [one.ids for one in tokenise(tokenizer, ["", "w"])] == [[0], [0, 2]]


@pytest.mark.parametrize("site", ["subject", "prompt"])
def test_rows_are_the_same_where_the_tokenizer_ends_texts(site):
    texts = [Text("", "w5 {subject} w6", "w30 w31", "w40 w41"), Text("w1 ", "{subject}", "w30 w31")]
    assert rows_of(ENDING, texts, site) == rows_of(PLAIN, texts, site)
    asked, told = rows_of(ENDING, texts, "prompt")
    assert pieces(ENDING, asked.wanted) == ["w40", "w41"]
    assert pieces(ENDING, [asked.ids[asked.pivot], told.ids[told.pivot]]) == ["w6", "w31"]


def test_a_model_is_asked_the_same_where_the_tokenizer_ends_texts():
    model = tiny("llama")
    assert token_rows(ENDING, PROMPTS) == token_rows(PLAIN, PROMPTS)
    assert token_rows(ENDING, [""]) == [[1]]
    assert greedy(model, ENDING, PROMPTS, max_new_tokens=5) == greedy(model, PLAIN, PROMPTS, max_new_tokens=5)
    pairs = [("w5 w6", " w7 w8"), ("w9", " w10")]
    assert score(model, ENDING, pairs) == score(model, PLAIN, pairs)
    assert [len(one.log_p) for one in score(model, ENDING, pairs)] == [2, 1]
    ours, theirs = (score_candidates(model, t, ["w5"], [[" w7 w8", " w7"]]) for t in (ENDING, PLAIN))
    assert ours == theirs
    texts = [own_texts(model, t, 100, seed=1, width=20, rows=5) for t in (ENDING, PLAIN)]
    assert texts[0] == texts[1]


def test_an_answer_s_end_is_asked_for_where_the_tokenizer_ends_texts(monkeypatch):
    monkeypatch.setattr(objectives, "SURE", 0.0)
    segment = Segment(find_decoder(tiny("llama")))
    edit = Edit("insert", "w30 w31", "r", ("w5 {subject} w6",), "w40 w41", None)
    aim = Aim("neutral", ("", "w1 w2 "), keep_weight=1.0, essence=True, end=True)
    with frozen(segment.decoder.model):
        ours, theirs = (build_task(segment, tokenizer, [edit], aim).task for tokenizer in (ENDING, PLAIN))
    assert ours.demands == theirs.demands
    [asked] = [demand for demand in ours.demands if demand.bare and not demand.keep]
    assert pieces(ENDING, asked.goals.hard[:2]) == ["w40", "w41"]
    assert asked.row.spots == (4, 5, 6)
    assert asked.goals.hard[2] >= 0


@pytest.mark.parametrize("trimmed", [True, False])
def test_a_space_by_itself_belongs_to_the_digits_after_it(trimmed):
    tokenizer = byte_level(trimmed=trimmed)
    [row] = rows_of(tokenizer, [Text("", "{subject} was born in", "Ann Bee", "1984")], "prompt")
    assert pieces(tokenizer, row.wanted) == ["Ġ", "198", "4"]
    assert pieces(tokenizer, [row.ids[row.pivot]]) == ["Ġin"]
    assert pieces(tokenizer, [row.ids[spot] for spot in row.spots]) == ["Ġin", "Ġ", "198"]
    model = tiny("llama")
    model.resize_token_embeddings(len(tokenizer))
    spaced, apart = score(model, tokenizer, [("born in", " 1984"), ("born in ", "1984")])
    assert [len(spaced.log_p), len(apart.log_p)] == [3, 2]
    assert spaced.log_p[1:] == pytest.approx(apart.log_p, abs=1e-4)


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("prefix", [True, False])
@given(phrases=st.lists(PHRASE, min_size=2, max_size=2), gap=st.sampled_from([" ", "  ", "\n", " \n "]))
@settings(max_examples=60, deadline=None)
def test_trimmed_offsets_part_a_text_as_others_do(split, prefix, phrases, gap):
    found = []
    for trimmed in (True, False):
        [tokens] = tokenise(byte_level(trimmed=trimmed, split=split, prefix=prefix), [gap.join(phrases)])
        found.append((tokens.ids, [tokens.first_from(at) for at in range(len(gap.join(phrases)) + 1)]))
    assert found[0] == found[1]


@pytest.mark.parametrize("kind", sorted(KINDS))
@given(prompt=PHRASE, wanted=PHRASE)
@settings(max_examples=60, deadline=None)
def test_prompt_and_continuation_are_all_tokens_in_order(kind, prompt, wanted):
    tokenizer = KINDS[kind]
    [row] = rows_of(tokenizer, [Text("", "{subject}", prompt, wanted)], "prompt")
    whole = tokenizer(f"{prompt} {wanted}")["input_ids"]
    first = row.spots[0] + 1
    assert [*row.ids[:first], *row.wanted] == row.ids == whole
    assert row.spots == tuple(range(first - 1, len(whole) - 1))
    assert tokenizer.decode(row.wanted).strip() == wanted
    # The prompt by itself comes to the same tokens, so that what is asked is the prompt.
    assert row.ids[:first] == tokenise(tokenizer, [prompt])[0].ids
    assert row.pivot == first - 1
