"""Where a model holds what it says of a subject: a small causal trace that chooses the site of an edit.

In large models a subject's facts are looked up at its last token (ROME, arXiv 2202.05262). Not every
model does so; where it does not, a value put there changes little, or changes other things. The trace
asks the model itself: a prompt about an invented name is given the state of the true subject's last
token, above the layers that would be edited, and what the model then says tells whether the fact
came through there. Where no edit has an object that the model says (insertions), facts of others that
it turns out to know are traced in their place (`familiar`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from safeedit.editors.familiar import familiar_facts
from safeedit.editors.rows import Site, Text, rows_of
from safeedit.models.segment import Segment
from safeedit.models.tokens import Batch, pad, pad_id
from safeedit.triples.facts import Edit
from safeedit.triples.placebos import placebo_kind, placebo_names

MOST = 32
"""Prompts that are traced, at most."""
SEED = 4241
CARRIES = 0.15
"""The subject's last token is the site if its state alone brings this share of the probability, or more.

Measured: 0.29 to 0.33 for 10 and 50 facts of a model where editing there works, at most 0.06 for a
model where it harms the subject's other facts. `site` can be set by hand; the trace is recorded with
the patch.
"""
SURE = 0.5
"""The probability of an object's first token from which on a fact of others counts as known."""
ENOUGH = 8
"""Known facts of others without which nothing is concluded from them."""
PHRASINGS = 3
"""With fewer phrasings of a fact than this, the subject's last token is the site whatever the trace says:
a value at the end of one prompt says nothing of another."""


@dataclass(frozen=True)
class Trace:
    """What the trace saw."""

    site: Site
    carried: float | None
    """Share of the objects' probability that the state at the subject's last token brings, 0 to 1; None
    where nothing was traced."""


@torch.no_grad()
def trace_site(segment: Segment, tokenizer: Any, edits: Sequence[Edit], layer: int) -> Trace:
    """Choose where to put values, from at most `MOST` prompts of the edits.

    Args:
        segment: the model.
        tokenizer: its tokenizer.
        edits: those with an old object are traced; without any, facts of others that the model knows; without
            enough of those, the subject's last token is chosen.
        layer: the last layer that an edit at the subject would change.
    """
    # Of a fact that is edited under several names the first name speaks, which is the subject's own.
    facts = {(edit.relation, edit.old or edit.target, edit.templates): edit for edit in reversed(edits)}
    asked = [edit for edit in reversed(facts.values()) if edit.templates]
    known = [edit for edit in asked if edit.old]
    if not asked or sum(len(edit.templates) for edit in known or asked) < PHRASINGS * len(known or asked):
        return Trace("subject", None)
    prompts = [(edit, template) for edit in known for template in edit.templates]
    prompts = prompts[:: -(-len(prompts) // MOST)] if known else _familiar(segment, tokenizer, layer)
    if not prompts:
        return Trace("subject", None)
    told = _Asked.of(segment, tokenizer, _texts(prompts), layer)
    held = _Asked.of(segment, tokenizer, _texts(prompts, invented=True), layer)
    given = held.hidden.clone()
    given[held.every, held.pivots] = told.hidden[told.every, told.pivots]
    full, none = (float(one.probability(one.hidden).mean()) for one in (told, held))
    carried = (float(held.probability(given).mean()) - none) / max(full - none, 1e-6)
    carried = min(max(carried, 0.0), 1.0)
    return Trace("subject" if carried >= CARRIES else "prompt", carried)


def _texts(prompts: Sequence[tuple[Edit, str]], invented: bool = False) -> list[Text]:
    """The prompts with their objects, about their own subjects or about nobody."""
    names = [edit.subject for edit, _ in prompts]
    if invented:
        kinds = {edit.about: placebo_kind(edit.about) for edit, _ in prompts}
        some = {about: placebo_names(kind, MOST, SEED) for about, kind in kinds.items()}
        names = [some[edit.about][i % MOST] for i, (edit, _) in enumerate(prompts)]
    return [
        Text("", template, name, edit.old or "")
        for name, (edit, template) in zip(names, prompts, strict=True)
    ]


def _familiar(segment: Segment, tokenizer: Any, layer: int) -> list[tuple[Edit, str]]:
    """Prompts about others whose objects the model says, and not of just anybody; none if they are few."""
    found = [(edit, edit.templates[0]) for edit in familiar_facts()]
    for invented in (False, True):
        if len(found) < ENOUGH:
            return []
        asked = _Asked.of(segment, tokenizer, _texts(found, invented), layer)
        says = (asked.probability(asked.hidden) >= SURE).tolist()
        found = [prompt for prompt, said in zip(found, says, strict=True) if said != invented]
    return found[:: -(-len(found) // MOST)] if len(found) >= ENOUGH else []


@dataclass(frozen=True)
class _Asked:
    """Prompts with their objects, run up to a layer."""

    segment: Segment
    layer: int
    batch: Batch
    hidden: Tensor
    """(rows, columns, hidden) after that layer."""
    every: Tensor
    pivots: Tensor
    """(rows,) the subjects' last tokens."""
    spots: Tensor
    wanted: Tensor
    """(rows,) the objects' first tokens, and where they are predicted."""

    @staticmethod
    def of(segment: Segment, tokenizer: Any, texts: Sequence[Text], layer: int) -> _Asked:
        rows = rows_of(tokenizer, texts)
        device = segment.decoder.device
        batch = pad([row.ids for row in rows], pad_id(tokenizer), "right").to(device)
        return _Asked(
            segment,
            layer,
            batch,
            segment.run(batch, stop=layer + 1),
            torch.arange(len(rows), device=device),
            torch.tensor([row.pivot for row in rows], device=device),
            torch.tensor([row.spots[0] for row in rows], device=device),
            torch.tensor([row.wanted[0] for row in rows], device=device),
        )

    def probability(self, hidden: Tensor) -> Tensor:
        """(rows,) probability of the objects' first tokens, going on from `hidden`."""
        final = self.segment.run(self.batch, start=self.layer + 1, hidden=hidden)
        p = self.segment.decoder.logits(final[self.every, self.spots]).float().softmax(-1)
        found: Tensor = p[self.every, self.wanted]
        return found
