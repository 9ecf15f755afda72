"""Hidden states at chosen tokens of many texts, and a model's head kept as it was.

torch is imported where it is used: probes are listed without it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from safeedit.errors import ProbeError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from safeedit.models.structure import Decoder
    from safeedit.models.tokens import Tokens

_At = tuple["Tensor", "Tensor"]

TOKENS_AT_ONCE = 6144
"""Tokens of one forward pass, padding included."""
SAME_BASIS = 0.99
"""Median cosine of a head's rows before and after, from which on it is the same head, edited."""
LOGITS_AT_ONCE = 2**25
"""Logits that are held at one time."""


def states(
    decoder: Decoder,
    tokenizer: Any,
    texts: Sequence[Tokens],
    columns: Sequence[Sequence[int]],
    blocks: Sequence[int],
) -> Iterator[tuple[list[int], Tensor]]:
    """What leaves some blocks at some tokens of every text, batch by batch.

    Args:
        decoder: of the model.
        tokenizer: its tokenizer.
        texts: what is read.
        columns: for each text the indices of the tokens that are looked at.
        blocks: the blocks (from 0, ascending) after which is looked.

    Yields:
        The texts' numbers, and their states (blocks, tokens of all those texts in order, hidden_size).

    Raises:
        ProbeError: a state is not finite.
    """
    import torch

    from safeedit.models.hooks import first_tensor, frozen
    from safeedit.models.tokens import pad, pad_id

    for lines in batches([len(text.ids) for text in texts]):
        rows = [row for row, line in enumerate(lines) for _ in columns[line]]
        places = [column for line in lines for column in columns[line]]
        batch = pad([texts[line].ids for line in lines], pad_id(tokenizer), "right").to(decoder.device)
        row, place = (torch.tensor(part, device=decoder.device) for part in (rows, places))
        seen: list[Tensor] = []

        def watch(
            _module: Any, _args: Any, output: Any, seen: list[Tensor] = seen, at: _At = (row, place)
        ) -> None:
            found = first_tensor(output)
            seen.append(found[at[0].to(found.device), at[1].to(found.device)].to(decoder.device))

        with ExitStack() as stack, torch.no_grad():
            stack.enter_context(frozen(decoder.model))
            for block in blocks:
                stack.callback(decoder.blocks[block].register_forward_hook(watch).remove)
            decoder.base(**batch.forward_args(), use_cache=False)
            found = torch.stack(seen)
            if not torch.isfinite(found).all():
                raise ProbeError("a hidden state is not finite")
        yield lines, found


def batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """The numbers of texts that are run together: of like length, within `TOKENS_AT_ONCE`."""
    chunk: list[int] = []
    for line in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if chunk and (len(chunk) + 1) * lengths[line] > TOKENS_AT_ONCE:
            yield chunk
            chunk = []
        chunk.append(line)
    if chunk:
        yield chunk


