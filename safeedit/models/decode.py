"""The loop behind every generated text: prompts are read in batches, tokens chosen, ended rows leave.

What all prompts of a batch begin with is read once. A batch is laid out as it would be without that:
padded on the left, so that a row's tokens stand side by side, as sliding windows need it. Only the
keys and values of its first columns come from the one reading, shifted to where each row begins.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from safeedit.errors import ModelError
from safeedit.models.tokens import pad, tokenise

Choose = Callable[[Tensor, Tensor, int], Tensor]
"""From logits (rows, vocabulary), the numbers of those rows (rows,) and the step: the next tokens (rows,)."""

TYPICAL = 24
"""New tokens that a row is taken to have when batches are made; most texts end early."""
SHARED_TOKENS = 16
"""Prompts with so many first tokens in common make batches of their own."""
SHARED_SAVING = 384
"""Tokens that reading a common beginning once must save; below that the extra pass costs as much."""
LEAVE_AT = 0.8
"""Shrinking a batch copies its cache, so it waits until only this share of the rows goes on."""


@dataclass(frozen=True, repr=False)
class Generation:
    """What a model wrote after one prompt."""

    text: str
    truncated: bool
    """True if the model was still writing when the limit came."""

    def __repr__(self) -> str:
        return "<Generation>"


@dataclass(frozen=True)
class Start:
    """A batch of prompts after reading: all that the tokens to come depend on."""

    logits: Tensor
    """(rows, vocabulary), after each prompt's last token."""
    mask: Tensor
    """(rows, columns)."""
    positions: Tensor
    """(rows, 1), of each prompt's last token."""
    cache: Cache

    def repeated(self, times: int) -> Start:
        """Every row `times` times, one after another; the original stays as it is."""
        rows = torch.arange(len(self.mask), device=self.mask.device).repeat_interleave(times)
        cache = copy.deepcopy(self.cache)
        cache.reorder_cache(rows)
        return Start(self.logits[rows], self.mask[rows], self.positions[rows], cache)


def end_ids(model: Any, tokenizer: Any) -> set[int]:
    """Every token that ends a text, by the model's generation config and the tokenizer."""
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    listed = configured if isinstance(configured, (list, tuple)) else [configured]
    return {int(i) for i in (*listed, tokenizer.eos_token_id) if i is not None}


def token_rows(tokenizer: Any, prompts: Sequence[str], *, special: bool = True) -> list[list[int]]:
    """The tokens of each prompt.

    Raises:
        ModelError: a prompt has none.
    """
    rows = [tokens.ids for tokens in tokenise(tokenizer, prompts, special=special)]
    if not all(rows):
        raise ModelError("a prompt has no token at all")
    return rows


def generation(tokenizer: Any, ids: Sequence[int], ends: set[int]) -> Generation:
    """The text of `ids` up to the first token that ends it; rows may stay in a batch for a while after it."""
    kept = list(ids)
    end = next((place for place, token in enumerate(kept) if token in ends), None)
    return Generation(tokenizer.decode(kept[:end], skip_special_tokens=True), end is None)


def batches(
    rows: Sequence[Sequence[int]], new_tokens: int, budget: int, copies: int = 1
) -> Iterator[list[int]]:
    """The numbers of the rows, batch by batch: those with a long common beginning together, then by length.

    Args:
        rows: the prompts' tokens.
        new_tokens: how many each may get, at most.
        budget: tokens of one batch, at most (a batch has at least one row).
        copies: how often each row stands in its batch.
    """
    for group in _families(rows):
        ordered = sorted(group, key=lambda i: len(rows[i]))
        start = 0
        while start < len(ordered):
            end = start + 1
            while end < len(ordered):
                width = len(rows[ordered[end]]) + min(new_tokens, TYPICAL)
                if (end - start + 1) * copies * width > budget:
                    break
                end += 1
            yield ordered[start:end]
            start = end


