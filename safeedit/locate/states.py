"""What a clean and a corrupted run leave behind, and what a model says when parts of them are mixed.

A state that is restored at (token, layer) changes only what lies above that layer and not before
that token. So the corrupted run is made once; its states and its attention keys and values are kept,
and a restored run starts at the layer and at the token where it first differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from safeedit.errors import ModelError
from safeedit.locate.prompts import Prompt
from safeedit.locate.sites import Kind, Sites, noisy, put_back, recorded
from safeedit.models.segment import Prefix, Segment
from safeedit.models.tokens import Batch, pad


@dataclass(frozen=True)
class Asked:
    """Prompts as one batch, padded on the right so that a column is a token, and what is read off them."""

    batch: Batch
    lengths: Tensor
    """(prompts,) how many tokens each has."""
    ends: Tensor
    """(prompts,) the prompts' last tokens."""
    wanted: Tensor
    """(prompts, most object tokens) the objects' tokens, -1 where an object has fewer."""

    @staticmethod
    def of(prompts: Sequence[Prompt], fill: int, device: torch.device) -> Asked:
        """The batch of some prompts."""
        most = max(len(prompt.wanted) for prompt in prompts)
        wanted = [[*prompt.wanted, *[-1] * (most - len(prompt.wanted))] for prompt in prompts]
        return Asked(
            pad([prompt.ids for prompt in prompts], fill, "right").to(device),
            torch.tensor([len(prompt.ids) for prompt in prompts], device=device),
            torch.tensor([prompt.end for prompt in prompts], device=device),
            torch.tensor(wanted, device=device),
        )

    def rows(self, index: Tensor) -> Asked:
        """Only the rows of `index`, which may name a row often."""
        return Asked(self.batch.rows(index), self.lengths[index], self.ends[index], self.wanted[index])

    def spread(self, segment: Segment, final: Tensor, first: Tensor | int = 0) -> tuple[Tensor, Tensor]:
        """Predictions of the objects' tokens from `final`, (rows, columns, hidden), that begins at `first`.

        Returns:
            ``(log_p, there)``: (rows, object tokens, vocabulary) float32 log-probabilities, and (rows,
            object tokens) which of them an object has.
        """
        there = self.wanted >= 0
        columns = (self.ends - first)[:, None] + torch.arange(there.shape[1], device=there.device)
        columns = columns.where(there, columns[:, :1])
        states = final[torch.arange(len(final), device=final.device)[:, None], columns]
        return segment.decoder.logits(states).float().log_softmax(-1), there

    def log_p(self, segment: Segment, final: Tensor, first: Tensor | int = 0) -> Tensor:
        """(rows,) float32 log-probabilities of the objects, from what `spread` takes.

        Raises:
            ModelError: a prediction is not finite.
        """
        spread, there = self.spread(segment, final, first)
        picked = spread.gather(-1, self.wanted.clamp(min=0)[..., None])[..., 0]
        found = picked.where(there, 0.0).sum(-1)
        if not torch.isfinite(found).all():
            raise ModelError("the model's predictions are not finite; nothing can be traced")
        return found


