"""Forward passes over a part of the decoder: from one block to another, and over some positions only.

The model's own forward builds masks, rotary tables and positions; blocks that are not wanted are
skipped while it runs. So whatever an architecture does around its blocks (grouped queries, sliding
windows, soft caps, learned positions) holds here too, and nothing is written twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from safeedit.models.hooks import replaced_forward
from safeedit.models.structure import Decoder
from safeedit.models.tokens import Batch


class _ReachedError(Exception):
    """Raised inside a forward pass to end it at the block where it shall stop."""

    def __init__(self, hidden: Tensor) -> None:
        self.hidden = hidden


class _KeptLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of a fixed prefix: what is new is joined on for the call, and not kept."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        return torch.cat([self.keys, key_states], dim=-2), torch.cat([self.values, value_states], dim=-2)


@dataclass(frozen=True)
class Prefix:
    """What attention needs of the columns before a batch's pivot: keys and values, block by block."""

    keys: tuple[Tensor, ...]
    """One (rows, heads, columns, head width) tensor a block."""
    values: tuple[Tensor, ...]
    mask: Tensor
    """(rows, columns): which of them are real tokens."""

    def rows(self, index: Tensor) -> Prefix:
        """Only the rows of `index`."""
        return Prefix(
            tuple(k[index] for k in self.keys), tuple(v[index] for v in self.values), self.mask[index]
        )

    def cache(self) -> Cache:
        """As a cache that a forward pass reads and never changes."""
        return Cache(layers=[_KeptLayer(k, v) for k, v in zip(self.keys, self.values, strict=True)])


@dataclass(frozen=True)
class Segment:
    """Runs parts of one decoder."""

    decoder: Decoder

    def run(
        self,
        batch: Batch,
        *,
        start: int = 0,
        stop: int | None = None,
        hidden: Tensor | None = None,
        prefix: Prefix | None = None,
    ) -> Tensor:
        """Hidden states before block `stop` (after the final norm if `stop` is None).

        Args:
            batch: the columns to run; with `prefix`, those after the prefix's columns.
            start: the first block that is run; needs `hidden` if it is not 0.
            stop: the first block that is not run.
            hidden: (rows, columns, hidden_size), what enters block `start`.
            prefix: keys and values of the columns before those of `batch`.

        Returns:
            (rows, columns, hidden_size).
        """
        if (hidden is None) != (start == 0):
            raise ValueError("give hidden states exactly when the pass starts above block 0")
        arguments = batch.forward_args()
        if prefix is not None:
            arguments["attention_mask"] = torch.cat([prefix.mask, batch.attention_mask], dim=1)
        cache = prefix.cache() if prefix is not None else None
        return self._call(arguments, start, stop, hidden, cache)

    def with_prefix(self, batch: Batch, columns: int, keep: int) -> tuple[Tensor, Prefix | None]:
        """One whole pass over `batch` that keeps what later passes over its last columns need.

        Args:
            batch: all columns.
            columns: how many of the first columns are the prefix.
            keep: hidden states are wanted before this block.

        Returns:
            ``(hidden, prefix)``: hidden (rows, other columns, hidden_size) entering block `keep`, and
            the prefix's keys and values (None where there is no prefix).
        """
        cache = DynamicCache()
        kept: list[Tensor] = []
        with _watching(self.decoder.blocks[keep], kept):
            self._call(batch.forward_args(), 0, None, None, cache)
        hidden = kept[0][:, columns:]
        if columns == 0:
            return hidden, None
        keys = tuple(layer.keys[:, :, :columns] for layer in cache.layers)
        values = tuple(layer.values[:, :, :columns] for layer in cache.layers)
        return hidden, Prefix(keys, values, batch.attention_mask[:, :columns])

    def _call(
        self,
        arguments: dict[str, Tensor],
        start: int,
        stop: int | None,
        hidden: Tensor | None,
        cache: Cache | None,
    ) -> Tensor:
        blocks = self.decoder.blocks
        with ExitStack() as stack:
            for index in range(start):
                given = hidden if index == start - 1 else None
                stack.enter_context(replaced_forward(blocks[index], self._pass_on(given)))
            if stop is not None and stop < len(blocks):
                stack.enter_context(replaced_forward(blocks[stop], _end_here))
            try:
                output = self.decoder.base(**arguments, past_key_values=cache, use_cache=cache is not None)
            except _ReachedError as reached:
                return reached.hidden
        final: Tensor = output.last_hidden_state
        return final

    def _pass_on(self, given: Tensor | None) -> Any:
        def forward(*args: Any, **kwargs: Any) -> Any:
            states = given if given is not None else _hidden_of(args, kwargs)
            return (states,) if self.decoder.tuple_blocks else states

        return forward


def _hidden_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    found: Tensor = args[0] if args else kwargs["hidden_states"]
    return found


def _end_here(*args: Any, **kwargs: Any) -> Any:
    raise _ReachedError(_hidden_of(args, kwargs))


@contextmanager
def _watching(block: nn.Module, kept: list[Tensor]) -> Iterator[None]:
    handle = block.register_forward_pre_hook(
        lambda _, args, kwargs: kept.append(_hidden_of(args, kwargs)), with_kwargs=True
    )
    try:
        yield
    finally:
        handle.remove()
