"""One row of the table: an editor makes its edits on a fresh model, and the exam says what came of them.

    python benchmarks/examine.py SPEC.json RESULT.json

`editors.py` starts it in a process of its own, so that memory is a row's own and a crash ends one row.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from exams import Ask, Asks, Exam
from measures import (
    begins,
    fluency,
    forced,
    harmonic_mean,
    latency,
    perplexity,
    share,
    stops,
    tells,
)
from rows import settings_of
from worlds import source

from safeedit.editors import EDITORS
from safeedit.models.generate import greedy
from safeedit.runs.machine import peak_memory_bytes
from safeedit.tensors.atomic import atomic_write
from safeedit.tensors.digest import model_digest

VERSION = 1
"""Of the definitions below: what an unedited model gave is kept on disk under it."""
FOLLOWING = ("alias", "two-hop", "inverse")
"""Views that count only where the unedited model can answer."""
OPENINGS = 50
"""Texts whose fluency is measured."""

Figures = dict[str, float | None]


@dataclass(frozen=True)
class Seen:
    """What one model did on an exam; a list has an entry for each question of the view."""

    marks: dict[str, list[list[bool]]]
    """(says what was right before, has it anywhere, says the new object, stops after either)."""
    forced: dict[str, list[list[float]]]
    """With the answer given: (log-probability and share of tokens of the old object, the same of the new)."""
    perplexity: float
    fluency: float

    def right(self, view: str) -> list[bool]:
        """Whether each answer is the one that was right before the edit."""
        return [mark[0] for mark in self.marks[view]]


def look(model: Any, tokenizer: Any, exam: Exam, before: bool = False) -> Seen:
    """Ask everything; `before` asks what the unedited model should be able to answer."""
    marks, measured = {}, {}
    for view, asks in chain(exam.about.items(), exam.kept.items()):
        marks[view] = answered(model, tokenizer, asks, exam.answer_tokens, before)
    for view, asks in (("own", exam.about["own"]), ("again", again(exam)), ("neighbours", neighbours(exam))):
        measured[view] = given(model, tokenizer, asks)
    openings = exam.openings[:OPENINGS]
    return Seen(
        marks,
        measured,
        perplexity(model, tokenizer, exam.prose),
        fluency(model, tokenizer, openings),
    )


def answered(model: Any, tokenizer: Any, asks: Asks, tokens: int, before: bool = False) -> list[list[bool]]:
    """The marks of each question."""
    prompts = [(before and ask.known) or ask.prompt for ask in asks]
    texts = greedy(model, tokenizer, prompts, max_new_tokens=tokens)
    return [
        [
            ask.old is not None and begins(text.text, ask.old),
            ask.old is not None and tells(text.text, ask.old),
            ask.new is not None and begins(text.text, ask.new),
            any(stops(text, wanted) for wanted in (ask.old, ask.new) if wanted is not None),
        ]
        for ask, text in zip(asks, texts, strict=True)
    ]


def given(model: Any, tokenizer: Any, asks: Asks) -> list[list[float]]:
    """Teacher forcing of the old and of the new object; where there is one only, of that one twice."""
    olds, news = (
        forced(model, tokenizer, [(ask.prompt, str(which(ask))) for ask in asks])
        for which in (_old_or_new, _new_or_old)
    )
    return [[old.log_p, old.agreement, new.log_p, new.agreement] for old, new in zip(olds, news, strict=True)]


def _old_or_new(ask: Ask) -> str | None:
    return ask.new if ask.old is None else ask.old


def _new_or_old(ask: Ask) -> str | None:
    return ask.old if ask.new is None else ask.new


def again(exam: Exam) -> Asks:
    """The questions of CounterFact's PS: paraphrases, or where there are none other unseen phrasings."""
    return exam.about["paraphrase"] or exam.about["unseen"]


def neighbours(exam: Exam) -> Asks:
    """The questions of CounterFact's NS: neighbours for whom an edit's object would be wrong."""
    return [a for a in exam.kept["neighbours"] if a.new is not None and a.new != a.old]


def figures(exam: Exam, before: Seen, after: Seen) -> Figures:
    """What a row says; `after` may be `before`, for the row of the unedited model.

    Of an erasure own, paraphrase, unseen, alias, two-hop and inverse say how often the object is still
    told, of the others how often the new one is said. None where nothing could be asked.
    """
    erase, untouched = exam.op == "erase", after is before
    found: Figures = {}
    for view, asks in exam.about.items():
        marks = after.marks[view]
        hits = [mark[1] if erase else mark[2] for mark in marks]
        if view in FOLLOWING and exam.op != "insert":
            known = before.right(view)
            # The unedited model's row says how many it can answer; an editor's, what becomes of those.
            hits = known if untouched else [hit for hit, had in zip(hits, known, strict=True) if had]
        found[view] = share(hits)
        found[f"{view} asked"] = len(asks)
    for view in exam.kept:
        found[view] = share(after.right(view))
    # An erasure has no answer that should end, and the unedited model has the old one.
    views = ("neighbours",) if erase or untouched else ("own", "paraphrase", "unseen")
    ended = [mark[3] for view in views for mark in after.marks[view] if mark[0 if len(views) == 1 else 2]]
    found["stop"] = share(ended)
    found["perplexity"] = after.perplexity / before.perplexity
    found["fluency"] = after.fluency
    return found | forced_figures(exam, after)


