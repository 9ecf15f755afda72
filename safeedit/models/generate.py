"""Greedy text for many prompts at once: batched, with a cache, what prompts share is read once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from safeedit.models.decode import Generation, batches, end_ids, generation, read, token_rows, write
from safeedit.models.hooks import frozen
from safeedit.models.tokens import pad_id

__all__ = ["Generation", "end_ids", "greedy"]


@torch.no_grad()
def greedy(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 64,
    token_budget: int = 8192,
    special: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> list[Generation]:
    """The greedy continuation of each prompt, in the order given.

    Args:
        model: a causal LM; plain forward passes with a cache are all that is asked of it.
        tokenizer: its tokenizer.
        prompts: the prompts.
        max_new_tokens: where a text is cut off if the model does not end it.
        token_budget: prompt tokens and new tokens of one batch, at most (at least one row is run).
        special: whether the tokenizer puts its own tokens around a prompt; not for one that has them.
        progress: called with (prompts done, prompts in all).

    Raises:
        ModelError: the model gave a logit that is not finite, or a prompt has no token.
    """
    rows, ends = token_rows(tokenizer, prompts, special=special), end_ids(model, tokenizer)
    found: dict[int, Generation] = {}
    with frozen(model):
        for chunk in batches(rows, max_new_tokens, token_budget):
            start = read(model, [rows[i] for i in chunk], pad_id(tokenizer))
            texts = write(model, start, ends, max_new_tokens, lambda logits, _rows, _step: logits.argmax(-1))
            for index, ids in zip(chunk, texts, strict=True):
                found[index] = generation(tokenizer, ids, ends)
            if progress is not None:
                progress(len(found), len(rows))
    return [found[index] for index in range(len(rows))]