@dataclass(frozen=True)
class States:
    """The clean run of some prompts, and their corrupted runs: `samples` rows a prompt, one after another."""

    segment: Segment
    sites: Sites
    asked: Asked
    """A row for each corrupted run."""
    prompt: Tensor
    """(rows,) the clean run of each corrupted one."""
    noise: Tensor
    """(rows, columns, hidden)."""
    clean: Mapping[Kind, Sequence[Tensor]]
    """By kind, for each block (prompts, columns, hidden)."""
    corrupted: Sequence[Tensor]
    """For each block (rows, columns, hidden), what leaves it."""
    keys: Sequence[Tensor]
    values: Sequence[Tensor]
    """For each block (rows, heads, columns, head width)."""
    clean_log_p: Tensor
    """(prompts,) log-probabilities of the objects."""
    log_p: Tensor
    """(rows,) those of the corrupted runs."""

    @staticmethod
    @torch.no_grad()
    def of(
        segment: Segment, sites: Sites, asked: Asked, noise: Tensor, samples: int, kinds: Sequence[Kind]
    ) -> States:
        """Make both runs.

        Args:
            segment: the model.
            sites: where its states are read.
            asked: the prompts.
            noise: (prompts * samples, columns, hidden), zero where nothing is corrupted.
            samples: corrupted runs for each prompt.
            kinds: the kinds of states that will be restored.

        Raises:
            ModelError: a prediction is not finite.
        """
        with recorded(sites, kinds) as clean:
            clean_log_p = asked.log_p(segment, segment.run(asked.batch))
        prompt = torch.arange(len(asked.lengths), device=noise.device).repeat_interleave(samples)
        rows, cache = asked.rows(prompt), DynamicCache()
        with noisy(sites, noise), recorded(sites, ("hidden",)) as seen:
            output = segment.decoder.base(**rows.batch.forward_args(), past_key_values=cache, use_cache=True)
        return States(
            segment,
            sites,
            rows,
            prompt,
            noise,
            clean,
            seen["hidden"],
            [layer.keys for layer in cache.layers],
            [layer.values for layer in cache.layers],
            clean_log_p,
            rows.log_p(segment, output.last_hidden_state),
        )

    @torch.no_grad()
    def restored(self, kind: Kind, layers: range, rows: Tensor, first: Tensor, where: Tensor) -> Tensor:
        """What the corrupted model says when it is given clean states.

        Args:
            kind: what is restored.
            layers: the blocks at which; a hidden state is restored at one.
            rows: (n,) which corrupted runs; a run may be named often.
            first: (n,) the first token of each that may differ from the corrupted run.
            where: (n, width) what is restored, in columns that count from `first`; width may be smaller
                than the rows are long.

        Returns:
            (n,) log-probabilities of the objects.
        """
        asked = self.asked.rows(rows)
        width = int((asked.lengths - first).max())
        columns = first[:, None] + torch.arange(width, device=first.device)
        real = columns < asked.lengths[:, None]
        columns = columns.clamp(max=asked.batch.input_ids.shape[1] - 1)
        batch = Batch(asked.batch.input_ids.gather(1, columns), real.long(), columns)
        given = torch.zeros_like(real)
        given[:, : where.shape[1]] = where[:, :width]
        clean = [self.clean[kind][layer][self.prompt[rows][:, None], columns] for layer in layers]
        start = layers[0] + 1 if kind == "hidden" else layers[0]
        hidden = self.corrupted[start - 1][rows[:, None], columns] if start else None
        with ExitStack() as stack:
            if kind == "hidden":
                assert hidden is not None
                hidden = torch.where(given[..., None], clean[0], hidden)
            else:
                stack.enter_context(put_back([self.sites.modules[kind][i] for i in layers], clean, given))
            if not start:
                stack.enter_context(noisy(self.sites, self.noise[rows[:, None], columns]))
            prefix = self._before(rows, first, start)
            final = self.segment.run(batch, start=start, hidden=hidden, prefix=prefix)
        return asked.log_p(self.segment, final, first)

    def _before(self, rows: Tensor, first: Tensor, start: int) -> Prefix | None:
        """Keys and values of the tokens before `first`, from block `start` on; padded on the left."""
        width = int(first.max())
        if not width:
            return None
        columns = (first - width)[:, None] + torch.arange(width, device=first.device)
        mask = (columns >= 0).long()
        index = (rows[:, None], slice(None), columns.clamp(min=0))
        # (rows, columns, heads, head width), because the indices stand on both sides of the heads.
        skipped = self.noise.new_zeros(1).expand(len(rows), 1, width, 1)
        keys, values = (
            tuple(
                skipped if block < start else kept[index].transpose(1, 2) for block, kept in enumerate(part)
            )
            for part in (self.keys, self.values)
        )
        return Prefix(keys, values, mask)
