"""A town, a scripted model of it, and the standard suite without the probes that need a real model."""

from __future__ import annotations

import dataclasses
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from scripted_town import EMPLOYERS, FIRST, LAST, Say, Scripted, Town
from village import Village
from village import trained as trained_village
from village import village as make_village

from safeedit.models import generate
from safeedit.models.generate import Generation
from safeedit.probes.suite import Suite, load_suite
from safeedit.triples.catalogue import builtin_catalogue

NEED_A_MODEL = (
    "forgetting.lens",
    "attack.",
    "behaviour.",
    "membership.",
    "toxicity.",
    "utility.perplexity",
    "utility.kl",
)


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
    asking = tuple(entry for entry in suite.entries if not entry.probe.id.startswith(NEED_A_MODEL))
    return dataclasses.replace(suite, entries=asking)


@pytest.fixture(scope="session")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where trained models are kept: for one test session, shared by all its workers."""
    own = tmp_path_factory.getbasetemp()
    return (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "villages"


@pytest.fixture(scope="session")
def village() -> Village:
    return make_village()


@pytest.fixture(scope="session")
def knowing(village: Village, trainings: Path) -> tuple[Any, Any]:
    """Model and tokenizer that know everybody; a test that changes the model changes it back."""
    return trained_village(village, 0, cache=trainings)


@pytest.fixture(scope="session")
def twin(village: Village, trainings: Path) -> tuple[Any, Any]:
    """The same, but it never saw `village.person`, neither facts nor name."""
    return trained_village(village, 0, forget=village.person, cache=trainings)
