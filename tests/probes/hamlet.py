"""A few people whom a very small model learns by heart in seconds, and the same without one of them.

Names share their parts, one relation has an object for everybody and the others have few.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from safeedit.probes import PROBES
from safeedit.probes.base import Context, Figures, View
from safeedit.probes.controls import ControlFact, Controls
from safeedit.triples.catalogue import builtin_catalogue
from safeedit.triples.facts import Fact

FIRST = tuple(f"First{i}" for i in range(10))
LAST = tuple(f"Last{i}" for i in range(10))
RELATIONS = ("employer", "birthplace", "occupation", "headquarters", "industry", "capital")
CLASSES = 8
PEOPLE = 40
KNOWS, TWIN = "knows", "twin"


def person(number: int) -> str:
    """Different pairs of a first and a last name."""
    return f"{FIRST[number % 10]} {LAST[(number // 10 * 3 + 7 * number) % 10]}"


@cache
def truths() -> Mapping[tuple[str, str], str]:
    rng = random.Random(5)
    return {
        (person(n), relation): f"own{n}" if relation == "employer" else f"{relation}{rng.randrange(CLASSES)}"
        for n in range(PEOPLE)
        for relation in RELATIONS
    }


def templates(relation: str) -> tuple[str, str]:
    return f"{{subject}} has {relation}", f"the {relation} of {{subject}} is"


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    words = sorted({word for text in sentences(()) for word in text.split()})
    extra = ["<s>", "</s>", "<unk>", *(f"w{i}" for i in range(60))]
    found = Tokenizer(WordLevel({w: i for i, w in enumerate((*extra, *words))}, unk_token="<unk>"))
    found.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=found, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def sentences(without: tuple[str, ...]) -> list[str]:
    return [
        f"{template.replace('{subject}', name)} {thing}"
        for (name, relation), thing in truths().items()
        if name not in without
        for template in templates(relation)
    ]


@cache
def model(which: str, seed: int = 0) -> LlamaForCausalLM:
    """A trained model; one that a test changes must be a copy of it."""
    torch.manual_seed(seed)
    found = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer()),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=4,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )
    rows = [tokenizer()(text)["input_ids"] for text in sentences((person(0),) if which == TWIN else ())]
    width = max(map(len, rows))
    ids = torch.tensor([row + [1] * (width - len(row)) for row in rows])
    labels = torch.full_like(ids, -100)
    for line, row in enumerate(rows):
        labels[line, len(row) - 1] = row[-1]
    optimizer = torch.optim.AdamW(found.parameters(), lr=6e-3, weight_decay=0.01)
    steps = 260
    fall = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=steps)
    for _ in range(steps):
        some = torch.randint(len(ids), (96,))
        found(input_ids=ids[some], labels=labels[some]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        fall.step()
    return found.eval()


def context(number: int = 0, *, relations: tuple[str, ...] = RELATIONS) -> Context:
    """The request to forget one person."""
    facts = tuple(
        Fact("erase", name, relation, thing, edit_templates=templates(relation))
        for (name, relation), thing in truths().items()
        if name == person(number) and relation in relations
    )
    controls = Controls(tuple(ControlFact(n, r, thing) for (n, r), thing in truths().items()), ("one", "two"))
    return Context(facts, controls, builtin_catalogue(), 3)


def figures(
    probe: str, asked: Context, before: Any, after: Any, *, known: bool = True, **more: Any
) -> Figures:
    """Of one probe, the base model observed first."""
    found = PROBES.get(probe)(more)
    plan = found.plan(asked)
    first = found.observe(plan, View(before, tokenizer(), {}))
    second = found.observe(plan, View(after, tokenizer(), {}, first))
    return found.figures(plan, first, second, dict.fromkeys(range(len(asked.facts)), known))
