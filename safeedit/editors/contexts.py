"""Texts by the model itself: short ones to stand before a prompt, and many for key statistics.

A value found for the bare prompt alone fits that prompt alone; behind a few texts that the model
itself might write, it fits the subject (ROME, arXiv 2202.05262, section 3.1). And where nobody has
the text that a model was trained on, what it writes shows which keys it uses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from safeedit.errors import EditorError
from safeedit.models.generate import end_ids
from safeedit.models.hooks import frozen
from safeedit.models.tokens import tokenise


def context_texts(model: Any, tokenizer: Any, count: int, tokens: int, seed: int) -> list[str]:
    """`count` texts of about `tokens` tokens, sampled from the model; each ends in ". ".

    Texts that come out empty are left out, so fewer than `count` may be returned.
    """
    rows = _sampled(model, tokenizer, count, tokens, seed, ends=False) if count else []
    texts = [tokenizer.decode(row, skip_special_tokens=True) for row in rows]
    plain = [" ".join(text.split()).rstrip(" .,;:") for text in texts]
    return [f"{text}. " for text in plain if text]


def own_texts(
    model: Any,
    tokenizer: Any,
    tokens: int,
    seed: int,
    *,
    width: int = 128,
    rows: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """About `tokens` tokens of text sampled from the model, a new text wherever it ended one."""
    texts: list[str] = []
    ends = end_ids(model, tokenizer)
    batches = max(1, round(tokens / (width * rows)))
    for number in range(batches):
        for row in _sampled(model, tokenizer, rows, width, seed + number, ends=True):
            part: list[int] = []
            for token in [*row, *list(ends)[:1]]:
                if token not in ends:
                    part.append(token)
                elif part:
                    texts.append(tokenizer.decode(part, skip_special_tokens=True))
                    part = []
            if part:
                texts.append(tokenizer.decode(part, skip_special_tokens=True))
        if progress is not None:
            progress(number + 1, batches)
    return [text for text in texts if text.strip()]


@torch.no_grad()
def _sampled(
    model: Any, tokenizer: Any, count: int, tokens: int, seed: int, *, ends: bool
) -> list[list[int]]:
    """Rows of ids sampled at temperature 1 from the beginning of a text.

    Args:
        ends: whether a row may contain the token that ends a text.
    """
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    closing = torch.tensor(sorted(end_ids(model, tokenizer)), dtype=torch.long, device=device)
    ids = torch.tensor([_start(tokenizer)] * count, device=device)
    cache = DynamicCache(config=model.config)
    found: list[Tensor] = []
    with frozen(model):
        for _ in range(tokens):
            output = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            logits = output.logits[:, -1].float()
            if not torch.isfinite(logits).all():
                raise EditorError("the model gave a logit that is not finite")
            if not ends:
                logits[:, closing] = -torch.inf
            ids = torch.multinomial(logits.softmax(-1).cpu(), 1, generator=generator).to(device)
            found.append(ids)
    rows: list[list[int]] = torch.cat(found, dim=1).tolist()
    return rows


def _start(tokenizer: Any) -> list[int]:
    """What stands before the first token of a text."""
    [own] = tokenise(tokenizer, [""])
    if own.ids:
        return own.ids
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return [int(token)]
    return [0]
