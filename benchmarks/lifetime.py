"""One editor's lifetime: edits one batch after another, and what is left of all of them as they grow.

    python benchmarks/lifetime.py SPEC.json RESULT.json

`lifelong.py` starts it in a process of its own. The result is written at every checkpoint, so that
what was measured is kept where a later batch fails.
"""

from __future__ import annotations

import json
import math
import random
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from examine import answered
from exams import Exam, Source
from measures import perplexity, share
from rows import settings_of
from worlds import source

from safeedit.editors import EDITORS
from safeedit.editors.guards import Guard
from safeedit.errors import EditorError
from safeedit.runs.machine import peak_memory_bytes
from safeedit.sequence import in_turns
from safeedit.tensors.atomic import atomic_write
from safeedit.tensors.digest import model_digest

AGES = 4
"""Groups of edits, oldest first, whose retention is told apart."""

Point = dict[str, Any]


@dataclass
class Watch:
    """What is asked at every checkpoint, and how the unedited model answered."""

    model: Any
    tokenizer: Any
    exam: Exam
    sample: int
    known: dict[str, list[bool]] = field(init=False)
    """Of what shall survive: whether the unedited model answers it rightly."""
    perplexity: float = field(init=False)

    def __post_init__(self) -> None:
        self.known = {view: self._right(view) for view in self.exam.kept}
        self.perplexity = perplexity(self.model, self.tokenizer, self.exam.prose)

    def point(self, count: int) -> Point:
        """Retention over the first `count` edits, from a sample of them; locality over all of its own.

        Reliability is over the prompts that an editor saw, generalisation over phrasings that neither it
        nor the model's training showed; of erasures, the share of prompts whose text no longer has the
        object. Locality is the share that is still right of what the unedited model has right.
        """
        units = random.Random(count).sample(range(count), min(self.sample, count))
        exam = self.exam.of_units(set(units)).sampled(2 * self.sample)
        hits = {}
        for view in ("own", "paraphrase", "unseen"):
            marks = answered(self.model, self.tokenizer, exam.about[view], exam.answer_tokens)
            hits[view] = [not mark[1] if exam.op == "erase" else mark[2] for mark in marks]
        ages: list[list[bool]] = [[] for _ in range(AGES)]
        for ask, hit in zip(exam.about["own"], hits["own"], strict=True):
            ages[ask.unit * AGES // count].append(hit)
        return {
            "T": count,
            "reliability": share(hits["own"]),
            "generalisation": share(hits["unseen"] or hits["paraphrase"]),
            "paraphrase": share(hits["paraphrase"]),
            "by age": [share(age) for age in ages],
            **{self._named(view): self._kept(view) for view in self.known},
            "perplexity": perplexity(self.model, self.tokenizer, exam.prose) / self.perplexity,
        }

    def _named(self, view: str) -> str:
        return "locality" if view == "neighbours" else view

    def _kept(self, view: str) -> float | None:
        after = self._right(view)
        return share([hit for hit, known in zip(after, self.known[view], strict=True) if known])

    def _right(self, view: str) -> list[bool]:
        asks = self.exam.kept[view][: self.sample]
        return [mark[0] for mark in answered(self.model, self.tokenizer, asks, self.exam.answer_tokens)]


def batches(count: int, size: int) -> Iterator[tuple[int, int]]:
    """Half-open spans of at most `size`."""
    for start in range(0, count, size):
        yield start, min(start + size, count)


def due(spans: Sequence[tuple[int, int]], wanted: Sequence[int]) -> set[int]:
    """The ends of batches at which to measure: for each count wanted the first that reaches it."""
    return {min(end for _, end in spans if end >= at) for at in wanted if at <= spans[-1][1]}


def live(spec: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Edit and measure until the last checkpoint, or until the editor gives up."""
    data, kind = source(spec["world"]), EDITORS.get(spec["editor"])
    if spec["t"] > data.most(spec["op"]):
        return {"not offered": f"the data has {data.most(spec['op'])} edits of this kind", "points": []}
    if spec["op"] not in kind.operations:
        return {"not offered": f"{spec['editor']} cannot {spec['op']}", "points": []}
    life = _Life(spec, data, kind(**settings_of(spec["settings"])), out)
    if not kind.beside_weights:
        life.in_weights()
    elif spec["memories"] == "stacked":
        life.stacked()
    else:
        life.anew()
    return life.found


class _Life:
    """One editor's edits, and what was found of them so far."""

    def __init__(self, spec: Mapping[str, Any], data: Source, editor: Any, out: Path) -> None:
        self.spec, self.data, self.editor, self.out = spec, data, editor, out
        self.exam = data.exam(spec["op"], spec["t"])
        self.model, self.tokenizer = data.load()
        self.watch = Watch(self.model, self.tokenizer, self.exam, spec["sample"])
        self.spans = list(batches(spec["t"], spec["batch"]))
        self.due = due(self.spans, spec["at"])
        self.args = {"corpus": self.exam.corpus, "cache": Path(spec["cache"]), "seed": spec["seed"]}
        beside = spec["memories"] if editor.beside_weights else None
        self.found: dict[str, Any] = {"memories": beside, "points": []}
        self.seconds = 0.0
        self.since = time.perf_counter()

    def in_weights(self) -> None:
        """Each batch on the sum of the changes before it; key statistics stay those of the base."""
        edits = [e for start, end in self.spans for e in self.data.keeping(self.exam.edits[start:end])]

        def progress(stage: str, done: int, _: int) -> None:
            if stage == "edits" and done in self.due:
                self.measure(done)

        guard = Guard() if self.spec["guard"] else Guard(norm=math.inf)
        size = self.spec["batch"]
        turns = in_turns(
            self.editor, self.model, self.tokenizer, edits,
            size=size, guard=guard, progress=progress, **self.args,
        )  # fmt: skip
        if turns.stopped is not None:
            self.found["stopped"] = {"after": turns.done, "why": turns.stopped}

    def stacked(self) -> None:
        """Each batch as a memory of its own, over those before."""
        basis = model_digest(self.model)
        for start, end in self.spans:
            edits = self.data.keeping(self.exam.edits[start:end])
            try:
                patch = self.editor.edit(self.model, self.tokenizer, edits, basis=basis, **self.args)
            except EditorError as error:
                self.found["stopped"] = {"after": start, "why": str(error)}
                return
            patch.apply(self.model, check="none")
            if end in self.due:
                self.measure(end)

    def anew(self) -> None:
        """All edits so far at once on the base, for each checkpoint; seconds are those of the last time."""
        for end in sorted(self.due):
            self.seconds, self.since = 0.0, time.perf_counter()
            edits = self.data.keeping(self.exam.edits[:end])
            try:
                patch = self.editor.edit(self.model, self.tokenizer, edits, **self.args)
            except EditorError as error:
                self.found["stopped"] = {"after": end, "why": str(error)}
                return
            with patch.applied(self.model, check="none"):
                self.measure(end)

    def measure(self, count: int) -> None:
        """A checkpoint, whose own time is not counted."""
        self.seconds += time.perf_counter() - self.since
        point = self.watch.point(count)
        point |= {"seconds": self.seconds / count, "peak MiB": peak_memory_bytes("cpu") / 2**20}
        self.found["points"].append(point)
        atomic_write(self.out, json.dumps(self.found))
        self.since = time.perf_counter()


def main() -> None:
    """One lifetime."""
    spec, out = (Path(argument) for argument in sys.argv[1:3])
    atomic_write(out, json.dumps(live(json.loads(spec.read_text("utf-8")), out)))


if __name__ == "__main__":
    main()
