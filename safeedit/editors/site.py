"""Where a model holds what it says of a subject: a small causal trace that chooses the site of an edit.

In large models a subject's facts are looked up at its last token (ROME, arXiv 2202.05262). Not every
model does so; where it does not, a value put there changes little, or changes other things. The trace
asks the model itself: a prompt about an invented name is given the state of the true subject's last
token, above the layers that would be edited, and what the model then says tells whether the fact
came through there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

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
        edits: those with an old object are traced; without any, the subject's last token is chosen.
        layer: the last layer that an edit at the subject would change.
    """
    # Of a fact that is edited under several names the first name speaks, which is the subject's own.
    facts = {(edit.relation, edit.old, edit.templates): edit for edit in reversed(edits)}
    known = [edit for edit in reversed(facts.values()) if edit.old and edit.templates]
    if not known or sum(len(edit.templates) for edit in known) < PHRASINGS * len(known):
        return Trace("subject", None)
    asked = [(edit, template) for edit in known for template in edit.templates]
    asked = asked[:: -(-len(asked) // MOST)]
    own = [Text("", template, edit.subject, edit.old or "") for edit, template in asked]
    others = [
        Text("", template, placebo_names(placebo_kind(edit.about), MOST, SEED)[i], edit.old or "")
        for i, (edit, template) in enumerate(asked)
    ]
    told, held = _Asked.of(segment, tokenizer, own, layer), _Asked.of(segment, tokenizer, others, layer)
    given = held.hidden.clone()
    given[held.every, held.pivots] = told.hidden[told.every, told.pivots]
    full, none = told.probability(told.hidden), held.probability(held.hidden)
    carried = (held.probability(given) - none) / max(full - none, 1e-6)
    carried = min(max(carried, 0.0), 1.0)
    return Trace("subject" if carried >= CARRIES else "prompt", carried)


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

    def probability(self, hidden: Tensor) -> float:
        """Mean probability of the objects' first tokens, going on from `hidden`."""
        final = self.segment.run(self.batch, start=self.layer + 1, hidden=hidden)
        p = self.segment.decoder.logits(final[self.every, self.spots]).float().softmax(-1)
        return float(p[self.every, self.wanted].mean())
