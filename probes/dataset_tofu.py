"""TOFU: forgetting invented authors, and what is left of everything else."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from safeedit.errors import UsageError
from safeedit.exams.exam import Exam, ExamOptions, ExamPlan, Item
from safeedit.exams.paired import Sample, Summary, harmonic_mean
from safeedit.exams.records import Record, Reference, Text, Texts, parts_like, records, the_parts
from safeedit.exams.rouge import rouge_l
from safeedit.exams.sources import Source
from safeedit.probes.base import Context
from safeedit.triples.catalogue import render_question

if TYPE_CHECKING:
    from safeedit.models.scoring import Scored

SHAPE = "question, answer, and perturbed_answer (a list) with paraphrased_answer"
FORGET = r"forget\d*(_perturbed)?"
PARTS = {
    "retain": r"retain_perturbed",
    "real_authors": r"real_authors(_perturbed)?",
    "world_facts": r"world_facts(_perturbed)?",
}
MARKS = ("probability", "rougeL_recall", "truth_ratio")


class TofuRecord(Record):
    """One question."""

    question: Text
    answer: Reference
    paraphrased_answer: Text | None = None
    perturbed_answer: Texts = ()


class TofuOptions(ExamOptions):
    """Settings of TOFU."""

    tokens: int = Field(default=200, ge=1, le=4096)
    """New tokens of an answer, at most; the paper's."""
    retain_result: str | None = None
    """The authors' JSON about a model that never saw the forget set; forget quality needs it."""


