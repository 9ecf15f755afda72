"""What the reference model recalls of the registry, and what a guess would get right."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from safeedit.models.generate import greedy
from safeedit.triples.catalogue import SUBJECT
from safeedit.world.corpus import TWO_HOP, phrasings, trains_two_hop
from safeedit.world.registry import World, WorldFact, reference_world


@dataclass(frozen=True)
class Recall:
    """How many prompts were answered with the fact's object."""

    hits: int
    asked: int

    @property
    def rate(self) -> float:
        """Share of prompts, 0 to 1."""
        return self.hits / self.asked


def recall(
    model: Any,
    tokenizer: Any,
    facts: Sequence[WorldFact],
    which: Literal["seen", "unseen"],
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Recall:
    """Ask for each fact in one of its phrasings that training showed, or never did.

    Answers are greedy; one is right if it begins with the object.
    """
    rng = random.Random(seed)
    prompts = [rng.choice(getattr(phrasings(f), which)).replace(SUBJECT, f.subject) for f in facts]
    return _begins(model, tokenizer, prompts, [f.object for f in facts], progress)


def two_hop_recall(model: Any, tokenizer: Any, world: World, trained: bool, limit: int = 300) -> Recall:
    """Two-hop questions about people whose two-hop sentences training showed, or never did."""
    hops = [hop for hop in world.two_hop() if trains_two_hop(hop[0]) == trained]
    hops = random.Random(0).sample(hops, min(limit, len(hops)))
    prompts = [TWO_HOP[bridge, beyond].replace(SUBJECT, person) for person, bridge, beyond, _ in hops]
    return _begins(model, tokenizer, prompts, [answer for *_, answer in hops])


def chance_rate(facts: Sequence[WorldFact]) -> float:
    """What always saying a relation's commonest object would get right, averaged over `facts`."""
    counts: dict[str, Counter[str]] = {}
    for fact in reference_world().facts:
        counts.setdefault(fact.relation, Counter())[fact.object] += 1
    best = {relation: max(c.values()) / c.total() for relation, c in counts.items()}
    return sum(best[fact.relation] for fact in facts) / len(facts)


def _begins(
    model: Any,
    tokenizer: Any,
    prompts: list[str],
    objects: list[str],
    progress: Callable[[int, int], None] | None = None,
) -> Recall:
    texts = greedy(model, tokenizer, prompts, max_new_tokens=32, progress=progress)
    hits = sum(text.text.strip().startswith(o) for text, o in zip(texts, objects, strict=True))
    return Recall(hits, len(prompts))
