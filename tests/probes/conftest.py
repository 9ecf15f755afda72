"""A town, a scripted model of it, and the standard suite without the probes that need a real model."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence

import pytest
from scripted_town import EMPLOYERS, FIRST, LAST, Say, Scripted, Town

from safeedit.models import generate
from safeedit.models.generate import Generation
from safeedit.probes.suite import Suite, load_suite
from safeedit.triples.catalogue import builtin_catalogue

NEED_A_MODEL = ("forgetting.lens", "utility.perplexity", "utility.kl")


@pytest.fixture(scope="session")
def town() -> Town:
    rng = random.Random(7)
    catalogue = builtin_catalogue()
    found = Town()
    for number, name in enumerate(f"{first} {last}" for first in FIRST for last in LAST):
        for relation in ("mother_tongue", "instrument"):
            found.facts[name, relation] = rng.choice(catalogue[relation].objects)
        found.facts[name, "employer"] = rng.choice(EMPLOYERS)
        found.facts[name, "phone"] = f"{rng.randrange(100, 1000)}-{number:03d}"
    return found


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> type[Scripted]:
    """Generation calls the model with each prompt instead of running it."""

    def greedy(model: Say, tokenizer: object, prompts: Sequence[str], **_: object) -> list[Generation]:
        return [Generation(model(prompt), False) for prompt in prompts]

    monkeypatch.setattr(generate, "greedy", greedy)
    return Scripted


@pytest.fixture(scope="session")
def asking_suite() -> Suite:
    suite = load_suite("standard")
    asking = tuple(entry for entry in suite.entries if entry.probe.id not in NEED_A_MODEL)
    return dataclasses.replace(suite, entries=asking)
