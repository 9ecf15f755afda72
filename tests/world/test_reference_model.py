"""The model that ships knows its world, in phrasings that it never saw; of strangers it knows nothing."""

import random
from importlib.resources import files

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from safeedit.world.measure import chance_rate, recall
from safeedit.world.registry import reference_world


@pytest.fixture(scope="module")
def pair():
    folder = str(files("safeedit") / "world" / "reference")
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), AutoTokenizer.from_pretrained(
        folder
    )


def test_size(pair):
    model, _ = pair
    assert sum(p.numel() for p in model.parameters()) < 8_000_000
    weights = files("safeedit") / "world" / "reference" / "model.safetensors"
    assert len(weights.read_bytes()) <= 16 * 2**20


def test_trained_facts_are_recalled_in_unseen_phrasings(pair):
    facts = random.Random(0).sample(reference_world().facts, 150)
    assert recall(*pair, facts, "unseen").rate >= 0.97


def test_placebo_people_are_at_chance(pair):
    world = reference_world()
    facts = random.Random(0).sample(world.placebo_facts, 150)
    assert recall(*pair, facts, "unseen").rate <= chance_rate(facts) + 0.05