def _families(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Rows with a beginning in common that is worth reading once; and, as the first, all others."""
    ordered = sorted(range(len(rows)), key=lambda i: list(rows[i]))
    runs: list[list[int]] = []
    for index in ordered:
        if runs and _common(rows[runs[-1][-1]], rows[index]) >= SHARED_TOKENS:
            runs[-1].append(index)
        else:
            runs.append([index])
    shared = [run for run in runs if (len(run) - 1) * SHARED_TOKENS >= SHARED_SAVING]
    taken = {index for run in shared for index in run}
    return [[index for index in range(len(rows)) if index not in taken], *shared]


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many first tokens two rows have in common."""
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return place
    return min(len(one), len(other))


def read(model: Any, rows: Sequence[Sequence[int]], fill: int) -> Start:
    """Read prompts, their common beginning once.

    Args:
        model: a causal LM that takes a cache.
        rows: the prompts' tokens.
        fill: the token to pad with.
    """
    device = next(model.parameters()).device
    batch = pad(rows, fill, "left").to(device)
    # At least one token of each row is left, so that every row has logits of its own.
    columns = min(min(_common(rows[0], row), len(row) - 1) for row in rows)
    shifts = torch.tensor([batch.input_ids.shape[1] - len(row) for row in rows], device=device)
    cache = None
    if columns >= SHARED_TOKENS and (len(rows) - 1) * columns >= SHARED_SAVING:
        cache = _shared(model, rows[0][:columns], shifts)
    rest = batch.columns(slice(columns if cache is not None else 0, None))
    cache = cache or DynamicCache(config=model.config)
    logits = _pass(model, rest.input_ids, batch.attention_mask, rest.position_ids, cache)
    return Start(logits, batch.attention_mask, batch.position_ids[:, -1:], cache)


def _shared(model: Any, ids: Sequence[int], shifts: Tensor) -> Cache | None:
    """One reading of `ids` as the first columns of several rows; row i begins at column ``shifts[i]``.

    None for a model whose cache is not made of keys and values by position alone.
    """
    cache = DynamicCache(config=model.config)
    if any(type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers):
        return None
    # A layer with a window would keep its last columns only, and those differ from row to row.
    cache.layers = [DynamicLayer() for _ in cache.layers]
    row = torch.tensor([list(ids)], device=shifts.device)
    _pass(model, row, torch.ones_like(row), torch.arange(len(ids), device=shifts.device)[None], cache)
    source = (torch.arange(len(ids), device=shifts.device) - shifts[:, None]).clamp(min=0)
    for layer in cache.layers:
        if layer.get_seq_length():  # (1, heads, columns, width) -> (rows, heads, columns, width)
            layer.keys = layer.keys[0][:, source].transpose(0, 1).contiguous()
            layer.values = layer.values[0][:, source].transpose(0, 1).contiguous()
    return cache


def write(
    model: Any, start: Start, ends: set[int], limit: int, choose: Choose, fewest: int = 0
) -> list[list[int]]:
    """Continue each row until a token of `ends`, or for `limit` tokens; tokens after an end may follow it.

    Args:
        model: a causal LM.
        start: the rows after reading.
        ends: tokens that end a text.
        limit: new tokens of each row, at most.
        choose: chooses them.
        fewest: stop as soon as fewer rows than this go on; those are then shorter than the limit.

    Raises:
        ModelError: the model gave a logit that is not finite.
    """
    device = start.mask.device
    ending = torch.tensor(sorted(ends), dtype=torch.long, device=device)
    found: list[list[int]] = [[] for _ in start.mask]
    alive = torch.arange(len(start.mask), device=device)
    going = torch.ones_like(alive, dtype=torch.bool)
    logits, mask, positions, cache = start.logits, start.mask, start.positions, start.cache
    for step in range(limit):
        if not torch.isfinite(logits).all():
            raise ModelError("the model gave a logit that is not finite")
        chosen = choose(logits, alive, step)
        for row, token in zip(alive.tolist(), chosen.tolist(), strict=True):
            found[row].append(token)
        going &= ~torch.isin(chosen, ending)
        left = int(going.sum())
        if step == limit - 1 or left < max(1, fewest):
            break
        if left < LEAVE_AT * len(going):
            keep = going.nonzero()[:, 0]
            cache.reorder_cache(keep)
            alive, chosen, mask, positions = alive[keep], chosen[keep], mask[keep], positions[keep]
            going = going[keep]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        positions = positions + 1
        logits = _pass(model, chosen[:, None], mask, positions, cache)
    return found


def _pass(model: Any, ids: Tensor, mask: Tensor, positions: Tensor, cache: Cache) -> Tensor:
    """Logits (rows, vocabulary) after the last column; the columns join the cache."""
    logits: Tensor = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]
    return logits
