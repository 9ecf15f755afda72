"""Exact causal tracing: every state of every subject and later token, restored one at a time.

ROME, arXiv 2202.05262, section 2.1. Hidden states are restored at single layers, MLP and attention
outputs over a window of layers, because one layer's contribution alone is small. All noise samples of
all prompts in a part run together; within a layer all tokens do, the shortest remaining suffixes first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from safeedit.editors.base import Progress
from safeedit.errors import UsageError
from safeedit.locate.corruption import noise_for, noise_scale
from safeedit.locate.maps import Map
from safeedit.locate.prompts import Prompt
from safeedit.locate.sites import KINDS, Kind, Sites
from safeedit.locate.states import Asked, States
from safeedit.models.segment import Segment
from safeedit.models.tokens import pad_id

Mode = Literal["exact", "fast"]

WINDOW = 10 / 48
"""The published window of layers, relative to the depth of the model that it was published for."""


@dataclass(frozen=True)
class Settings:
    """How prompts are traced."""

    mode: Mode = "exact"
    kinds: tuple[Kind, ...] = KINDS
    samples: int = 10
    """Corrupted runs of each prompt; their mean is taken."""
    window: int | None = None
    """Layers over which MLP and attention outputs are restored; by default `WINDOW` of the depth."""
    seed: int = 0
    batch_rows: int = 256
    """Restored runs that run together, at most."""
    memory: int = 1 << 30
    """Bytes for kept states and for a batch, roughly; one prompt is the least that is kept."""

    def check(self) -> None:
        """Return only if a trace can be made so.

        Raises:
            UsageError: a setting has an impossible value.
        """
        if not self.kinds or not set(self.kinds) <= set(KINDS):
            raise UsageError(f"kinds: choose at least one of {', '.join(KINDS)}")
        for name in ("samples", "window", "batch_rows", "memory"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name}: it must be at least 1")

    def width(self, depth: int) -> int:
        """The window in layers, of a model with `depth` of them."""
        return min(depth, self.window or max(1, round(WINDOW * depth)))


@dataclass(frozen=True)
class Work:
    """What all parts of a trace share."""

    segment: Segment
    sites: Sites
    settings: Settings
    fill: int
    scale: float
    """Standard deviation of the noise."""
    depth: int
    width: int
    report: Progress = field(repr=False)

    @staticmethod
    def of(
        segment: Segment,
        tokenizer: Any,
        prompts: Sequence[Prompt],
        settings: Settings,
        report: Progress,
    ) -> Work:
        """Find the sites, and how strong the noise is for these prompts."""
        decoder, sites = segment.decoder, Sites.of(segment.decoder)
        depth = len(decoder.blocks)
        scale = noise_scale(sites, prompts, decoder.device)
        return Work(segment, sites, settings, pad_id(tokenizer), scale, depth, settings.width(depth), report)

    def asked(self, prompts: Sequence[Prompt]) -> Asked:
        """The prompts as a batch on the model's device."""
        return Asked.of(prompts, self.fill, self.segment.decoder.device)

    def noise(self, prompts: Sequence[Prompt], columns: int) -> Tensor:
        """(prompts * samples, columns, hidden) in the model's type, on its device."""
        decoder, own = self.segment.decoder, self.settings
        noise = noise_for(prompts, columns, decoder.hidden_size, own.samples, self.scale, own.seed)
        return noise.to(decoder.device, decoder.projections[0].weight.dtype)

    def parts(self, prompts: Sequence[Prompt], row_states: int) -> list[Sequence[Prompt]]:
        """Prompts whose kept states fit into half of the memory; `row_states` a layer and corrupted run."""
        each = self.bytes_of(prompts, row_states) * self.settings.samples
        size = max(1, int(self.settings.memory / 2 // each))
        return [prompts[i : i + size] for i in range(0, len(prompts), size)]

    def bytes_of(self, prompts: Sequence[Prompt], row_states: int) -> int:
        """Bytes of so many states a layer over the longest prompt."""
        decoder = self.segment.decoder
        element = decoder.projections[0].weight.element_size()
        longest = max(len(prompt.ids) for prompt in prompts)
        return longest * self.depth * decoder.hidden_size * element * row_states

    def window(self, kind: Kind, layer: int) -> range:
        """The blocks at which a state of that kind is restored for the map's cell at `layer`."""
        if kind == "hidden":
            return range(layer, layer + 1)
        low = layer - self.width // 2
        return range(max(0, low), min(self.depth, low + self.width))


def trace_exact(work: Work, prompts: Sequence[Prompt]) -> list[Map]:
    """The maps of some prompts, in their order.

    Raises:
        ModelError: a prediction is not finite.
    """
    found: dict[int, Map] = {}
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].ids))
    # Kept of a corrupted run: states, keys and values; and its share of the clean run's states.
    parts = work.parts([prompts[i] for i in order], 3 + len(work.settings.kinds))
    total = len(parts) * len(work.settings.kinds) * work.depth
    done = 0
    for number, part in enumerate(parts):
        maps = _Part(work, part)
        for kind in work.settings.kinds:
            for layer in range(work.depth):
                maps.trace(kind, layer)
                done += 1
                work.report("trace", done, total)
        at = number * len(parts[0])
        found |= dict(zip(order[at : at + len(part)], maps.maps(), strict=True))
    return [found[index] for index in range(len(prompts))]


