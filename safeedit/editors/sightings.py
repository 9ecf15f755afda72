"""What the edited module takes: for the edited names in many sentences, and for all that is none of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from safeedit.editors import conduct
from safeedit.editors.anchors import anchor_texts, sampled
from safeedit.editors.base import Job
from safeedit.editors.contexts import own_texts
from safeedit.editors.memit import default_corpus
from safeedit.editors.objectives import Named
from safeedit.editors.routing import pivot_inputs, token_inputs
from safeedit.editors.rows import Site, Text, rows_of
from safeedit.editors.statistics import OwnText, row_width
from safeedit.models.tokens import pad_id, tokenise

ANCHORS = 600
"""Prompts with invented names that are looked at; where there are more, so many of them stand for all."""
BEHIND = 2
"""Contexts that each of them is put behind."""
WIDTH = 64
"""Tokens of one row of text."""


@dataclass(frozen=True)
class Sightings:
    """Inputs of one module, float32."""

    own: Tensor
    """(own, inner) at the pivots of edited names; those of bare prompts first."""
    names: Tensor
    """(own,) whose each is, counted from 0."""
    bare: int
    """How many of them are of bare prompts."""
    strangers: Tensor
    """(strangers, inner) at the pivots of invented names."""
    stranger_names: Tensor
    """(strangers,) whose each is, counted from 0."""
    others: Tensor
    """(others, inner) at tokens that shall not be routed."""


def sighted(
    job: Job,
    named: Named,
    layer: int,
    site: Site,
    contexts: list[str],
    anchors: int,
    text_tokens: int,
    whole: bool,
) -> Sightings:
    """Look at the module of block `layer`.

    Args:
        job: the edits and the model.
        named: the groups of the edits; what is called a name here is one of them.
        layer: the block.
        site: where in a prompt an edit sits.
        contexts: texts that prompts are put behind.
        anchors: invented names, of each of three kinds, for each prompt.
        text_tokens: how much running text is looked at.
        whole: whether tokens after an edited one are routed with it, so that they are no others.
    """
    segment, fill = job.segment, pad_id(job.tokenizer)
    bare, behind = _own_texts(job, named, contexts)
    texts = [text for _, text in (*bare, *behind)]
    rows = rows_of(job.tokenizer, texts, site)
    own = pivot_inputs(segment, layer, rows, fill)
    names = torch.tensor([name for name, _ in (*bare, *behind)], device=own.device)

    invented = sampled(anchor_texts(job.edits, anchors), ANCHORS) if anchors else []
    relation = {t: edit.relation for edit in job.edits for t in edit.templates}
    known: dict[tuple[str, str], int] = {}
    told = [
        (known.setdefault((t.subject, relation[t.template] if site == "prompt" else ""), len(known)), text)
        for t in invented
        for text in (t, *(Text(context, t.template, t.subject) for context in contexts[:BEHIND]))
    ]
    stranger_rows = rows_of(job.tokenizer, [text for _, text in told], site)
    strangers = pivot_inputs(segment, layer, stranger_rows, fill) if told else own[:0]

    spoken = [t.ids for t in tokenise(job.tokenizer, [t.prompt() for t in invented])]
    others = [_harmless(job, layer, text_tokens, fill)] if conduct.behaviours(job.edits) else []
    if not others:
        spoken += [t.ids for t in tokenise(job.tokenizer, list(job.controls))]
        spoken += _running_text(job, text_tokens)
    others += [token_inputs(segment, layer, spoken, fill)] if spoken else []
    others += _beside(job, named, layer, site, whole)
    return Sightings(
        own,
        names,
        len(bare),
        strangers,
        torch.tensor([name for name, _ in told], dtype=torch.long, device=own.device),
        torch.cat(others) if others else own[:0],
    )


def _harmless(job: Job, layer: int, tokens: int, fill: int) -> Tensor:
    """(others, inner) at harmless prompts and all of their answers, and in text that does not misbehave."""
    answers = conduct.answers(job)
    rows = [*answers, *conduct.texts(job, tokens)]
    every = token_inputs(job.segment, layer, [row.ids for row in rows], fill)
    places: list[int] = []
    start = 0
    for number, row in enumerate(rows):
        # What is routed early in a prompt would be so in its answer, too.
        spots = range(len(row.ids)) if number < len(answers) else row.spots
        places += [start + spot for spot in spots]
        start += len(row.ids)
    return every[places]


def _own_texts(
    job: Job, named: Named, contexts: list[str]
) -> tuple[list[tuple[int, Text]], list[tuple[int, Text]]]:
    """Every name's prompts, and behind each context one of them in turn."""
    bare: list[tuple[int, Text]] = []
    behind: list[tuple[int, Text]] = []
    for name, members in enumerate(named.members):
        subject = job.edits[members[0]].subject
        templates = list(dict.fromkeys(t for i in members for t in job.edits[i].templates))
        bare += [(name, Text("", template, subject)) for template in templates]
        behind += [
            (name, Text(context, templates[number % len(templates)], subject))
            for number, context in enumerate(contexts)
        ]
    return bare, behind


def _beside(job: Job, named: Named, layer: int, site: Site, whole: bool) -> list[Tensor]:
    """Tokens of edited prompts where no edit sits: one row for each name is enough."""
    bare = {name: text for name, text in reversed(_own_texts(job, named, [])[0])}
    rows = rows_of(job.tokenizer, [bare[name] for name in sorted(bare)], site)
    every = token_inputs(job.segment, layer, [row.ids for row in rows], pad_id(job.tokenizer))
    found: list[Tensor] = []
    start = 0
    for row in rows:
        end = start + len(row.ids)
        found.append(every[start : start + row.pivot])
        if not whole:
            found.append(every[start + row.pivot + 1 : end])
        start = end
    return found


def _running_text(job: Job, tokens: int) -> list[list[int]]:
    """Ids of about so many tokens of text, in rows."""
    if not tokens:
        return []
    corpus = job.corpus if job.corpus is not None else default_corpus(tokens)
    width = row_width(job.model, WIDTH)
    if isinstance(corpus, OwnText):
        rows = max(1, tokens // width)
        texts = own_texts(job.model, job.tokenizer, tokens, job.seed, width=width, rows=rows)
    else:
        # From all over the corpus, as its beginning may be of one kind.
        texts = list(corpus.texts[:: max(1, len(corpus.texts) * 16 // tokens)])
    ids: list[int] = []
    for found in tokenise(job.tokenizer, texts):
        ids += found.ids
        if len(ids) >= tokens:
            break
    return [ids[i : i + width] for i in range(0, min(len(ids), tokens), width)]
