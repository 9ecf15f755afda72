"""How long a text a model can read at all; a longer one is refused in words, before anything fails on it.

Most models compute where a token stands, and read on beyond what they were trained for. Some look it up in a
table. Behind its end they have an index error on a CPU, and a GPU is lost to the whole process.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from safeedit.errors import UsageError

RESERVED = 2
"""Rows of a table, at most, that are no positions (OPT's begins with two)."""


def positions_of(model: Any) -> int | None:
    """The tokens of the longest text that the model can read; None where it has no table of positions.

    The table is told by its rows, as many as the config says that there are positions: an embedding beside
    that of the words, or a buffer.
    """
    stated = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if not isinstance(stated, int):
        return None
    words = _words(model)
    for module in model.modules():
        learnt = isinstance(module, nn.Embedding) and module is not words
        if learnt and stated <= module.num_embeddings <= stated + RESERVED:
            return stated
        own = (buffer for buffer in module.buffers(recurse=False) if buffer.is_floating_point())
        if any(buffer.ndim == 2 and len(buffer) == stated for buffer in own):
            return stated
    return None


def _words(model: Any) -> object:
    """The embedding of the words; None where the model does not say which it is."""
    try:
        return model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None


def refuse_beyond(room: int | None, tokens: int) -> None:
    """Refuse a text of so many tokens if there is no room for it.

    Raises:
        UsageError: it has more tokens than there are positions; the text itself is not quoted.
    """
    if room is not None and tokens > room:
        raise UsageError(
            f"a text of {tokens} tokens is too long: this model has positions for {room}; "
            "shorten the prompt or what shall follow it"
        )


@contextmanager
def within_positions(model: nn.Module) -> Iterator[None]:
    """A forward pass over a text that is too long for the model is a UsageError instead of an index error."""
    room = positions_of(model)
    if room is None:
        yield
        return

    def check(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        columns = _columns(args, kwargs)
        if columns <= room:
            return
        # Only now, as asking a device for its figures waits for it; padding may be all that is too wide.
        positions = kwargs.get("position_ids")
        refuse_beyond(room, columns if positions is None else int(positions.max()) + 1)

    # The decoder is also called without its head, and by some heads not through their base.
    watched = [one for one in (model, getattr(model, "base_model", None)) if isinstance(one, nn.Module)]
    handles = [module.register_forward_pre_hook(check, with_kwargs=True) for module in watched]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _columns(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """How many columns a model is called with, those in its cache and padding among them."""
    mask = kwargs.get("attention_mask")
    if isinstance(mask, Tensor) and mask.ndim == 2:
        return mask.shape[1]
    given = (args[0] if args else None, kwargs.get("input_ids"), kwargs.get("inputs_embeds"))
    new = next((tokens.shape[1] for tokens in given if isinstance(tokens, Tensor)), 0)
    cache = kwargs.get("past_key_values")
    return new + (0 if cache is None else int(cache.get_seq_length()))
