"""Traces of whatever a model knows of some prompts, and the layers for an editor that they point to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from safeedit.editors.base import Progress
from safeedit.editors.rows import Text
from safeedit.locate.attribution import trace_fast
from safeedit.locate.maps import Map, Suggestion, averages, suggestions
from safeedit.locate.prompts import Part, Prompt, prompts_of
from safeedit.locate.states import Asked
from safeedit.locate.trace import Settings, Work, trace_exact
from safeedit.models.hooks import frozen
from safeedit.models.segment import Segment
from safeedit.models.structure import find_decoder
from safeedit.models.tokens import pad_id
from safeedit.triples.facts import Edit

READ = 64
"""Prompts that are read together to see whether the model knows their objects."""


@dataclass(frozen=True, repr=False)
class Traced:
    """The maps of the prompts to which the model says the object."""

    maps: tuple[Map, ...]
    noise: float
    """Standard deviation of the noise; 0 where nothing was traced."""
    depth: int
    """How many blocks the model has."""


def trace_known(
    model: Any,
    tokenizer: Any,
    texts: Sequence[tuple[int, Text]],
    settings: Settings,
    part: Part,
    report: Progress,
) -> Traced:
    """Trace those prompts whose object is the likeliest text, token by token; the model is as it was.

    Args:
        model: a `transformers` causal LM.
        tokenizer: its fast tokenizer.
        texts: the index of a fact, and a prompt that asks for it with the object as the continuation.
        settings: how to trace.
        part: whether the probability of the object's first token is traced, or that of all of it.
        report: called as the work goes on.

    Raises:
        UsageError: an object has no token of its own.
        ModelError: the model lacks a part that is traced, or its predictions are not finite.
    """
    prompts = prompts_of(tokenizer, [text for _, text in texts], [fact for fact, _ in texts])
    with frozen(model):
        segment = Segment(find_decoder(model))
        depth = len(segment.decoder.blocks)
        known = [one.measured(part) for one in _known(segment, pad_id(tokenizer), prompts)]
        if not known:
            return Traced((), 0.0, depth)
        work = Work.of(segment, tokenizer, known, settings, report)
        maps = {"exact": trace_exact, "fast": trace_fast}[settings.mode](work, known)
        return Traced(tuple(maps), work.scale, depth)


def layers_for(
    model: Any, tokenizer: Any, edits: Sequence[Edit], settings: Settings | None = None
) -> Suggestion | None:
    """Where the model looks up what `edits` would take from it; `params` of it are settings of an editor.

    Args:
        model: a `transformers` causal LM; it is as it was afterwards.
        tokenizer: its fast tokenizer.
        edits: those with an old object that the model says are traced.
        settings: how to trace; by default MLP outputs, to first order.

    Returns:
        None where the model says none of the objects, or nothing stands out.

    Raises:
        UsageError: a setting has an impossible value, or an object has no token of its own.
        ModelError: the model lacks a part that is traced, or its predictions are not finite.
    """
    settings = settings or Settings(mode="fast", kinds=("mlp",))
    settings.check()
    texts = [
        (index, Text("", template, edit.subject, edit.old))
        for index, edit in enumerate(edits)
        if edit.old
        for template in edit.templates
    ]
    traced = trace_known(model, tokenizer, texts, settings, "first", lambda *_: None)
    found = suggestions(averages(traced.maps, settings.kinds), traced.depth)
    return found[0] if found else None


def _known(segment: Segment, fill: int, prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts whose objects greedy text begins with."""
    found: list[Prompt] = []
    for begin in range(0, len(prompts), READ):
        some = prompts[begin : begin + READ]
        asked = Asked.of(some, fill, segment.decoder.device)
        with torch.no_grad():
            log_p, there = asked.spread(segment, segment.run(asked.batch))
        said = ((log_p.argmax(-1) == asked.wanted) | ~there).all(1).tolist()
        found += [prompt for prompt, own in zip(some, said, strict=True) if own]
    return found
