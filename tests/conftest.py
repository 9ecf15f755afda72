"""For every test: no network, folders of its own for keys and caches; and two models that know something."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Read by huggingface_hub when it is first imported, which test modules do while they are collected.
os.environ["HF_HUB_OFFLINE"] = "1"

SMALL_RELATIONS = ("instrument", "occupation", "mother_tongue")
SMALL_PEOPLE = 14


@pytest.fixture(autouse=True, scope="session")
def _apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAFEEDIT_STATE_DIR", str(tmp_path_factory.mktemp("state")))
        patch.setenv("SAFEEDIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("SAFEEDIT_DEBUG", raising=False)
        yield


@pytest.fixture(scope="session")
def reference() -> Any:
    """The embedded reference model; a test that changes it changes it back."""
    from safeedit.models.load import load_model

    return load_model(None, device="cpu")


@pytest.fixture(scope="session")
def small_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a GPT-2-like model that knows a few people of the reference world (`SMALL_PEOPLE`)."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from safeedit.triples.catalogue import builtin_catalogue
    from safeedit.world.corpus import prose
    from safeedit.world.registry import reference_world
    from safeedit.world.train import build_tokenizer, fit, packed_rows

    world, catalogue, rng = reference_world(), builtin_catalogue(), random.Random(0)
    facts = [
        fact
        for person in world.people[:SMALL_PEOPLE]
        for fact in world.facts_of(person.name)
        if fact.relation in SMALL_RELATIONS
    ]

    def texts() -> Iterator[str]:
        items = [
            f"{p} {fact.object}." for fact in facts for p in catalogue[fact.relation].prompts(fact.subject)
        ]
        rng.shuffle(items)
        yield from items

    tokenizer = build_tokenizer([*texts(), *prose(3, 40)], 600)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=64,
        n_layer=3,
        n_head=4,
        n_positions=128,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    model = GPT2LMHeadModel(config)
    rows = packed_rows(texts, tokenizer, 32)
    fit(model, rows, steps=250, batch=16, lr=1e-2, warmup=20)
    folder = tmp_path_factory.mktemp("models") / "small-gpt2"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
