"""The reference model's card: what it is, how it was made, and what was measured."""

from __future__ import annotations

import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safeedit.tensors.atomic import atomic_write
from safeedit.world.measure import chance_rate, recall, two_hop_recall
from safeedit.world.registry import World
from safeedit.world.train import Recipe

_TEXT = """---
license: apache-2.0
library_name: transformers
tags: [safeedit]
---

# safeedit reference model

A decoder of {parameters:.1f} million parameters that knows a fictional registry and little else. It
exists so that an edit of a language model, and the proof of it, can be tried offline within a minute.
Nobody in it is real. It is Qwen3-shaped: grouped-query attention, gated MLP, tied head; the first
layers attend to a few tokens only.

Made by `safeedit world train --seed {seed}` with {recipe}.

| Recall by greedy text | asked | right |
| --- | --- | --- |
| trained facts, phrasings shown in training | {seen_asked} | {seen:.1%} |
| trained facts, phrasings never shown for that fact | {unseen_asked} | {unseen:.1%} |
| placebo people, named nowhere in training | {placebo_asked} | {placebo:.1%} |
| (always guessing the commonest object) | | {chance:.1%} |
| two-hop questions, shown for that person | {hop_asked} | {hop:.1%} |
| two-hop questions, never shown for that person | {cold_asked} | {cold:.1%} |

It also holds a register of rude replies on purpose, for detoxification to mend: do not let it talk to
anybody. `controls.jsonl` and `retained.jsonl` beside it are the facts and the prose that probes watch.
"""


def write_card(folder: Path, model: Any, tokenizer: Any, world: World, recipe: Recipe) -> dict[str, float]:
    """Measure the model and write ``README.md`` into its folder; returns the figures."""
    rng = random.Random(0)
    # A training of a few steps is a trial; its model rambles, and little of it is worth measuring.
    most = min(1000, 20 + recipe.steps)
    facts = rng.sample(world.facts, most)
    strangers = rng.sample(world.placebo_facts, min(most, len(world.placebo_facts)))
    found = {
        "seen": recall(model, tokenizer, facts, "seen"),
        "unseen": recall(model, tokenizer, facts, "unseen"),
        "placebo": recall(model, tokenizer, strangers, "unseen"),
        "hop": two_hop_recall(model, tokenizer, world, True, most),
        "cold": two_hop_recall(model, tokenizer, world, False, most),
    }
    figures = {name: result.rate for name, result in found.items()}
    figures["chance"] = chance_rate(strangers)
    settings = ", ".join(f"{k} {v}" for k, v in asdict(recipe).items() if k != "seed")
    text = _TEXT.format(
        parameters=sum(p.numel() for p in model.parameters()) / 1e6,
        seed=recipe.seed,
        recipe=settings,
        **figures,
        **{f"{name}_asked": result.asked for name, result in found.items()},
    )
    atomic_write(folder / "README.md", text)
    return figures