class _Part:
    """Prompts whose states are kept together."""

    def __init__(self, work: Work, prompts: Sequence[Prompt]) -> None:
        self.work, self.prompts = work, prompts
        asked = work.asked(prompts)
        columns = asked.batch.input_ids.shape[1]
        samples, kinds = work.settings.samples, work.settings.kinds
        noise = work.noise(prompts, columns)
        self.states = States.of(work.segment, work.sites, asked, noise, samples, kinds)
        self.sums = {
            kind: torch.zeros(len(prompts), columns, work.depth, dtype=torch.float64) for kind in kinds
        }
        self.cells = torch.tensor(
            [
                (index * samples + sample, token)
                for index, prompt in enumerate(prompts)
                for token in range(prompt.first, prompt.end + 1)
                for sample in range(samples)
            ]
        )

    def trace(self, kind: Kind, layer: int) -> None:
        """Fill in one layer of one kind."""
        layers = self.work.window(kind, layer)
        cells = self.cells
        if layers[0] == self.work.depth - 1:
            # Nothing moves between tokens any more, so that elsewhere the effect is 0 exactly.
            cells = cells[self._reads(cells)]
        for rows, tokens in self._batches(cells):
            device = self.states.log_p.device
            one = torch.ones(len(rows), 1, dtype=torch.bool, device=device)
            log_p = self.states.restored(kind, layers, rows.to(device), tokens.to(device), one)
            gained = (log_p.exp() - self.states.log_p[rows.to(device)].exp()).double().cpu()
            prompt = rows // self.work.settings.samples
            self.sums[kind][..., layer].index_put_((prompt, tokens), gained, accumulate=True)

    def _reads(self, cells: Tensor) -> Tensor:
        """Which cells are at a token where a prediction is read that is looked at."""
        ends = torch.tensor([prompt.end for prompt in self.prompts])
        return cells[:, 1] == ends[cells[:, 0] // self.work.settings.samples]

    def _batches(self, cells: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """(rows, tokens) of cells that run together: those with the same remaining length are neighbours."""
        settings = self.work.settings
        # Twice keys and values for every block, and some states of one block.
        each = self.work.bytes_of(self.prompts, 2) + 4 * self.work.segment.decoder.vocabulary
        size = max(1, min(settings.batch_rows, int(settings.memory / 2 // each)))
        lengths = torch.tensor([len(prompt.ids) for prompt in self.prompts])
        left = lengths[cells[:, 0] // settings.samples] - cells[:, 1]
        for part in torch.split(cells[left.argsort(stable=True)], size):
            yield part[:, 0], part[:, 1]

    def maps(self) -> list[Map]:
        """The finished maps."""
        samples = self.work.settings.samples
        clean = self.states.clean_log_p.double().exp().tolist()
        corrupted = self.states.log_p.double().exp().view(-1, samples).mean(1).tolist()
        return [
            Map(
                prompt,
                clean[index],
                corrupted[index],
                {kind: (sums[index, : prompt.end + 1] / samples).numpy() for kind, sums in self.sums.items()},
            )
            for index, prompt in enumerate(self.prompts)
        ]
