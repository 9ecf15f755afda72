"""Small tokenizers of parts of words, of kinds that treat spaces differently; and ones that end texts."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEXTS = ["Ann Bee was born in 1984 in Paris. Her phone is 555 1234."] * 8
NAMES = {"bos_token": "<s>", "eos_token": "</s>"}
TURN = "<|turn|>"
SPECIAL = ["<s>", "</s>", TURN]
SPLIT = r"\p{N}{1,3}|[^\r\n\p{L}\p{N}]?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""Digits in threes and apart from the space before them, as newer byte-level tokenizers do."""


@cache
def byte_level(*, trimmed: bool, split: bool = True, prefix: bool = False) -> Any:
    """A byte-level tokenizer.

    Args:
        trimmed: whether spaces are trimmed off its offsets.
        split: whether digits are split off the space before them.
        prefix: whether it puts a space before each text.
    """
    own = Tokenizer(models.BPE())
    last = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=not split)
    first = pre_tokenizers.Split(Regex(SPLIT), "isolated")
    own.pre_tokenizer = pre_tokenizers.Sequence([first, last]) if split else last
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    own.train_from_iterator(TEXTS, trainer)
    own.decoder = decoders.ByteLevel()
    ids = [(name, own.token_to_id(name)) for name in SPECIAL[:2]]
    own.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=trimmed, add_prefix_space=prefix),
            processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=ids),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=own, **NAMES)


@cache
def sentence_pieces(prepend: str | None) -> Any:
    """A tokenizer with a mark instead of each space, and bytes for unknown characters.

    Args:
        prepend: when it puts a mark before a text; None for one that normalises texts with it.
    """
    single = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"0123456789abeinrsABPan"]
    words = [*dict.fromkeys([*SPECIAL, *single]), "in", "▁in", "▁P", "ar", "Par"]
    merges = [("i", "n"), ("▁", "in"), ("▁", "P"), ("a", "r"), ("P", "ar")]
    vocabulary = {word: number for number, word in enumerate(words)}
    own = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    if prepend is None:
        own.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        own.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend, split=False)
    own.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    own.add_special_tokens(SPECIAL)
    own.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    return PreTrainedTokenizerFast(tokenizer_object=own, unk_token="<unk>", **NAMES)


def around(tokenizer: Any, single: str) -> Any:
    """The same tokenizer with `single` for what it puts around a text ($A): ``<s> $A </s>``, say."""
    found = copy.deepcopy(tokenizer)
    own = found.backend_tokenizer
    ids = [(name, own.token_to_id(name)) for name in ("<s>", "</s>")]
    template = processors.TemplateProcessing(single=single, pair="$A $B", special_tokens=ids)
    kept = own.post_processor
    first = [kept[0]] if isinstance(kept, processors.Sequence) else []
    own.post_processor = processors.Sequence([*first, template])
    return found