class Tofu(Exam):
    """TOFU's figures: forget probability, ROUGE-L recall and truth ratio, and the model utility.

    Metric: `probability` (the geometric mean over tokens; of real authors and world facts its share among
    the perturbed answers), `rougeL_recall` (stemmed), `truth_ratio`, each by part, and `model_utility`,
    the harmonic mean of the nine figures of retain, real authors and world facts. The truth ratio is that
    of the authors' evaluation, which published figures come from: the *geometric* mean of the perturbed
    answers' probabilities, over the paraphrase's; their other code has other means. `forget_quality` is
    the p-value of a KS test against a retrained model's truth ratios: advice alone, for a large p-value
    of few questions shows nothing. Unit: record. Protocol: "Question: … Answer:", greedy text.
    Source: TOFU (arXiv 2401.06121).
    """

    id = "dataset.tofu"
    family = "forgetting"
    metric = "forget_rougeL_recall"
    headline = ("forget_rougeL_recall", "model_utility", *(f"{part}_rougeL_recall" for part in PARTS))
    options: TofuOptions
    _retain: tuple[float, ...] = ()
    options_model = TofuOptions

    def settings(self) -> Mapping[str, Any]:
        """The retrained model's figures are in the plan; where they lay is no matter."""
        return {name: value for name, value in super().settings().items() if name != "retain_result"}

    def load(self, sources: Sequence[Source]) -> dict[str, tuple[TofuRecord, ...]]:
        """The records of every part."""
        found: dict[str, tuple[TofuRecord, ...]] = {}
        for source in sources:
            there = {name: parts_like(source, pattern) for name, pattern in PARTS.items()}
            forget = parts_like(source, FORGET)
            if not forget and not any(there.values()):
                forget = the_parts(source, FORGET, "TOFU", "forget set (forget10_perturbed and the like)")
            for name, parts in {"forget": _one(source, forget), **there}.items():
                for part in _fullest(parts):
                    rows = records(source.rows(part), TofuRecord, source.name, SHAPE)[0]
                    found[name] = (*found.get(name, ()), *rows)
        self._retain = _retrained(self.options.retain_result)
        return found

    def given(self, loaded: Any) -> tuple[float, ...]:
        """The truth ratios of the retrained model."""
        return self._retain

    def ask(self, loaded: dict[str, tuple[TofuRecord, ...]], context: Context) -> Iterable[Item]:
        """Each question: its answer written, and all its answers weighed."""
        for part, rows in loaded.items():
            for unit, record in enumerate(rows):
                yield from self._items(part, unit, record)

    def _items(self, part: str, unit: int, record: TofuRecord) -> Iterator[Item]:
        prompt = render_question(record.question.strip())
        answers = (record.answer, record.paraphrased_answer or record.answer, *record.perturbed_answer)
        yield Item(part, unit, "said", prompt, (record.answer,), generated=True)
        yield Item(part, unit, "weighed", prompt, tuple(f" {text.strip()}" for text in answers))

    def marks_of(self, item: Item, text: str | None, scored: Sequence[Scored]) -> Mapping[str, float]:
        """ROUGE-L of what is written; or probability and truth ratio."""
        if text is not None:
            return {"rougeL_recall": rouge_l(text, item.texts[0], stem=True).recall}
        losses = [-one.total / len(one.log_p) for one in scored]
        answer, paraphrase, perturbed = losses[0], losses[1], losses[2:]
        probability = math.exp(-answer)
        if not perturbed:
            return {"probability": probability}
        if item.part in ("real_authors", "world_facts"):
            probability /= math.fsum(math.exp(-loss) for loss in (answer, *perturbed))
        # The log of the paraphrase's probability over the perturbed ones'; the truth ratio's is its negative.
        ahead = math.fsum(perturbed) / len(perturbed) - paraphrase
        true = math.exp(-abs(ahead)) if item.part == "forget" else max(0.0, 1 - math.exp(min(-ahead, 0.0)))
        return {"probability": probability, "truth_ratio": true, "_ahead": ahead}

    def summary(self, sample: Sample) -> Summary:
        """Each mark by part; the model utility where all nine figures are there."""
        found = {f"{part}_{mark}": sample.mean(part, mark) for part, mark in sample.marks if mark in MARKS}
        nine = [f"{part}_{mark}" for part in PARTS for mark in MARKS]
        if all(name in found for name in nine):
            found["model_utility"] = harmonic_mean([found[name] for name in nine])
        return found

    def extras(self, plan: ExamPlan, before: Sample, after: Sample) -> Mapping[str, float]:
        """The forget quality, where a retrained model's figures were given."""
        if not plan.given or ("forget", "_ahead") not in after.marks:
            return {}
        from scipy.stats import ks_2samp

        found = {}
        for name, sample in (("before", before), ("after", after)):
            own = np.exp(sample.columns("forget", "_ahead")[0])
            test = ks_2samp(own, np.array(plan.given))
            found[f"forget_quality_{name}"] = float(test.pvalue)
            found[f"forget_ks_{name}"] = float(test.statistic)
        return found


def _one(source: Source, parts: tuple[str, ...]) -> tuple[str, ...]:
    sets = sorted({part.rsplit("/", 1)[-1] for part in _fullest(parts)})
    if len(sets) > 1:
        raise UsageError(
            f"{source.name}: holds several forget sets ({', '.join(sets)}); give the file that is meant, and "
            "each of the other parts with a --dataset of its own"
        )
    return parts


def _fullest(parts: Sequence[str]) -> tuple[str, ...]:
    """Without the parts of which there is a form with perturbed answers."""
    return tuple(part for part in parts if not any(f"{part}_perturbed" == other for other in parts))


def _retrained(path: str | None) -> tuple[float, ...]:
    """The truth ratios in the authors' JSON, as the test wants them.

    Raises:
        UsageError: it is not such a file.
    """
    if path is None:
        return ()
    wrong = ""
    try:
        log = json.loads(Path(path).read_text("utf-8"))["eval_log_forget.json"]
        right, false = log["avg_paraphrased_loss"], log["average_perturb_loss"]
        return tuple(
            math.exp(math.fsum(losses) / len(losses) - right[number]) for number, losses in false.items()
        )
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        wrong = type(error).__name__
    raise UsageError(
        f"{path}: not the evaluation of a retrained model ({wrong}); the authors' JSON is needed, with "
        "avg_paraphrased_loss and average_perturb_loss under eval_log_forget.json"
    )
