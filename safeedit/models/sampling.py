"""Sampled text for many prompts at once, the same for a seed however the prompts are batched.

Each token is drawn by inverting the cumulative distribution at one number, and that number depends on
the seed, the prompt, the sample and the step alone (Philox, a counter-based generator: Salmon et al.,
SC 2011). A generator per batch would make a text depend on which others happened to be beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from safeedit.errors import UsageError
from safeedit.models.decode import (
    TYPICAL,
    Choose,
    Generation,
    batches,
    end_ids,
    generation,
    read,
    token_rows,
    write,
)
from safeedit.models.hooks import frozen
from safeedit.models.tokens import pad_id

Place = tuple[int, int]
"""A prompt's number and a sample's."""

STRAGGLERS = 0.25
"""Rows of a batch that are put aside when no more than this share of them goes on."""
AT_ONCE = 2**23
"""Probabilities in double precision that are held at a time."""


@dataclass(frozen=True)
class Sampler:
    """How the next token is drawn: what a product would be set to."""

    temperature: float = 1.0
    top_p: float = 1.0
    """Only the likeliest tokens that together reach this probability; 1 for all."""
    top_k: int = 0
    """Only so many of the likeliest tokens; 0 for all."""

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise UsageError("temperature must be a positive number")
        if not 0 < self.top_p <= 1:
            raise UsageError("top_p must lie in (0, 1]")
        if self.top_k < 0:
            raise UsageError("top_k must be 0 (no limit) or more")

    def draw(self, logits: Tensor, numbers: Tensor) -> Tensor:
        """The tokens (rows,) at which the cumulative distribution of `logits` passes `numbers` (rows,)."""
        size = max(1, AT_ONCE // logits.shape[1])
        return torch.cat(
            [
                self._draw(logits[start : start + size], numbers[start : start + size])
                for start in range(0, len(logits), size)
            ]
        )

    def _draw(self, logits: Tensor, numbers: Tensor) -> Tensor:
        probabilities = (logits.double() / self.temperature).softmax(-1)
        if self.top_p < 1 or 0 < self.top_k < logits.shape[1]:
            probabilities = self._cut(probabilities)
        reached = probabilities.cumsum(-1)
        total = reached[:, -1:]
        # A product that is rounded up to the total would point behind the last token.
        below = torch.minimum(numbers[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
        return torch.searchsorted(reached, below, right=True)[:, 0]

    def _cut(self, probabilities: Tensor) -> Tensor:
        """Zero for all tokens outside top-k and top-p; the likeliest one always stays."""
        ordered, tokens = probabilities.sort(dim=-1, descending=True, stable=True)
        kept = ordered.cumsum(-1) - ordered < self.top_p
        if self.top_k:
            kept[:, self.top_k :] = False
        return torch.zeros_like(probabilities).scatter(-1, tokens, ordered * kept)


@torch.no_grad()
def sampled(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    samples: int,
    seed: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    max_new_tokens: int = 64,
    token_budget: int = 16384,
    special: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[Generation]]:
    """`samples` continuations of each prompt; prompts in the order given, each prompt read once.

    The first samples of a prompt are the same whatever `samples` and `token_budget` are.

    Args:
        model: a causal LM.
        tokenizer: its tokenizer.
        prompts: the prompts; their places in this list are part of what the texts depend on.
        samples: how many continuations of each.
        seed: the same seed gives the same texts, as far as the machine gives the same logits.
        temperature: what logits are divided by.
        top_p: the likeliest tokens that together reach this probability are drawn from; 1 for all.
        top_k: so many of the likeliest tokens are drawn from; 0 for all.
        max_new_tokens: where a text is cut off if the model does not end it.
        token_budget: prompt tokens and new tokens of one batch, at most (at least one row is run).
        special: whether the tokenizer puts its own tokens around a prompt; not for one that has them.
        progress: called with (prompts done, prompts in all).

    Raises:
        UsageError: a setting is out of its range.
        ModelError: the model gave a logit that is not finite, or a prompt has no token.
    """
    if samples < 1:
        raise UsageError("samples must be 1 or more")
    sampler = Sampler(temperature, top_p, top_k)
    rows, ends = token_rows(tokenizer, prompts, special=special), end_ids(model, tokenizer)
    texts: dict[Place, list[int]] = {}
    with frozen(model):
        for chunk in batches(rows, max_new_tokens, token_budget, samples):
            start = read(model, [rows[i] for i in chunk], pad_id(tokenizer))
            # Only a batch of one prompt can be larger than the budget; its samples are then divided.
            width = start.mask.shape[1] + min(max_new_tokens, TYPICAL)
            share = samples if len(chunk) > 1 else max(1, min(samples, token_budget // width))
            for first in range(0, samples, share):
                some = range(first, min(first + share, samples))
                places = [(i, sample) for i in chunk for sample in some]
                choose = _chooser(sampler, seed, places, max_new_tokens, start.mask.device)
                fewest = int(STRAGGLERS * len(places))
                found = write(model, start.repeated(len(some)), ends, max_new_tokens, choose, fewest)
                texts |= zip(places, found, strict=True)
            if progress is not None:
                progress(min(len(texts) // samples, len(rows) - 1), len(rows))
        _finish(model, rows, texts, ends, max_new_tokens, token_budget, pad_id(tokenizer), (sampler, seed))
    if progress is not None:
        progress(len(rows), len(rows))
    return [
        [generation(tokenizer, texts[i, sample], ends) for sample in range(samples)] for i in range(len(rows))
    ]


def _finish(
    model: Any,
    rows: Sequence[Sequence[int]],
    texts: dict[Place, list[int]],
    ends: set[int],
    limit: int,
    budget: int,
    fill: int,
    drawing: tuple[Sampler, int],
) -> None:
    """Go on with the few long texts of all batches together: alone, each batch of them would take as long."""
    open_ = [place for place, ids in texts.items() if len(ids) < limit and not ends & set(ids)]
    read_on = [[*rows[prompt], *texts[prompt, sample]] for prompt, sample in open_]
    for chunk in batches(read_on, limit, budget):
        places = [open_[i] for i in chunk]
        done = [len(texts[place]) for place in places]
        start = read(model, [read_on[i] for i in chunk], fill)
        choose = _chooser(*drawing, places, limit, start.mask.device, done)
        for place, ids in zip(places, write(model, start, ends, limit - min(done), choose), strict=True):
            texts[place] = [*texts[place], *ids][:limit]


def _chooser(
    sampler: Sampler,
    seed: int,
    places: Sequence[Place],
    limit: int,
    device: torch.device,
    done: Sequence[int] | None = None,
) -> Choose:
    """Draws the next token of each place with its own numbers, of which the first `done` are used up."""
    numbers = uniforms(seed, places, limit).to(device)
    used = torch.tensor(done or [0] * len(places), device=device)

    def choose(logits: Tensor, rows: Tensor, step: int) -> Tensor:
        # A row that reached the limit is cut there; what it is given until the others do is of no matter.
        return sampler.draw(logits, numbers[rows, (used[rows] + step).clamp(max=limit - 1)])

    return choose


def uniforms(seed: int, places: Sequence[Place], steps: int) -> Tensor:
    """Numbers in [0, 1), float64 (places, steps): one for each (prompt, sample) and step.

    A longer row begins with the shorter one.
    """
    rows = [
        np.random.Generator(np.random.Philox(key=(seed % 2**64, prompt), counter=(0, 0, 0, sample))).random(
            steps
        )
        for prompt, sample in places
    ]
    return torch.from_numpy(np.stack(rows))