@dataclass(frozen=True, repr=False)
class Head:
    """Final norm and head as they were, whatever happens to the model afterwards."""

    decoder: Decoder
    """Norm, head and what the causal LM does around them (soft caps, scales); no block."""
    output: nn.Module
    """The last linear layer alone, within the decoder above."""

    @staticmethod
    def of(decoder: Decoder) -> Head:
        """A copy of a model's head.

        The causal LM is copied with nothing in the place of its decoder, so that whatever is done to the
        model itself (weights, hooks, another forward) does not reach it.
        """
        from torch import nn

        stand_in = nn.Identity()
        parts = (decoder.model, decoder.final_norm, _output(decoder))
        shell, norm, output = copy.deepcopy(parts, {id(decoder.base): stand_in})
        shell.eval().requires_grad_(False)
        norm.eval().requires_grad_(False)
        kept = replace(decoder, model=shell, base=stand_in, blocks=(), projections=(), final_norm=norm)
        return Head(kept, output)

    def same_tensors(self, decoder: Decoder) -> bool:
        """Whether a model's norm and head are bit for bit what they were."""
        pairs = [(self.decoder.final_norm, decoder.final_norm), (self.output, _output(decoder))]
        return all(_equal(kept, now) for kept, now in pairs)

    def fits(self, decoder: Decoder) -> bool:
        """Whether a model's head is this one, if changed, and not one that was trained apart from it.

        A head knows its own model's basis, and something of what it was trained to say of a name. What it
        says of the states of a model that has another basis is not what these hold.
        """
        import torch

        kept, now = self.output.get_parameter("weight"), _output(decoder).get_parameter("weight")
        if kept.shape[1] != now.shape[1]:
            return False
        rows = min(len(kept), len(now))
        parts = zip(*(torch.split(w.detach()[:rows].to(kept.device), 4096) for w in (kept, now)), strict=True)
        likeness = torch.cat([torch.cosine_similarity(a.float(), b.float(), dim=1) for a, b in parts])
        return float(likeness.median()) >= SAME_BASIS

    def same_logits(self, decoder: Decoder, final: Tensor) -> bool:
        """Whether a model's head gives bit for bit the same logits; something may mask or shift them.

        Args:
            decoder: of the model.
            final: (tokens, hidden_size), what leaves its last block at the tokens of interest.
        """
        import torch

        from safeedit.models.hooks import frozen

        parts = torch.split(final, max(1, LOGITS_AT_ONCE // decoder.vocabulary))
        with frozen(decoder.model), torch.no_grad():
            return all(torch.equal(self.decoder.lens(part), decoder.lens(part)) for part in parts)


def _output(decoder: Decoder) -> nn.Module:
    found: nn.Module = decoder.model.get_output_embeddings()  # type: ignore[operator]
    return found


def _equal(kept: nn.Module, now: nn.Module) -> bool:
    import torch

    first, second = kept.state_dict(), now.state_dict()
    return (
        type(kept) is type(now)
        and first.keys() == second.keys()
        and all(
            a.dtype == second[name].dtype and torch.equal(a.to(second[name].device), second[name])
            for name, a in first.items()
        )
    )


Look = Callable[["Tensor", "Tensor"], tuple["Tensor", "Tensor"]]
"""(blocks, tokens, vocabulary) logits and (tokens,) targets to two (features, tokens) tensors."""


def through(decoder: Decoder, hidden: Tensor, target: Tensor, look: Look) -> tuple[Tensor, Tensor]:
    """What `look` makes of the logits that a head gives at every block, a share of the tokens at a time.

    Args:
        decoder: whose norm and head are used.
        hidden: (blocks, tokens, hidden_size).
        target: (tokens,).
        look: what is read from the logits.

    Returns:
        Two (features, tokens) tensors.

    Raises:
        ProbeError: a logit is not finite.
    """
    import torch

    from safeedit.models.hooks import frozen

    share = max(1, LOGITS_AT_ONCE // (decoder.vocabulary * len(hidden)))
    parts: list[tuple[Tensor, Tensor]] = []
    with frozen(decoder.model), torch.no_grad():
        for some, wanted in zip(torch.split(hidden, share, 1), torch.split(target, share), strict=True):
            logits = decoder.lens(some).float()
            if not torch.isfinite(logits).all():
                raise ProbeError("the lens gave a logit that is not finite")
            parts.append(look(logits, wanted))
    first, second = zip(*parts, strict=True)
    return torch.cat(first, 1), torch.cat(second, 1)


def object_columns(text: Tokens, prompt: str) -> list[int]:
    """The tokens of a text that come after its prompt.

    Raises:
        ProbeError: there are none, or none stands before them to predict the first.
    """
    start = text.first_from(len(prompt))
    found = [c for c in range(max(1, start), len(text.ids)) if text.offsets[c][0] < text.offsets[c][1]]
    if not found:
        raise ProbeError("an object has no token of its own")
    return found