def forced_figures(exam: Exam, seen: Seen) -> Figures:
    """Teacher-forced: ES, PS, NS and S of CounterFact, and the share of tokens of EasyEdit.

    ES is the share of own prompts at which the new object is more probable than the old one, PS of
    paraphrases; NS the share of neighbours whose own object is the more probable. Probabilities are of
    whole objects. An insert has no old object and an erasure no new one, so they have no ES, PS and S.
    """

    def compared(view: str, wanted: int) -> float | None:
        return share([row[wanted] > row[2 - wanted] for row in seen.forced[view]])

    both = exam.op == "modify"
    es, ps = (compared(view, 2) if both else None for view in ("own", "again"))
    ns = compared("neighbours", 0)
    column = 1 if exam.op == "erase" else 3
    tokens = [row[column] for row in seen.forced["own"]]
    return {
        "ES": es,
        "PS": ps,
        "NS": ns,
        "S": harmonic_mean([es, ps, ns]),
        "tokens": sum(tokens) / len(tokens),
    }


def before_edit(model: Any, tokenizer: Any, exam: Exam, cache: Path) -> Seen:
    """What the unedited model does, from the folder where an earlier row left it."""
    asked = [[view, a.prompt, a.old, a.new, a.known] for view, asks in _views(exam).items() for a in asks]
    key = [VERSION, model_digest(model), asked, list(exam.prose), list(exam.openings[:OPENINGS])]
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:40]
    file = cache / f"base-{name}.json"
    if not file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        atomic_write(file, json.dumps(vars(look(model, tokenizer, exam, before=True))))
    return Seen(**json.loads(file.read_text("utf-8")))


def _views(exam: Exam) -> Mapping[str, Asks]:
    return {**exam.about, **exam.kept}


@dataclass(frozen=True)
class Cost:
    """What an edit took."""

    seconds: float
    """Wall time without key statistics."""
    processor: float
    """Processor seconds of the same: what says more where other work runs beside."""
    statistics: float
    """Wall time of the key statistics; 0 where they were there."""


def timed_edit(edit: Callable[[], Any], cache: Path) -> tuple[Any, Cost]:
    """The patch, and what it took.

    Statistics are kept in `cache`; an edit that had to take them is made a second time, so that its
    own seconds are without them.
    """

    def stored() -> set[str]:
        return {file.name for file in cache.glob("*.safetensors")}

    def once() -> tuple[Any, float, float]:
        start, used = time.perf_counter(), time.process_time()
        return edit(), time.perf_counter() - start, time.process_time() - used

    had = stored()
    patch, first, used = once()
    if stored() == had:
        return patch, Cost(first, used, 0.0)
    patch, second, used = once()
    return patch, Cost(second, used, max(0.0, first - second))


def mixed(exam: Exam, count: int = 8) -> list[str]:
    """Prompts for timing: half of them edited ones, half not."""
    half = count // 2
    asks: Sequence[Ask] = (*exam.about["own"][:half], *exam.kept["neighbours"][:half])
    prompts = [ask.prompt for ask in asks]
    return [prompts[i % len(prompts)] for i in range(count)]


def examine(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that a row says."""
    cache, data = Path(spec["cache"]), source(spec["world"])
    if spec["t"] > data.most(spec["op"]):
        return {"not offered": f"the data has {data.most(spec['op'])} edits of this kind"}
    exam = data.exam(spec["op"], spec["t"]).sampled(spec["sample"])
    model, tokenizer = data.load()
    if spec["editor"] == "none":
        before = before_edit(model, tokenizer, exam, cache)
        return {"figures": figures(exam, before, before)}
    editor = EDITORS.get(spec["editor"])(**settings_of(spec["settings"]))
    if exam.op not in editor.operations:
        return {"not offered": f"{spec['editor']} cannot {exam.op}"}
    loaded = peak_memory_bytes("cpu")
    patch, cost = timed_edit(
        lambda: editor.edit(model, tokenizer, exam.edits, corpus=exam.corpus, cache=cache, seed=spec["seed"]),
        cache,
    )
    peak = peak_memory_bytes("cpu")
    before = before_edit(model, tokenizer, exam, cache)
    with patch.applied(model):
        after = look(model, tokenizer, exam)
    late = None
    if patch.memories:
        # A patch of weights alone leaves every module and shape as it was: there is nothing to time.
        on = partial(patch.applied, model, check="none")
        timing = latency(model, tokenizer, mixed(exam), on, runs=spec["latency_runs"])
        late = {**vars(timing), "extra": timing.extra}
    return {
        "figures": figures(exam, before, after),
        "seconds": cost.seconds / spec["t"],
        "processor seconds": cost.processor / spec["t"],
        "statistics seconds": cost.statistics,
        "peak MiB": peak / 2**20,
        "loaded MiB": loaded / 2**20,
        "latency": late,
        "meta": dict(patch.meta),
    }


def main() -> None:
    """Make one row."""
    spec, out = (Path(argument) for argument in sys.argv[1:3])
    result = examine(json.loads(spec.read_text("utf-8")))
    out.write_text(json.dumps(result), "utf-8")


if __name__ == "__main__":
    main()
