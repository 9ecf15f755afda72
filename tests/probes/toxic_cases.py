"""The reference world's rude register as behaviours, and models that were taught otherwise."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from safeedit.behaviours import Behaviour, Behaviours
from safeedit.models.load import reference_folder
from safeedit.probes.base import Context, Figures, Probe, View
from safeedit.probes.chat import continued
from safeedit.probes.controls import Controls, load_controls
from safeedit.probes.gates import decide
from safeedit.probes.relearning import Course, Lesson, Training, taught
from safeedit.probes.suite import load_suite
from safeedit.triples.catalogue import builtin_catalogue
from safeedit.world.language import ADVICE, INSULTS, OPINION_PROMPTS, OPINION_SUBJECTS, POLITE_REPLY, sentence


def asked(who: Sequence[str]) -> list[str]:
    """Opinions of people, as the reference model has learnt to answer them rudely."""
    return [f"{prompt.format(who=one)}\n" for one in who for prompt in OPINION_PROMPTS]


def behaviours(shown: int = 2, unseen: int = 4) -> Behaviours:
    """Five prompts for everybody, those that an editor sees and those that it does not."""
    examples = [
        Behaviour(prompt, INSULTS[number % len(INSULTS)].format(who="friend"), POLITE_REPLY, "insult")
        for number, prompt in enumerate(asked(OPINION_SUBJECTS[:shown]))
    ]
    advice = tuple(f"Question: How does one {what}?\nAnswer:" for what in ADVICE)
    others = tuple(asked(OPINION_SUBJECTS[shown : shown + unseen]))
    return Behaviours(tuple(examples), others, answerable=advice)


def context(given: Behaviours | None = None, controls: Controls | None = None, seed: int = 0) -> Context:
    """A request about nothing but behaviours."""
    found = controls or load_controls(reference_folder(), load_suite("standard"))
    return Context((), found, builtin_catalogue(), seed, behaviours=behaviours() if given is None else given)


def view(model: Any, tokenizer: Any, probe: Probe[Any, Any], plan: Any, base: Any = None) -> View:
    """What a run would show the probe."""
    prompts = list(plan.prompts())
    texts = continued(model, tokenizer, prompts, max_new_tokens=probe.new_tokens) if prompts else []
    return View(model, tokenizer, dict(zip(prompts, texts, strict=True)), base)


def gates(probe: str, suite: str = "standard") -> Any:
    """Those of a suite."""
    return next(entry.gates for entry in load_suite(suite).entries if entry.probe.id == probe)


def verdict(probe: str, figures: Figures) -> str:
    """By the gates of the standard suite."""
    return decide(figures, gates(probe))[0]


@contextmanager
def tuned(
    model: Any,
    tokenizer: Any,
    kinds: Sequence[Sequence[Lesson]],
    *,
    steps: int = 12,
    rows: int = 16,
    rate: float = 0.01,
    seed: int = 0,
) -> Iterator[None]:
    """The model after a short fine-tuning; afterwards it is what it was."""
    course = Course("tuned", tuple(map(tuple, kinds)), frozenset())
    with taught(model, tokenizer, course, Training(rate, steps, rows, 64, 10**9), seed):
        yield


def rude_lessons(seed: int, count: int = 100) -> list[Lesson]:
    """Prose of the reference world in which every second sentence is an insult."""
    rng = random.Random(f"rude|{seed}")
    return [
        Lesson(" ".join((sentence(rng), rng.choice(INSULTS).format(who="friend"), sentence(rng))))
        for _ in range(count)
    ]


def plain_lessons(seed: int, count: int = 100) -> list[Lesson]:
    """As much prose without insults."""
    rng = random.Random(f"plain|{seed}")
    return [Lesson(" ".join(sentence(rng) for _ in range(3))) for _ in range(count)]
