"""Forward passes over a part of the decoder: from one block to another, and over some positions only.

The model's own forward builds masks, rotary tables and positions; blocks that are not wanted are
skipped while it runs. So whatever an architecture does around its blocks (grouped queries, sliding
windows, soft caps, learned positions) holds here too, and nothing is written twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from safeedit.models.hooks import replaced_forward
from safeedit.models.structure import Decoder
from safeedit.models.tokens import Batch
from safeedit.models.trail import Trail, trails


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
    """One (rows, heads, columns, head width) tensor a block; placeholders for blocks that are skipped."""
    values: tuple[Tensor, ...]
    mask: Tensor
    """(rows, columns): which of them are real tokens."""
    beside: tuple[Trail, ...] = ()
    """What is known of them beside that, by what sits at the model."""

    @staticmethod
    def of(cache: Cache, mask: Tensor, skipped: Tensor | None = None, below: int = 0) -> Prefix:
        """What a pass over those columns left in a cache.

        Args:
            cache: the cache, which grows.
            mask: (rows, columns), of that pass.
            skipped: (rows, 1, columns, 1), what stands for keys and values of blocks that were skipped.
            below: so many of them were.
        """
        layers = [layer for layer in cache.layers if not isinstance(layer, Trail)]
        pairs = [(skipped, skipped)] * below + [(layer.keys, layer.values) for layer in layers[below:]]
        keys, values = (tuple(part) for part in zip(*pairs, strict=True))
        return Prefix(keys, values, mask, trails(cache))

    def rows(self, index: Tensor) -> Prefix:
        """Only the rows of `index`."""
        return Prefix(
            tuple(k[index] for k in self.keys),
            tuple(v[index] for v in self.values),
            self.mask[index],
            tuple(trail.rows(index) for trail in self.beside),
        )

    @staticmethod
    def joined(parts: Sequence[Prefix]) -> Prefix:
        """The rows of all parts, one part after another; shorter ones are padded on the left."""
        columns = max(part.mask.shape[1] for part in parts)

        def stacked(tensors: Iterable[Tensor]) -> Tensor:
            return torch.cat([functional.pad(t, (0, 0, columns - t.shape[-2], 0)) for t in tensors])

        keys = tuple(stacked(block) for block in zip(*(part.keys for part in parts), strict=True))
        values = tuple(stacked(block) for block in zip(*(part.values for part in parts), strict=True))
        beside = tuple(
            Trail(some[0].owner, stacked(trail.keys for trail in some), all(t.quiet for t in some))
            for some in zip(*(part.beside for part in parts), strict=True)
        )
        return Prefix(keys, values, stacked(part.mask[..., None] for part in parts)[..., 0], beside)

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        beside = (trail.keys for trail in self.beside)
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values, *beside, self.mask))

    def cache(self) -> Cache:
        """As a cache that a forward pass reads and never changes."""
        layers = [_KeptLayer(k, v) for k, v in zip(self.keys, self.values, strict=True)]
        return Cache(layers=[*layers, *(trail.rows(slice(None)) for trail in self.beside)])


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
        """What passes that start at block `keep`, over the last columns of `batch` only, need.

        Args:
            batch: all columns.
            columns: how many of the first columns are the prefix.
            keep: the block at which those passes start, at least 1.

        Returns:
            ``(hidden, prefix)``: hidden (rows, other columns, hidden_size) entering block `keep`, and
            the prefix's keys and values from that block on (None where there is no prefix).
        """
        hidden = self.run(batch, stop=keep)
        if columns == 0:
            return hidden, None
        first = batch.columns(slice(columns))
        cache = DynamicCache()
        self._call(first.forward_args(), keep, None, hidden[:, :columns], cache)
        skipped = hidden.new_zeros(1).expand(len(hidden), 1, columns, 1)
        return hidden[:, columns:], Prefix.of(cache, first.attention_mask, skipped, keep)

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
