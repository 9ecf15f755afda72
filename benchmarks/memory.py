"""Peak memory of an edit on a model of a given shape with random weights, in units of the weights.

    python benchmarks/memory.py --device cuda --editors memit --t 1000
    python benchmarks/memory.py --device apart --hidden 1024 --t 50 --set memit.steps=2 memit.passes=2

The shape is Llama-2-7B's, with everything that grows with the width divided by what `--hidden` divides it by;
random weights know nothing, so that quality is no matter here. Memory is that of tensors on the device: as
CUDA's allocator counts it, or, on machines that have no GPU, as that of the device `apart` of the tests does
(which does not see what a kernel itself takes for a moment). By stage, and over all of the edit. Budgets that
are numbers of bytes shrink with the weights, so that they are the shares of them that they are on the 7B.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rows import settings_by_editor, settings_of, table
from transformers import LlamaConfig, LlamaForCausalLM
from worlds import source

from safeedit.editors import EDITORS, budget, preserving
from safeedit.editors.statistics import Corpus
from safeedit.world.corpus import statistics_texts

HIDDEN, INNER, BLOCKS, HEADS, VOCABULARY = 4096, 11008, 32, 32, 32_000
HEAD = ("editor", "edits", "weights MiB", "peak / weights", "seconds", "peak / weights by stage")


@dataclass(frozen=True)
class Meter:
    """What tensors on a device take, in bytes."""

    held: Callable[[], int]
    peak: Callable[[], int]
    restart: Callable[[], None]

    @staticmethod
    def of(device: str) -> Meter:
        """That of a device; `apart` is made, if it is asked for."""
        if device.startswith("cuda"):
            return Meter(
                torch.cuda.memory_allocated,
                torch.cuda.max_memory_allocated,
                torch.cuda.reset_peak_memory_stats,
            )
        sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
        from devices import make_apart

        make_apart()
        counts: Any = torch.ops.apart
        return Meter(counts.held, counts.peak, counts.restart)


@dataclass
class Stages:
    """The most that each stage of an edit took."""

    meter: Meter
    most: dict[str, int] = field(default_factory=dict)

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Progress of an edit: what was taken since the last report belongs to the stage that reports."""
        self.most[stage] = max(self.most.get(stage, 0), self.meter.peak())
        self.meter.restart()


def shaped(hidden: int, blocks: int, dtype: torch.dtype, device: str, vocabulary: int) -> Any:
    """A model of Llama-2-7B's proportions on a device, in evaluation mode."""
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=INNER * hidden // HIDDEN,
        num_hidden_layers=blocks,
        num_attention_heads=HEADS,
        vocab_size=vocabulary,
        max_position_embeddings=4096,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("cpu" if device == "apart" else device):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    return model.to(device).eval()


def main() -> None:
    """Make the rows, and print them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or apart")
    parser.add_argument("--editors", nargs="+", default=["memit"], metavar="NAME")
    parser.add_argument("--t", type=int, default=1000, help="edits")
    parser.add_argument("--hidden", type=int, default=HIDDEN, help="width; a multiple of 128")
    parser.add_argument("--blocks", type=int, default=BLOCKS)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--tokens", type=int, default=100_000, help="of text for key statistics")
    parser.add_argument("--set", nargs="*", default=[], metavar="EDITOR.NAME=VALUE", help="settings")
    asked = parser.parse_args()
    meter = Meter.of(asked.device)
    for module, name in ((budget, "LEAST"), (preserving, "READY")):
        setattr(module, name, int(getattr(module, name) * (asked.hidden / HIDDEN) ** 2))
    torch.manual_seed(0)
    model = shaped(asked.hidden, asked.blocks, getattr(torch, asked.dtype), asked.device, VOCABULARY)
    data = source("reference")
    _, tokenizer = data.load()
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    edits = data.exam("insert", asked.t).edits
    corpus = Corpus(statistics_texts(), asked.tokens)
    settings, body = settings_by_editor(asked.set, asked.editors), []
    for name in asked.editors:
        editor, stages = EDITORS.get(name)(**settings_of(settings[name])), Stages(meter)
        meter.restart()
        start = time.perf_counter()
        editor.edit(model, tokenizer, edits, corpus=corpus, progress=stages)
        taken = time.perf_counter() - start
        stages("end", 1, 1)
        shares = ", ".join(f"{stage} {most / weights:.2f}" for stage, most in stages.most.items())
        whole = max(stages.most.values()) / weights
        cells = [name, str(len(edits)), f"{weights / 2**20:.0f}", f"{whole:.3f}", f"{taken:.1f}", shares]
        body.append(cells)
        print(" | ".join(cells), file=sys.stderr)
    print("\n".join(table(HEAD, body)))


if __name__ == "__main__":
    main()
