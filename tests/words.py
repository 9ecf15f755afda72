"""A tokenizer of whole words for models that were never trained: w0 ... w79."""

from __future__ import annotations

from functools import cache

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


@cache
def word_tokenizer() -> PreTrainedTokenizerFast:
    """Ids 0, 1, 2 are padding, beginning and end; words follow; anything else is unknown."""
    names = ["<pad>", "<s>", "</s>", "<unk>", *(f"w{i}" for i in range(80))]
    tokenizer = Tokenizer(models.WordLevel({n: i for i, n in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
