"""What a pruning takes away, and the texts that it leaves as they are."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest

from safeedit.editors import conduct
from safeedit.editors.base import Job
from safeedit.editors.contexts import own_texts
from safeedit.editors.memit import default_corpus
from safeedit.editors.objectives import Aim, build_task, check_edits
from safeedit.editors.rows import Demand, Goals, Row, Task, Tell, Text, rows_of
from safeedit.editors.statistics import Corpus, OwnText, row_width
from safeedit.models.tokens import tokenise

TEXT_WIDTH = 64
"""Tokens of one text that are looked at."""
READ = 8
"""How much text is written, where the model writes it itself, for one token that is looked at."""


def task_of(job: Job, aim: Aim, tokens: int) -> Task:
    """What shall go: of facts as `aim` says, of behaviours the first `tokens` of their unsafe answers."""
    check_edits(job.edits, unsafe=True)
    facts = [edit for edit in job.edits if edit.op != "detox"]
    task = Task(0, (), Task.empty_table(job.decoder.vocabulary, job.decoder.device))
    if facts:
        task = build_task(job.segment, job.tokenizer, facts, aim).task
    texts = [
        (Text(before, template, edit.subject, str(says)), number)
        for number, edit in enumerate(conduct.behaviours(job.edits))
        for template in edit.templates
        for before in aim.contexts
        for says in (edit.old, edit.target)
    ]
    rows = rows_of(job.tokenizer, [text for text, _ in texts], "prompt")
    found = [
        _suppressed(task.groups + number, unsafe, safe, tokens)
        for unsafe, safe, (_, number) in zip(rows[::2], rows[1::2], texts[::2], strict=True)
    ]
    return Task(task.groups + len(job.edits) - len(facts), (*task.demands, *found), task.table)


def _suppressed(group: int, unsafe: Row, safe: Row, tokens: int) -> Demand:
    """The first tokens of an unsafe answer shall not be said; in place of the first, a safe one's.

    After it anything may come. An answer that has the same first token as the safe one has nothing there
    that tells.
    """
    spots = unsafe.spots[:tokens]
    row = replace(unsafe, spots=spots, wanted=unsafe.wanted[:tokens])
    goals = Goals((safe.wanted[0],) + (-1,) * (len(spots) - 1), (-1,) * len(spots))
    same = unsafe.wanted[0] == safe.wanted[0]
    tells = tuple(Tell(i, token) for i, token in enumerate(row.wanted) if i or not same)
    return Demand(group, row, goals, telling=tells)


def texts_of(job: Job, tokens: int) -> list[Row]:
    """Texts that name no edited subject; every other one, while there are any, has an object.

    Where there are behaviours, they are those that do not go on as an unsafe answer does (`conduct`).

    What is said of a subject must not stay as it is. That its object is said of others must: weights
    that say it of anybody are the first to be found, and no invented name brings it up.
    """
    model, tokenizer, corpus = job.model, job.tokenizer, job.corpus
    edits = [edit for edit in job.edits if edit.op != "detox"]
    if not edits:
        return conduct.texts(job, tokens)
    if isinstance(corpus, OwnText):
        width = row_width(model, 2 * TEXT_WIDTH)
        read = min(corpus.max_tokens, READ * tokens)
        at_once = min(256, max(1, read // width))
        found: Sequence[str] = own_texts(model, tokenizer, read, corpus.seed, width=width, rows=at_once)
    else:
        found = (corpus or default_corpus(tokens)).texts
    names = {edit.subject.casefold() for edit in edits}
    objects = {edit.old.casefold() for edit in edits if edit.old}
    order = random.Random(job.seed).sample(range(len(found)), len(found))
    folded = ((found[i], found[i].casefold()) for i in order)
    free = [(text, low) for text, low in folded if not any(name in low for name in names)]
    telling = [text for text, low in free if any(name in low for name in objects)]
    mixed = [text for pair in zip_longest(telling, (text for text, _ in free)) for text in pair if text]
    if len(edits) < len(job.edits):
        return conduct.texts(replace(job, corpus=Corpus(list(dict.fromkeys(mixed)))), tokens)
    width, rows, left = row_width(model, TEXT_WIDTH), dict[tuple[int, ...], None](), tokens
    for start in range(0, len(mixed), 64):
        for one in tokenise(tokenizer, mixed[start : start + 64]):
            ids = tuple(one.ids[:width][:left])
            if len(ids) > 1 and ids not in rows:
                rows[ids] = None
                left -= len(ids)
        if left <= 1:
            break
    return [Row(list(ids), 0, tuple(range(len(ids))), ()) for ids in rows]
