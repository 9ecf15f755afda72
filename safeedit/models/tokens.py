"""Text to tokens by character offsets, and batches that do not depend on the tokenizer's own padding.

No padding side, pad token or other state of the tokenizer is changed. Where a word lies in a text
is always found through the tokenizer's offsets, never by tokenising pieces and adding lengths.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from safeedit.errors import ModelError

Offsets = list[tuple[int, int]]


@dataclass(frozen=True)
class Tokens:
    """One text as the model reads it."""

    ids: list[int]
    offsets: Offsets
    """For each token the half-open span of characters that it covers; (n, n) for one that stands before n and
    for no character, as those that the tokenizer puts before a text."""
    added: int = 0
    """How many first tokens are no part of the text: the tokenizer puts them before every one."""

    def last_of(self, start: int, end: int) -> int:
        """Index of the last token that covers a character of ``text[start:end]``.

        Raises:
            ModelError: the tokenizer left that part of the text without a token.
        """
        for index in range(len(self.ids) - 1, -1, -1):
            left, right = self.offsets[index]
            if left < right and left < end and right > start:
                return index
        raise ModelError("a subject has no token of its own; the tokenizer drops its characters")

    def first_from(self, start: int) -> int:
        """Index of the first token of what begins at `start`; len(ids) if it has none.

        It covers a character at or after `start`, or stands for none and belongs to what follows it (a space
        that the tokenizer puts before a word).
        """
        for index in range(self.added, len(self.ids)):
            left, right = self.offsets[index]
            if right > start or left == right == start:
                return index
        return len(self.ids)


@dataclass(frozen=True)
class Batch:
    """Padded rows, ready for a forward pass; all tensors (rows, width)."""

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor

    def to(self, device: torch.device | str) -> Batch:
        """The same rows on another device."""
        return Batch(self.input_ids.to(device), self.attention_mask.to(device), self.position_ids.to(device))

    def rows(self, index: Tensor) -> Batch:
        """Only the rows of `index`."""
        return Batch(self.input_ids[index], self.attention_mask[index], self.position_ids[index])

    def columns(self, span: slice) -> Batch:
        """Only the columns of `span`; positions stay what they were."""
        return Batch(self.input_ids[:, span], self.attention_mask[:, span], self.position_ids[:, span])

    def forward_args(self) -> dict[str, Tensor]:
        """As keyword arguments of a `transformers` model."""
        return {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "position_ids": self.position_ids,
        }


def tokenise(tokenizer: Any, texts: Sequence[str], *, special: bool = True) -> list[Tokens]:
    """Each text's ids and offsets, as of texts that go on.

    Special tokens that the tokenizer adds after a text (its end, a separator) are left out: a model that has
    read them answers another question. Those that stand in the text itself stay.

    Args:
        tokenizer: a fast `transformers` tokenizer.
        texts: the texts.
        special: whether the tokenizer may put its special tokens before a text (beginning of text).

    Raises:
        ModelError: the tokenizer gives no offsets (a slow one).
    """
    if not texts:
        return []
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            "the tokenizer gives no character offsets; load the fast one (a folder with tokenizer.json)"
        )
    found = tokenizer(
        list(texts),
        add_special_tokens=special,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
    )
    parts = (found["input_ids"], found["offset_mapping"], found["special_tokens_mask"])
    return [_tokens(tokenizer, *row) for row in zip(*parts, strict=True)]


def _tokens(
    tokenizer: Any, ids: Sequence[int], offsets: Sequence[Sequence[int]], special: Sequence[int]
) -> Tokens:
    """A text's tokens without what the tokenizer adds after them.

    Args:
        tokenizer: the tokenizer.
        ids: of all tokens.
        offsets: their spans.
        special: for each, whether it is one that the tokenizer may have added.
    """
    spans = [(int(left), int(right)) for left, right in offsets]
    own = [i for i, (left, right) in enumerate(spans) if not special[i] or left < right]
    first, end = (own[0], own[-1] + 1) if own else (_added_before(tokenizer) if ids else 0,) * 2
    return Tokens(list(ids[:end]), [*spans[:first], *_widened(spans[first:end])], first)


def _widened(spans: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The spans, those without a character given back the spaces that were trimmed off them.

    Byte-level tokenizers may trim offsets, and then a token that is nothing but spaces has none left.
    """
    reached = 0
    for left, right in spans:
        yield (min(left, reached), right) if left == right else (left, right)
        reached = max(reached, right)


def _added_before(tokenizer: Any) -> int:
    """How many tokens the tokenizer puts before a text, whatever the text."""
    backend, mark = tokenizer.backend_tokenizer, "\ue000"
    # A text of one token that is in no vocabulary, so that this holds for a tokenizer of whatever words.
    text = backend.encode("", add_special_tokens=False)
    text.pad(1, pad_id=0, pad_token=mark)
    found: int = backend.post_process(text).tokens.index(mark)
    return found


def pad_id(tokenizer: Any) -> int:
    """A token to pad with; masked positions never matter, so any valid id does."""
    for candidate in (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id):
        if candidate is not None:
            return int(candidate)
    return 0


def pad(rows: Sequence[Sequence[int]], fill: int, side: Literal["left", "right"] = "left") -> Batch:
    """Rows of ids as one batch; position ids count real tokens only."""
    return pad_around(rows, [0] * len(rows) if side == "right" else [len(row) for row in rows], fill)


def pad_around(rows: Sequence[Sequence[int]], pivots: Sequence[int], fill: int) -> Batch:
    """Rows laid out so that token ``pivots[i]`` of row i stands in the same column for every row.

    Tokens before the pivot are padded on the left, the pivot and what follows on the right. With
    the pivots at the subjects' last tokens, everything that an edit there can change lies in one
    rectangle: the columns from the pivot on.
    """
    before = max(pivots, default=0)
    after = max((len(row) - pivot for row, pivot in zip(rows, pivots, strict=True)), default=0)
    ids = torch.full((len(rows), before + after), fill, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for index, (row, pivot) in enumerate(zip(rows, pivots, strict=True)):
        left = before - pivot
        ids[index, left : left + len(row)] = torch.tensor(list(row), dtype=torch.long)
        mask[index, left : left + len(row)] = 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return Batch(ids, mask, positions)
