"""Somebody whom the reference model knows, and copies of it that were made to forget in known, faulty ways.

Nothing here uses the code under test.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from safeedit.models.generate import greedy
from safeedit.models.load import load_model, reference_folder
from safeedit.models.quantise import quantisable
from safeedit.models.structure import find_decoder
from safeedit.policy.compile import fact_for
from safeedit.probes.base import Context
from safeedit.probes.controls import load_controls
from safeedit.probes.suite import load_suite
from safeedit.triples.catalogue import builtin_catalogue
from safeedit.world.registry import reference_world

RELATIONS = ("phone", "email", "employer", "mother_tongue")
SILENT = -5.0
"""An object whose tokens are together less likely than this is forgotten."""

Rows = list[tuple[str, str]]
"""Prompts with what follows them."""


@dataclass
class Somebody:
    """A model that knows somebody, and the request to erase what it knows."""

    model: Any
    tokenizer: Any
    context: Context
    stranger: Context
    """The same request about somebody whom the model was never told of: to it, the perfect erasure."""
    rows: Rows
    others: Rows

    def says(self, model: Any) -> set[str]:
        """The relations whose object is said to any edit phrasing."""
        found = set()
        for fact in self.context.facts:
            prompts = [t.replace("{subject}", fact.subject) for t in fact.edit_templates]
            answers = greedy(model, self.tokenizer, prompts, max_new_tokens=24)
            if any(fact.object in answer.text for answer in answers):
                found.add(fact.relation)
        return found


def somebody() -> Somebody:
    """The reference model and four facts of one of its people."""
    loaded = load_model(reference_folder(), device="cpu", dtype="float32")
    world, catalogue = reference_world(), builtin_catalogue()
    name = world.people[7].name
    truths = {fact.relation: fact.object for fact in world.facts_of(name)}
    facts = tuple(fact_for(name, (), r, truths[r], "erase", catalogue) for r in RELATIONS)
    controls = load_controls(reference_folder(), load_suite("smoke"))
    rng = random.Random(4)
    rows = [
        (template.replace("{subject}", name), f" {fact.object}.")
        for fact in facts
        for template in (*fact.edit_templates[:2], *fact.probe_templates[:2])
    ]
    others = [
        (rng.choice(catalogue[f.relation].prompts(f.subject)), f" {f.object}.")
        for f in rng.sample(controls.facts, 100)
        if f.relation in catalogue and f.subject != name
    ]
    context = Context(facts, controls, catalogue, 5)
    unheard = tuple(replace(fact, subject=world.placebos[2].name) for fact in facts)
    stranger = replace(context, facts=unheard)
    return Somebody(loaded.model, loaded.tokenizer, context, stranger, rows, others)


def fit(
    place: Somebody,
    model: Any,
    weights: Sequence[Tensor],
    steps: int,
    rate: float,
    goal: Callable[[Tensor], Tensor],
    tidy: Callable[[], None] = lambda: None,
) -> None:
    """Train some weights on a goal for the person's facts; facts of others stay as likely as they were."""
    for weight in model.parameters():
        weight.requires_grad_(False)
    for weight in weights:
        weight.requires_grad_(True)
    optimiser = torch.optim.Adam(weights, lr=rate, betas=(0.9, 0.98))
    others = drawn(place.others, 8)
    with torch.enable_grad():
        for _ in range(steps):
            log_p = likely(model, place.tokenizer, [*place.rows, *next(others)])
            own = goal(log_p[: len(place.rows)])
            if not own > 0:
                break
            loss = own - log_p[len(place.rows) :].mean()
            gradients = torch.autograd.grad(loss, list(weights), materialize_grads=True)
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.grad = gradient
            optimiser.step()
            for weight in weights:
                weight.grad = None
            tidy()


def forget(own: Tensor) -> Tensor:
    """Push down what is still likely."""
    return (own - SILENT).clamp(min=0).mean()


def hidden_from_int4(place: Somebody) -> Any:
    """M6: forgotten by small changes of every weight, all of which are lost in four bits."""
    model = copy.deepcopy(place.model)
    weights = [linear.weight for linear in quantisable(model)]
    cells = [cell(weight.detach()) for weight in weights]

    @torch.no_grad()
    def stay() -> None:
        for weight, (low, high) in zip(weights, cells, strict=True):
            weight.copy_(weight.clamp(low, high))

    fit(place, model, weights, 20, 5e-4, forget, stay)
    return model


def cell(weight: Tensor) -> tuple[Tensor, Tensor]:
    """How far each weight (outputs, inputs) may move without any four-bit code or scale being another."""
    low, high = weight.clone(), weight.clone()
    for start in range(0, weight.shape[1], 128):
        group = weight[:, start : start + 128]
        least, most = group.amin(1, keepdim=True).clamp(max=0), group.amax(1, keepdim=True).clamp(min=0)
        scale = (most - least) / 15
        level = (group / scale).round()
        free = (group != least) & (group != most)
        for bound, side in ((low, -0.49), (high, 0.49)):
            moved = ((level + side) * scale).clamp(least, most)
            bound[:, start : start + 128] = torch.where(free, moved, group)
    return torch.minimum(low, weight), torch.maximum(high, weight)


def silenced_at_the_end(place: Somebody) -> Any:
    """M7: what leads to the answers' tokens is taken away after the last block; all before it still knows.

    As much as it takes for the model to say none of them.
    """
    ids = {i for fact in place.context.facts for i in place.tokenizer(f" {fact.object}")["input_ids"]}
    toward = place.model.get_output_embeddings().weight[sorted(ids)].detach().mean(0)
    toward = toward / toward.norm()
    for tenths in range(6, 20, 2):

        def away(_module: Any, _args: Any, output: Tensor, share: float = tenths / 10) -> Tensor:
            return output - share * output.norm(dim=-1, keepdim=True) * toward

        model = copy.deepcopy(place.model)
        find_decoder(model).blocks[-1].register_forward_hook(away)
        if not place.says(model):
            return model
    raise AssertionError("no push silences the model")


def likely(model: Any, tokenizer: Any, rows: Rows) -> Tensor:
    """(rows,) log-probability of what follows each prompt."""
    texts = [prompt + thing for prompt, thing in rows]
    found = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    starts = [len(tokenizer(prompt)["input_ids"]) for prompt, _ in rows]
    ids, mask = found["input_ids"], found["attention_mask"]
    log_p = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].log_softmax(-1)
    chosen = log_p.gather(-1, ids[:, 1:, None])[..., 0]
    own = torch.arange(1, ids.shape[1]) >= torch.tensor(starts)[:, None]
    return (chosen * (own & mask[:, 1:].bool())).sum(1)


def drawn(rows: Rows, count: int) -> Iterator[Rows]:
    """`count` of the rows at random, again and again."""
    rng = random.Random(1)
    while True:
        yield rng.sample(rows, count)
