"""The loop behind every generated text: prompts are read in batches, tokens chosen, ended rows leave.

What several prompts of a batch begin with is read once. A batch is laid out as it would be without that:
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
from safeedit.models.trail import trails

Choose = Callable[[Tensor, Tensor, int], Tensor]
"""From logits (rows, vocabulary), the numbers of those rows (rows,) and the step: the next tokens (rows,)."""

TYPICAL = 24
"""New tokens that a row is taken to have when batches are made; most texts end early."""
SHARED_TOKENS = 8
"""Prompts with so many first tokens in common, at least, are read together ..."""
SHARED_PART = 0.5
"""... if these are at least this part of each: a batch reads on from where the least is shared."""
SHARED_SAVING = 384
"""Tokens that reading common beginnings once must save; below that the extra pass costs as much."""
WIDTHS = 32
"""Rows that share beginnings are batched with others whose length differs by no more tokens than this."""
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
    """The numbers of the rows, batch by batch: those with a common beginning together, then by length.

    Args:
        rows: the prompts' tokens.
        new_tokens: how many each may get, at most.
        budget: tokens of one batch, at most (a batch has at least one row).
        copies: how often each row stands in its batch.
    """
    for units in _families(rows):
        chunk: list[int] = []
        for unit in units:
            for part in _parts(rows, unit, new_tokens, budget // copies):
                if chunk and not _fits(rows, [*chunk, *part], new_tokens, budget // copies):
                    yield chunk
                    chunk = []
                chunk += part
        if chunk:
            yield chunk


def _fits(rows: Sequence[Sequence[int]], some: Sequence[int], new_tokens: int, budget: int) -> bool:
    width = max(len(rows[i]) for i in some) + min(new_tokens, TYPICAL)
    return len(some) * width <= budget


def _parts(
    rows: Sequence[Sequence[int]], unit: Sequence[int], new_tokens: int, budget: int
) -> Iterator[list[int]]:
    """A unit whole if a batch holds it, and otherwise in pieces."""
    part: list[int] = []
    for index in unit:
        if part and not _fits(rows, [*part, index], new_tokens, budget):
            yield part
            part = []
        part.append(index)
    if part:
        yield part


def _families(rows: Sequence[Sequence[int]]) -> list[list[list[int]]]:
    """What is batched apart: rows that share no beginning, by length; runs of those that do, by what is left.

    A batch reads on from where the least is shared, and its rows are as wide as the longest.
    """
    runs = [(members, shared) for members, shared in _beginnings(rows) if len(members) > 1]
    if sum((len(members) - 1) * shared for members, shared in runs) < SHARED_SAVING:
        runs = []
    taken = {index for members, _ in runs for index in members}
    alone = sorted((i for i in range(len(rows)) if i not in taken), key=lambda i: len(rows[i]))

    def order(run: tuple[list[int], int]) -> tuple[int, int]:
        longest = max(len(rows[i]) for i in run[0])
        return longest // WIDTHS, longest - run[1]

    return [[[index] for index in alone], [members for members, _ in sorted(runs, key=order)]]


def _beginnings(rows: Sequence[Sequence[int]]) -> list[tuple[list[int], int]]:
    """Every row once, in runs that begin alike, and how many first tokens each run shares.

    A run grows while that saves more. A token of each row is left over, so that every row has logits of its
    own; a row that shares nothing is a run by itself.
    """
    runs: list[tuple[list[int], int]] = []
    for index in sorted(range(len(rows)), key=lambda i: list(rows[i])):
        row = rows[index]
        if runs:
            members, shared = runs[-1]
            # Rows are sorted, so that what the first and this one share, all between them share.
            now = min(shared, _common(rows[members[0]], row), len(row) - 1)
            enough = max(SHARED_TOKENS, *(SHARED_PART * len(rows[i]) for i in (members[0], index)))
            if now >= enough and len(members) * now >= (len(members) - 1) * shared:
                runs[-1] = [*members, index], now
                continue
        runs.append(([index], len(row) - 1))
    return runs


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many first tokens two rows have in common."""
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return place
    return min(len(one), len(other))


def read(model: Any, rows: Sequence[Sequence[int]], fill: int) -> Start:
    """Read prompts, their common beginnings once.

    Args:
        model: a causal LM that takes a cache.
        rows: the prompts' tokens.
        fill: the token to pad with.
    """
    device = next(model.parameters()).device
    batch = pad(rows, fill, "left").to(device)
    columns, starts = _starts(rows)
    cache = _shared(model, starts, columns, batch.attention_mask, fill) if columns else None
    rest = batch.columns(slice(columns if cache is not None else 0, None))
    cache = cache or DynamicCache(config=model.config)
    logits = _pass(model, rest.input_ids, batch.attention_mask, rest.position_ids, cache)
    return Start(logits, batch.attention_mask, batch.position_ids[:, -1:], cache)


Starts = list[tuple[list[int], list[int]]]
"""Beginnings, and the rows that have each."""


def _starts(rows: Sequence[Sequence[int]]) -> tuple[int, Starts]:
    """How many first columns of a batch (padded on the left) need not be read row by row, and with what."""
    width = max(map(len, rows))
    runs = _beginnings(rows)
    # Of a row that shares nothing all tokens are left.
    left = max(len(rows[i]) - (shared if len(run) > 1 else 0) for run, shared in runs for i in run)
    starts = []
    for members, _ in runs:
        longest = max(members, key=lambda i: len(rows[i]))
        if len(rows[longest]) > left:
            starts.append((list(rows[longest][: len(rows[longest]) - left]), members))
    saved = sum(max(0, len(row) - left) for row in rows) - sum(len(ids) for ids, _ in starts)
    return (width - left, starts) if saved >= SHARED_SAVING else (0, [])


def _shared(model: Any, starts: Starts, columns: int, mask: Tensor, fill: int) -> Cache | None:
    """One reading of each beginning as the first `columns` columns of the rows that have it.

    None for a model whose cache is not made of keys and values by position alone.

    Args:
        model: a causal LM.
        starts: beginnings, and the rows that have each; rows of none have only padding there.
        columns: how many columns.
        mask: (rows, all columns), of the rows padded on the left.
        fill: the token to pad with.
    """
    cache = DynamicCache(config=model.config)
    if any(type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers):
        return None
    # A layer with a window would keep its last columns only, and those differ from row to row.
    cache.layers = [DynamicLayer() for _ in cache.layers]
    device = mask.device
    batch = pad([ids for ids, _ in starts], fill, "right").to(device)
    _pass(model, batch.input_ids, batch.attention_mask, batch.position_ids, cache)
    of = torch.zeros(len(mask), 1, dtype=torch.long, device=device)
    for number, (_, members) in enumerate(starts):
        of[members] = number
    padding = mask.shape[1] - mask.sum(1, keepdim=True)
    # What stands on padding is masked, whatever it is.
    place = (torch.arange(columns, device=device) - padding).clamp(0, batch.input_ids.shape[1] - 1)
    for layer in cache.layers:
        if layer.get_seq_length():  # (beginnings, heads, columns, width) -> (rows, heads, columns, width)
            layer.keys = layer.keys[of, :, place].transpose(1, 2).contiguous()
            layer.values = layer.values[of, :, place].transpose(1, 2).contiguous()
    # No mask is laid over a trail, which must say nothing there.
    for trail in trails(cache):
        trail.keys = trail.values = trail.keys * mask[:, None, :columns, None]
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
