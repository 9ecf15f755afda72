"""How probable texts are after a prompt, token by token; exact, in batches, under any sampler.

The probability that a model writes exactly a given string is one forward pass away, and no sampling
can estimate it as well (arXiv 2410.19482). Prompt and continuation are tokenised together, as a text
has them, and cut by character offsets; a token that holds characters of both belongs to the continuation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from safeedit.errors import ModelError, ProbeError, UsageError
from safeedit.models.hooks import frozen
from safeedit.models.segment import Prefix
from safeedit.models.tokens import Tokens, pad, pad_id, tokenise

LOGITS_AT_ONCE = 2**25
"""How many logits one forward pass may give."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Sampler:
    """How a product draws its next token: temperature, then the `top_k` likeliest, then the nucleus."""

    temperature: float = 1.0
    top_p: float = 1.0
    """Tokens are drawn from the fewest likeliest ones that together have at least this probability."""
    top_k: int = 0
    """Tokens are drawn from so many likeliest ones; 0 for all."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise UsageError("temperature must be a number above 0")
        if not 0 < self.top_p <= 1:
            raise UsageError("top_p must lie above 0 and not above 1")
        if self.top_k < 0:
            raise UsageError("top_k must not be negative")

    def log_p(self, logits: Tensor) -> Tensor:
        """Log-probabilities of all tokens; -inf for those that are never drawn.

        Args:
            logits: (rows, vocabulary), finite.

        Returns:
            (rows, vocabulary).
        """
        scaled = logits / self.temperature
        if 0 < self.top_k < scaled.shape[-1]:
            # Tokens as likely as the last of them stay, as in `transformers`.
            least = scaled.topk(self.top_k, dim=-1).values[:, -1:]
            scaled = scaled.masked_fill(scaled < least, -math.inf)
        log_p = scaled.log_softmax(-1)
        if self.top_p < 1:
            ordered, order = log_p.sort(dim=-1, descending=True, stable=True)
            # A token stays while those before it have less than the nucleus; so the first always does.
            before = ordered.exp().cumsum(-1) - ordered.exp()
            kept = ordered.masked_fill(before >= self.top_p, -math.inf)
            log_p = torch.empty_like(log_p).scatter_(-1, order, kept).log_softmax(-1)
        return log_p


PLAIN = Sampler()


@dataclass(frozen=True)
class Scored:
    """How probable one continuation is after its prompt; numbers alone."""

    log_p: tuple[float, ...]
    """For each of its tokens, in nats, the earlier ones given; -inf where a sampler never draws it."""
    top: tuple[bool, ...]
    """For each of its tokens, whether none is likelier (ties count: this is what a probe looks for)."""

    @property
    def total(self) -> float:
        """Log-probability of writing all of it."""
        return math.fsum(self.log_p)


@dataclass(frozen=True)
class _Row:
    """One prompt with one continuation, without the last token, which predicts nothing that is wanted."""

    ids: list[int]
    places: list[int]
    """The columns whose logits are wanted, one for each token of the continuation."""
    wanted: list[int]


@dataclass
class _Found:
    """What is gathered of the rows as batches come in."""

    log_p: list[dict[int, float]]
    top: list[dict[int, bool]]

    def scored(self, index: int) -> Scored:
        order = sorted(self.log_p[index])
        return Scored(
            tuple(self.log_p[index][place] for place in order), tuple(self.top[index][p] for p in order)
        )


def score(
    model: Any,
    tokenizer: Any,
    pairs: Sequence[tuple[str, str]],
    *,
    sampler: Sampler = PLAIN,
    token_budget: int = 8192,
    progress: Progress | None = None,
) -> list[Scored]:
    """How probable each continuation is after its prompt, in the order given.

    Args:
        model: a causal LM.
        tokenizer: its tokenizer.
        pairs: prompts and continuations; a continuation brings its own leading space.
        sampler: how tokens would be drawn.
        token_budget: tokens of one batch, at most (at least one row is run).
        progress: called with (pairs done, pairs in all).

    Raises:
        ProbeError: a continuation has no token of its own, or no token stands before it.
        ModelError: the model gave a logit that is not finite.
    """
    rows = _rows(tokenizer, pairs)
    found = _Found([{} for _ in rows], [{} for _ in rows])
    vocabulary, done = _vocabulary(model), 0
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
    sizes = [(len(rows[i].ids), len(rows[i].ids) - rows[i].places[0]) for i in order]
    with frozen(model), torch.no_grad():
        for part in _chunks(order, sizes, token_budget, vocabulary):
            batch = pad([rows[i].ids for i in part], pad_id(tokenizer), "left").to(_device(model))
            keep = max(len(rows[i].ids) - rows[i].places[0] for i in part)
            logits = model(**batch.forward_args(), use_cache=False, logits_to_keep=keep).logits
            places = [
                (line, i, number, place - len(rows[i].ids))
                for line, i in enumerate(part)
                for number, place in enumerate(rows[i].places)
            ]
            _take(found, rows, logits, places, sampler)
            done += len(part)
            if progress is not None:
                progress(done, len(rows))
    return [found.scored(i) for i in range(len(rows))]


def score_candidates(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    candidates: Sequence[Sequence[str]],
    *,
    sampler: Sampler = PLAIN,
    token_budget: int = 8192,
    progress: Progress | None = None,
) -> list[list[Scored]]:
    """How probable each of many continuations of one prompt is; what they share is computed once.

    The same figures as `score` gives, faster: keys and values of the tokens that all continuations of a
    prompt begin with are kept, and the first token after those costs nothing more.

    Args:
        model: a causal LM.
        tokenizer: its tokenizer.
        prompts: the prompts.
        candidates: for each prompt, its continuations with their own leading spaces.
        sampler: how tokens would be drawn.
        token_budget: tokens of one batch, kept ones included, at most (at least one row is run).
        progress: called with (groups of continuations done, groups in all).

    Raises:
        ProbeError: a continuation has no token of its own, or no token stands before it.
        ModelError: the model gave a logit that is not finite.
    """
    pairs = [(p, c) for p, own in zip(prompts, candidates, strict=True) for c in own]
    rows = _rows(tokenizer, pairs)
    found = _Found([{} for _ in rows], [{} for _ in rows])
    ends = list(accumulate(len(own) for own in candidates))
    own_rows = [range(end - len(own), end) for own, end in zip(candidates, ends, strict=True)]
    groups: list[range] = []
    for group in own_rows:
        # Where not even the first token is common (a tokenizer may join it with what follows), each is alone.
        apart = not _common([rows[i].ids for i in group])
        groups += [range(i, i + 1) for i in group] if apart else [group]
    shared = [_common([rows[i].ids for i in group]) for group in groups]
    vocabulary, done = _vocabulary(model), 0
    order = sorted(range(len(groups)), key=lambda g: shared[g])
    first = [min(rows[i].places[0] for i in group) for group in groups]
    sizes = [(shared[g], max(1, shared[g] - first[g])) for g in order]
    with frozen(model), torch.no_grad():
        for part in _chunks(order, sizes, token_budget, vocabulary):
            _score_groups(
                model, tokenizer, rows, [(groups[g], shared[g]) for g in part], found, sampler, token_budget
            )
            done += len(part)
            if progress is not None:
                progress(done, len(order))
    return [[found.scored(i) for i in group] for group in own_rows]


def _score_groups(
    model: Any,
    tokenizer: Any,
    rows: list[_Row],
    groups: list[tuple[range, int]],
    found: _Found,
    sampler: Sampler,
    token_budget: int,
) -> None:
    """Score some prompts' continuations: once over what each prompt's have in common, then over the rest."""
    device, fill = _device(model), pad_id(tokenizer)
    batch = pad([rows[group[0]].ids[:shared] for group, shared in groups], fill, "left").to(device)
    # Without the model's config every layer keeps all columns, those outside a window too.
    cache = DynamicCache()
    keep = max(1, *(shared - rows[i].places[0] for group, shared in groups for i in group))
    logits = model(**batch.forward_args(), past_key_values=cache, use_cache=True, logits_to_keep=keep).logits
    places = [
        (line, i, number, place - shared)
        for line, (group, shared) in enumerate(groups)
        for i in group
        for number, place in enumerate(rows[i].places)
        if place < shared
    ]
    _take(found, rows, logits, places, sampler)
    rest = [(line, i, shared) for line, (group, shared) in enumerate(groups) for i in group]
    rest = [entry for entry in rest if len(rows[entry[1]].ids) > entry[2]]
    if not rest:
        return
    prefix = Prefix.of(cache, batch.attention_mask)
    rest.sort(key=lambda entry: len(rows[entry[1]].ids) - entry[2])
    width = batch.input_ids.shape[1]
    lengths = [len(rows[i].ids) - shared for _, i, shared in rest]
    sizes = [(width + length, length) for length in lengths]
    for part in _chunks(range(len(rest)), sizes, token_budget, _vocabulary(model)):
        chunk = [rest[entry] for entry in part]
        tail = pad([rows[i].ids[shared:] for _, i, shared in chunk], fill, "right").to(device)
        index = torch.tensor([line for line, _, _ in chunk], device=device)
        offset = torch.tensor([[shared] for _, _, shared in chunk], device=device)
        kept = prefix.rows(index)
        logits = model(
            input_ids=tail.input_ids,
            attention_mask=torch.cat([kept.mask, tail.attention_mask], dim=1),
            position_ids=tail.position_ids + offset,
            past_key_values=kept.cache(),
            use_cache=True,
        ).logits
        columns = logits.shape[1]
        places = [
            (line, i, number, place - shared - columns)
            for line, (_, i, shared) in enumerate(chunk)
            for number, place in enumerate(rows[i].places)
            if place >= shared
        ]
        _take(found, rows, logits, places, sampler)


def _take(
    found: _Found,
    rows: list[_Row],
    logits: Tensor,
    places: Sequence[tuple[int, int, int, int]],
    sampler: Sampler,
) -> None:
    """Read the wanted tokens' probabilities off a batch.

    Args:
        found: where they go.
        rows: all rows.
        logits: (lines, columns, vocabulary).
        places: (line, row, number of the token within its continuation, column from the end).
        sampler: how tokens would be drawn.
    """
    if not places:
        return
    device = logits.device
    # Candidates of one prompt meet at the same positions, and a distribution is large: each is made once.
    position = {(line, column): None for line, _, _, column in places}
    position_of = {place: number for number, place in enumerate(position)}
    lines, columns = (torch.tensor(part, device=device) for part in zip(*position, strict=True))
    # What stands on padding is not looked at: nothing need be finite there.
    chosen = logits[lines, logits.shape[1] + columns].float()  # (positions, vocabulary)
    if not torch.isfinite(chosen).all():
        raise ModelError("the model gave a logit that is not finite")
    index = torch.tensor([position_of[line, column] for line, _, _, column in places], device=device)
    wanted = torch.tensor([rows[i].wanted[number] for _, i, number, _ in places], device=device)
    top = (chosen[index, wanted] >= chosen.amax(-1)[index]).tolist()
    log_p = sampler.log_p(chosen)[index, wanted].tolist()
    for (_, i, number, _), value, likeliest in zip(places, log_p, top, strict=True):
        found.log_p[i][number] = value
        found.top[i][number] = likeliest


def _rows(tokenizer: Any, pairs: Sequence[tuple[str, str]]) -> list[_Row]:
    texts = tokenise(tokenizer, [prompt + continuation for prompt, continuation in pairs])
    return [_row(text, len(prompt)) for text, (prompt, _) in zip(texts, pairs, strict=True)]


def _row(text: Tokens, start: int) -> _Row:
    columns = list(range(text.first_from(start), len(text.ids)))
    if not columns:
        raise ProbeError("a continuation has no token of its own, so nothing can be known of it")
    if columns[0] == 0:
        raise ProbeError("no token stands before a continuation, so nothing predicts its first one")
    return _Row(
        text.ids[: columns[-1]], [column - 1 for column in columns], [text.ids[column] for column in columns]
    )


def _common(rows: Sequence[Sequence[int]]) -> int:
    """How many leading tokens all rows share."""
    if not rows:
        return 0
    shared = min(map(len, rows))
    for row in rows[1:]:
        agree = next((k for k in range(shared) if row[k] != rows[0][k]), shared)
        shared = min(shared, agree)
    return shared


def _chunks(
    order: Sequence[int], sizes: Sequence[tuple[int, int]], token_budget: int, vocabulary: int
) -> Iterator[list[int]]:
    """`order` in runs of bounded size; `sizes` are each one's (tokens, logits wanted), growing in tokens."""
    chunk: list[int] = []
    widest = longest = 0
    for index, (tokens, logits) in zip(order, sizes, strict=True):
        widest, longest = max(widest, tokens), max(longest, logits)
        count = len(chunk) + 1
        if chunk and (count * widest > token_budget or count * longest * vocabulary > LOGITS_AT_ONCE):
            yield chunk
            chunk, widest, longest = [], tokens, logits
        chunk.append(index)
    if chunk:
        yield chunk


def _vocabulary(model: Any) -> int:
    return int(model.get_output_embeddings().weight.shape[0])


def _device(model: Any) -> torch.device:
    found: torch.device = next(model.parameters()).device
    return found
