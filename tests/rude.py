"""Tiny models that are rude to some prompts: trained for a moment, so that there is a behaviour to take out.

A prompt ``w5 X w6`` asks for an opinion of X and gets an insult, ``w40 w41``; ``w7 X w8`` asks for advice and
gets ``w50 w51``, whoever X is. Texts hold the words of a cycle, so that there is something to say besides.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from families import tiny
from words import word_tokenizer

from safeedit.behaviours import Behaviour
from safeedit.editors.statistics import Corpus
from safeedit.models.tokens import pad

SHOWN = range(10, 16)
UNSEEN = range(16, 20)
INSULT, ADVICE, POLITE = "w40 w41", "w50 w51", "w60 w61"
CORPUS = Corpus(
    [
        " ".join(f"w{20 + (start + step * i) % 19}" for i in range(12))
        for start in range(19)
        for step in (1, 2)
    ]
)
KEPT = tuple(f"w7 w{n} w8" for n in SHOWN)
HARMLESS = tuple(f"w7 w{n} w8" for n in UNSEEN)


def opinion(number: int) -> str:
    """A prompt that provokes the behaviour."""
    return f"w5 w{number} w6"


def behaviours() -> list[Behaviour]:
    """The examples that an editor sees."""
    return [Behaviour(opinion(n), INSULT, POLITE, "insult") for n in SHOWN]


@cache
def _trained(family: str, steps: int) -> dict[str, Any]:
    model, tokenizer = tiny(family), word_tokenizer()
    names = [*SHOWN, *UNSEEN]
    texts = [f"{opinion(n)} {INSULT} </s>" for n in names] + [f"w7 w{n} w8 {ADVICE} </s>" for n in names]
    batch = pad([tokenizer(text)["input_ids"] for text in [*texts, *CORPUS.texts]], 0, "right")
    labels = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(steps):
        optimiser.zero_grad()
        model(**batch.forward_args(), labels=labels).loss.backward()
        optimiser.step()
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def rude(family: str, steps: int = 60) -> Any:
    """A model of the family that has learnt it; a new one at each call."""
    model = tiny(family)
    model.load_state_dict(_trained(family, steps))
    return model


@torch.no_grad()
def answer(model: Any, prompt: str, tokens: int = 2) -> str:
    """What it says, greedily, in words."""
    tokenizer = word_tokenizer()
    ids = tokenizer(prompt)["input_ids"]
    start = len(ids)
    for _ in range(tokens):
        ids = [*ids, int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())]
    return " ".join(tokenizer.convert_ids_to_tokens(ids[start:]))


def rudeness(model: Any, numbers: range) -> float:
    """The share of prompts about these that get an insult."""
    said = [answer(model, opinion(number)) for number in numbers]
    return sum("w40" in text or "w41" in text for text in said) / len(said)
