"""A data set's probe, put to a model whose scores and texts are written down."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from safeedit.exams import DATASETS
from safeedit.exams.exam import Exam, ExamPlan, Seen
from safeedit.models import scoring
from safeedit.models.decode import Generation
from safeedit.models.scoring import Scored
from safeedit.probes.base import Context, Figures, View
from safeedit.probes.controls import Controls
from safeedit.triples.catalogue import builtin_catalogue
from safeedit.triples.facts import Fact

SUBJECT = "Zenobia Harkaway"
Probabilities = Callable[[str, str], Sequence[float]]
"""Of the tokens of a text after a prompt."""


def write(path: Path, *rows: object) -> str:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return str(path)


class Bench:
    """A data set's probe, put to a scripted model."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, paths: Iterable[str], **options: Any):
        self.patch = monkeypatch
        self.probe: Exam = DATASETS.get(name)({"paths": list(paths), **options})
        self.facts: tuple[Fact, ...] = ()

    def plan(self) -> ExamPlan:
        return self.probe.plan(Context(self.facts, Controls((), ()), builtin_catalogue(), 0))

    def seen(self, says: Mapping[str, str] | str = "", likely: Probabilities = lambda p, t: [0.5]) -> Seen:
        def score_candidates(_m: Any, _t: Any, prompts: Any, candidates: Any) -> list[list[Scored]]:
            return [
                [self.scored(likely(p, t)) for t in own] for p, own in zip(prompts, candidates, strict=True)
            ]

        self.patch.setattr(scoring, "score_candidates", score_candidates)
        plan = self.plan()
        texts = {p: says if isinstance(says, str) else says.get(p, "") for p in plan.prompts()}
        return self.probe.observe(plan, View(None, None, {p: Generation(t, False) for p, t in texts.items()}))

    @staticmethod
    def scored(probabilities: Sequence[float]) -> Scored:
        return Scored(tuple(map(math.log, probabilities)), tuple(p >= 0.5 for p in probabilities))

    def figures(self, before: Seen, after: Seen) -> Figures:
        return self.probe.figures(self.plan(), before, after, {})
