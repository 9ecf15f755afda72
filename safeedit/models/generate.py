"""Greedy text for many prompts at once: batched by length, with a cache, finished rows leave the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import DynamicCache

from safeedit.errors import ModelError
from safeedit.models.hooks import frozen
from safeedit.models.tokens import pad, pad_id, tokenise


@dataclass(frozen=True, repr=False)
class Generation:
    """What a model wrote after one prompt."""

    text: str
    truncated: bool
    """True if the model was still writing when the limit came."""

    def __repr__(self) -> str:
        return "<Generation>"


def end_ids(model: Any, tokenizer: Any) -> set[int]:
    """Every token that ends a text, by the model's generation config and the tokenizer."""
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    listed = configured if isinstance(configured, (list, tuple)) else [configured]
    return {int(i) for i in (*listed, tokenizer.eos_token_id) if i is not None}


@torch.no_grad()
def greedy(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 64,
    token_budget: int = 8192,
    progress: Callable[[int, int], None] | None = None,
) -> list[Generation]:
    """The greedy continuation of each prompt, in the order given.

    Args:
        model: a causal LM; plain forward passes with a cache are all that is asked of it.
        tokenizer: its tokenizer.
        prompts: the prompts.
        max_new_tokens: where a text is cut off if the model does not end it.
        token_budget: prompt tokens and new tokens of one batch, at most (at least one row is run).
        progress: called with (prompts done, prompts in all).

    Raises:
        ModelError: the model gave a logit that is not finite, or a prompt has no token.
    """
    rows = [tokens.ids for tokens in tokenise(tokenizer, prompts)]
    if any(not row for row in rows):
        raise ModelError("a prompt has no token at all")
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    ends = end_ids(model, tokenizer)
    found: dict[int, Generation] = {}
    with frozen(model):
        start = 0
        while start < len(order):
            chunk = [order[start]]
            for index in order[start + 1 :]:
                if (len(chunk) + 1) * (len(rows[index]) + min(max_new_tokens, 24)) > token_budget:
                    break
                chunk.append(index)
            for index, ids in zip(
                chunk,
                _continue(model, [rows[i] for i in chunk], pad_id(tokenizer), ends, max_new_tokens),
                strict=True,
            ):
                ended = bool(ids) and ids[-1] in ends
                text = tokenizer.decode(ids[:-1] if ended else ids, skip_special_tokens=True)
                found[index] = Generation(text, not ended)
            start += len(chunk)
            if progress is not None:
                progress(start, len(order))
    return [found[index] for index in range(len(rows))]


def _continue(model: Any, rows: list[list[int]], fill: int, ends: set[int], limit: int) -> list[list[int]]:
    device = next(model.parameters()).device
    batch = pad(rows, fill, "left").to(device)
    end_tokens = torch.tensor(sorted(ends), dtype=torch.long, device=device)
    written: list[list[int]] = [[] for _ in rows]
    alive = torch.arange(len(rows), device=device)
    mask, positions, ids = batch.attention_mask, batch.position_ids, batch.input_ids
    cache = DynamicCache(config=model.config)
    for step in range(limit):
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        if not torch.isfinite(logits).all():
            raise ModelError("the model gave a logit that is not finite")
        chosen = logits.argmax(-1)
        for row, token in zip(alive.tolist(), chosen.tolist(), strict=True):
            written[row].append(token)
        going = ~torch.isin(chosen, end_tokens)
        if step == limit - 1 or not going.any():
            break
        # Shrinking the batch copies the cache, so it waits until a good share has finished.
        if going.float().mean() < 0.8:
            keep = going.nonzero()[:, 0]
            cache.batch_select_indices(keep)
            alive, chosen, mask, positions = alive[keep], chosen[keep], mask[keep], positions[keep]
        ids = chosen[:, None]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        positions = positions[:, -1:] + 1
    return [_until_end(row, ends) for row in written]


def _until_end(ids: list[int], ends: set[int]) -> list[int]:
    """Rows stay in the batch for a while after their end; what they wrote then is dropped."""
    for index, token in enumerate(ids):
        if token in ends:
            return ids[: index + 1]
    return ids
