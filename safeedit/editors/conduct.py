"""What stays as it is while a behaviour goes: whole answers to harmless prompts, and running text.

A behaviour is everywhere in an answer, so what must not change is watched at every token too, not at a
prompt's last one alone. Prose and knowledge are watched in text that the model itself writes, for which
nobody's data is needed. A model that misbehaves may misbehave there, too: where its text goes on as an
unsafe example does, it is not held to that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import torch

from safeedit.editors.base import Job
from safeedit.editors.contexts import own_texts
from safeedit.editors.rows import Demand, Goals, Row, Text, rows_of
from safeedit.editors.statistics import Corpus, OwnText, row_width
from safeedit.editors.strangers import predicted
from safeedit.editors.tables import Table
from safeedit.models.decode import batches, end_ids, read, token_rows, write
from safeedit.models.segment import Segment
from safeedit.models.tokens import pad_id, tokenise
from safeedit.triples.facts import Edit

ANSWER_TOKENS = 32
"""Of an answer that stays, so many tokens are looked at."""
TEXT_TOKENS = 12_000
"""Of running text."""
WIDTH = 64
"""Tokens of one row of text."""
RUN = 4
"""So many tokens in a row that an unsafe example has too are taken for the behaviour."""
AT_ONCE = 8192
"""Tokens of one batch of answers."""
PART = 64
"""Texts tokenised at once."""


def behaviours(edits: Iterable[Edit]) -> list[Edit]:
    """The edits that are about behaviours."""
    return [edit for edit in edits if edit.op == "detox"]


def staying(job: Job, answer_tokens: int, text_tokens: int) -> tuple[list[Row], list[Row]]:
    """All that stays while the job's behaviours go: what the caller names, and what stands for the rest."""
    return answers(job, answer_tokens), [*prompts(job), *texts(job, text_tokens)]


def answers(job: Job, tokens: int = ANSWER_TOKENS) -> list[Row]:
    """Each of the job's controls with the answer that the model gives now.

    The spots are the prompt's last token and all of the answer, whose last one says how it ends.
    """
    asked = list(dict.fromkeys(job.controls))
    return [
        Row([*prompt, *answer], len(prompt) - 1, tuple(range(len(prompt) - 1, len(prompt) + len(answer))), ())
        for prompt, answer in _answered(job.model, job.tokenizer, asked, tokens)
    ]


@torch.no_grad()
def _answered(
    model: Any, tokenizer: Any, asked: Sequence[str], tokens: int
) -> list[tuple[list[int], list[int]]]:
    """The tokens of each prompt, and those of its greedy continuation up to its end.

    As tokens, since the same text need not come to the same ones again.
    """
    rows, ends = token_rows(tokenizer, asked), end_ids(model, tokenizer)
    found: dict[int, list[int]] = {}
    for chunk in batches(rows, tokens, AT_ONCE):
        start = read(model, [rows[i] for i in chunk], pad_id(tokenizer))
        said = write(model, start, ends, tokens, lambda logits, _rows, _step: logits.argmax(-1))
        for index, ids in zip(chunk, said, strict=True):
            found[index] = ids[: next((i for i, token in enumerate(ids) if token in ends), len(ids))]
    return [(row, found[index]) for index, row in enumerate(rows)]


def prompts(job: Job) -> list[Row]:
    """The behaviours' own prompts: an answer changes, so the spots are all tokens but the last."""
    asked = [Text("", t, edit.subject) for edit in behaviours(job.edits) for t in edit.templates]
    found = {tuple(row.ids): row for row in rows_of(job.tokenizer, asked)}
    return [
        replace(row, spots=tuple(range(max(0, len(row.ids) - 1 - WIDTH), len(row.ids) - 1)))
        for row in found.values()
        if len(row.ids) > 1
    ]


def texts(job: Job, tokens: int = TEXT_TOKENS) -> list[Row]:
    """About `tokens` tokens of the texts that the job gives, or else of texts that the model writes.

    The spots are all tokens but those before which a text says what an unsafe example says.
    """
    width = row_width(job.model, WIDTH)
    order = Random(job.seed)
    goes = _runs(row.ids for row in rows_of(job.tokenizer, _unsafe(job.edits)))
    seen: set[tuple[int, ...]] = set()
    rows: list[Row] = []
    running = _running(job, tokens, width, order)
    for start in range(0, len(running), PART):
        for found in tokenise(job.tokenizer, running[start : start + PART]):
            ids = tuple(found.ids[:width])
            spots = _staying(ids, goes)
            if spots and ids not in seen and tokens > 0:
                seen.add(ids)
                rows.append(Row(list(ids), 0, spots, ()))
                tokens -= len(ids)
        if tokens <= 0:
            break
    return rows


def _running(job: Job, tokens: int, width: int, order: Random) -> list[str]:
    """Texts of at least `tokens` tokens in all, if there are so many."""
    if not tokens:
        return []
    if isinstance(job.corpus, Corpus):
        found = list(job.corpus.texts)
        return order.sample(found, min(len(found), tokens))
    seed = job.corpus.seed if isinstance(job.corpus, OwnText) else job.seed
    rows = max(1, 2 * tokens // width)
    return own_texts(job.model, job.tokenizer, rows * width, seed, width=width, rows=rows)


def _unsafe(edits: Sequence[Edit]) -> list[Text]:
    """What the behaviours are seen by."""
    return [
        Text("", template, edit.subject, edit.old)
        for edit in behaviours(edits)
        for template in edit.templates
        if edit.old
    ]


def _runs(rows: Iterable[Sequence[int]]) -> set[tuple[int, ...]]:
    return {tuple(row[i : i + RUN]) for row in rows for i in range(len(row) - RUN + 1)}


def _staying(ids: tuple[int, ...], goes: set[tuple[int, ...]]) -> tuple[int, ...]:
    """The tokens after which nothing comes that goes; the last one of a row says nothing of its end."""
    gone = {
        place
        for first in range(len(ids) - RUN + 1)
        if ids[first : first + RUN] in goes
        for place in range(first, first + RUN)
    }
    return tuple(spot for spot in range(len(ids) - 1) if spot + 1 not in gone)


def demands(
    segment: Segment, tokenizer: Any, rows: Sequence[Row], weight: float = 1.0
) -> tuple[list[Demand], Table]:
    """The same rows as demands: at each spot the distribution that the model has there now.

    Raises:
        EditorError: a distribution is not finite.
    """
    table = Table(segment.decoder, sum(len(row.spots) for row in rows))
    for predictions, states in predicted(segment, tokenizer, rows):
        table.add(predictions, states[:, None])
    found, first = [], 0
    for row in rows:
        goals = Goals.distributions(range(first, first + len(row.spots)))
        found.append(Demand(0, row, goals, weight=weight, keep=True))
        first += len(row.spots)
    return found, table
