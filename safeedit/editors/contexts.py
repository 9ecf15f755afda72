"""Short texts by the model itself, to stand before a prompt while a value is searched.

A value found for the bare prompt alone fits that prompt alone; in front of a few texts that the
model itself might write, it fits the subject (ROME, arXiv 2202.05262, section 3.1).
"""

from __future__ import annotations

from typing import Any

import torch

from safeedit.models.generate import end_ids
from safeedit.models.hooks import frozen


@torch.no_grad()
def sampled_texts(model: Any, tokenizer: Any, count: int, tokens: int, seed: int) -> list[str]:
    """`count` texts of about `tokens` tokens, sampled from the model; each ends in ". ".

    Texts that come out empty are left out, so fewer than `count` may be returned.
    """
    if count == 0:
        return []
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    ends = torch.tensor(sorted(end_ids(model, tokenizer)), dtype=torch.long, device=device)
    start = tokenizer("")["input_ids"] or [
        tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id or 0
    ]
    ids = torch.tensor([start] * count, device=device)
    with frozen(model):
        for _ in range(tokens):
            logits = model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[:, -1].float()
            logits[:, ends] = -torch.inf
            chosen = torch.multinomial(logits.softmax(-1).cpu(), 1, generator=generator)
            ids = torch.cat([ids, chosen.to(device)], dim=1)
    texts = [tokenizer.decode(row[len(start) :], skip_special_tokens=True) for row in ids.tolist()]
    plain = [" ".join(text.split()).rstrip(" .,;:") for text in texts]
    return [f"{text}. " for text in plain if text]
