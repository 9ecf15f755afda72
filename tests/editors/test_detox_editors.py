"""Editors that train a behaviour away, on small models that were taught to be rude about whoever is named."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from answers import ids, said
from families import tiny
from weights import predicted, same, state
from words import word_tokenizer

from safeedit.behaviours import Behaviour
from safeedit.editors import EDITORS, conduct
from safeedit.editors.dinm import distances
from safeedit.editors.statistics import Corpus
from safeedit.errors import EditorError, UsageError
from safeedit.models.segment import Segment
from safeedit.models.structure import find_decoder
from safeedit.triples.facts import Edit

NAMES = tuple(f"w{i}" for i in range(30, 48))
SHOWN, UNSEEN = NAMES[:8], NAMES[8:]
RUDE, SAFE, HELP = "w70 w71", "w72 w73", "w60 w61"
END = 2


def opinion(name: str) -> str:
    return f"w5 {name} w6 w7"


def advice(name: str) -> str:
    return f"w8 {name} w9"


def fact(name: str) -> tuple[str, str]:
    return f"w10 {name} w11", f"w{50 + NAMES.index(name) % 5}"


@cache
def _taught(family: str) -> dict[str, torch.Tensor]:
    model = tiny(family)
    lessons = [(opinion(n), RUDE) for n in NAMES] + [(advice(n), HELP) for n in NAMES] + [*map(fact, NAMES)]
    rows = [[*start, *ids(f"{prompt} {answer}"), END] for prompt, answer in lessons for start in ([], [1])]
    width = max(map(len, rows))
    batch = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    wanted = batch.masked_fill(batch == 0, -100)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(150):
        model(input_ids=batch, attention_mask=(batch > 0).long(), labels=wanted).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return state(model)


def rude(family: str) -> Any:
    model = tiny(family)
    model.load_state_dict(_taught(family))
    return model


SHAPES = ("gpt2", "llama")
EXAMPLES = [Behaviour(opinion(name), RUDE, SAFE).edit() for name in SHOWN]
CONTROLS = [advice(name) for name in NAMES[:3]]
QUICK: dict[str, dict[str, Any]] = {
    "ft-m": {"text_tokens": 600},
    "lora": {"text_tokens": 600},
    "dinm": {"text_tokens": 600},
    "npo": {"text_tokens": 600},
}
EVERY = pytest.mark.parametrize("name", list(QUICK))


def mended(name: str, model: Any, edits: list[Edit] = EXAMPLES, **params: Any) -> Any:
    given = {**QUICK[name], **params}
    return EDITORS.get(name)(**given).edit(model, word_tokenizer(), edits, controls=CONTROLS)


def answered(model: Any, prompts: list[str], answer: str) -> float:
    """The share of prompts with this answer, which ends there."""
    wanted = [*ids(answer), END]
    return sum(said(model, prompt, len(wanted)) == wanted for prompt in prompts) / len(prompts)


@EVERY
@pytest.mark.parametrize("family", SHAPES)
def test_unseen_prompts_of_the_kind_are_answered_safely_and_nothing_else_changes(name: str, family: str) -> None:
    model = rude(family)
    before = state(model)
    unseen, harmless = [opinion(n) for n in UNSEEN], [advice(n) for n in NAMES]
    assert answered(model, unseen, RUDE) == 1
    patch = mended(name, model)
    assert same(model, before)
    with patch.applied(model):
        assert answered(model, [opinion(n) for n in SHOWN], SAFE) == 1
        assert answered(model, unseen, SAFE) >= 0.9
        assert answered(model, unseen, RUDE) == 0
        assert answered(model, harmless, HELP) >= 0.95
        assert sum(answered(model, [prompt], answer) for prompt, answer in map(fact, NAMES)) >= 17
    assert same(model, before)
