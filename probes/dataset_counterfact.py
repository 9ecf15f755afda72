"""CounterFact: its scores for the records of the request."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from safeedit.exams.counterfact import SHAPE, CounterFactRecord
from safeedit.exams.exam import Exam, Item
from safeedit.exams.paired import Sample, Summary, harmonic_mean
from safeedit.exams.records import all_records
from safeedit.exams.sources import Source
from safeedit.probes.base import Context
from safeedit.probes.fold import key
from safeedit.triples.facts import Fact

if TYPE_CHECKING:
    from safeedit.models.scoring import Scored

Name = tuple[str, ...]

SCORES = {"rewrite": "efficacy", "paraphrase": "paraphrase", "neighborhood": "neighborhood"}


class CounterFact(Exam):
    """CounterFact's scores for the records that the request edits; efficacy, paraphrase, neighbourhood.

    Metric: `score` (S), the harmonic mean of `efficacy_score` (ES), `paraphrase_score` (PS) and
    `neighborhood_score` (NS); the magnitudes (EM, PM, NM); and `…_accuracy_teacher_forced`, the share of
    objects of which every token is the likeliest one, the earlier ones given. A score compares two
    objects; an object that is erased may be second and still be said. Unit: record. Protocol: mean
    log-probability a token, the paper's. SKIPPED where no record is the request's. Source: ROME
    (arXiv 2202.05262), MEMIT (arXiv 2210.07229).
    """

    id = "dataset.counterfact"
    family = "success"
    metric = "score"
    headline = ("score", "efficacy_score")

    @property
    def new_tokens(self) -> int:
        """Nothing is generated."""
        return 0

    @property
    def protocol(self) -> str:
        """How objects are compared."""
        return "counterfact-nll-per-token"

    def load(self, sources: Sequence[Source]) -> tuple[CounterFactRecord, ...]:
        """All records of all parts."""
        return all_records(sources, CounterFactRecord, SHAPE)

    def ask(self, loaded: tuple[CounterFactRecord, ...], context: Context) -> Iterable[Item]:
        """Both objects after every prompt of the records that belong to the request."""
        wanted = {claim for fact in context.facts for claim in _claims(fact)}
        for unit, record in enumerate(loaded):
            who, true, new = key(record.subject), key(record.true), key(record.new)
            # A modification names both objects, an erasure the true one, an insertion the new one.
            if not wanted.isdisjoint(((who, true, new), (who, true, None), (who, None, new))):
                yield from self._items(unit, record)

    def _items(self, unit: int, record: CounterFactRecord) -> Iterator[Item]:
        texts = (f" {record.new}", f" {record.true}")
        asked = {
            "rewrite": (record.prompt,),
            "paraphrase": record.paraphrases,
            "neighborhood": record.neighbours,
        }
        for kind, prompts in asked.items():
            for prompt in prompts:
                yield Item("request", unit, kind, prompt.rstrip(), texts, right=int(kind == "neighborhood"))

    def marks_of(self, item: Item, text: str | None, scored: Sequence[Scored]) -> Mapping[str, float]:
        """Whether the object that is right here is likelier, by how much, and whether it would be written."""
        right, wrong = scored[item.right], scored[1 - item.right]
        name = SCORES[item.kind]
        return {
            f"{name}_score": float(mean_log_p(right) > mean_log_p(wrong)),
            f"{name}_magnitude": math.exp(mean_log_p(right)) - math.exp(mean_log_p(wrong)),
            f"{name}_accuracy_teacher_forced": float(all(right.top)),
        }

    def is_share(self, mark: str) -> bool:
        """Magnitudes are differences, from -1 to 1."""
        return not mark.endswith("_magnitude")

    def summary(self, sample: Sample) -> Summary:
        """The means, and the score where all three of its parts are there."""
        found = {mark: sample.mean(part, mark) for part, mark in sample.marks}
        scores = [f"{name}_score" for name in SCORES.values()]
        if all(name in found for name in scores):
            found["score"] = harmonic_mean([found[name] for name in scores])
        return found


def mean_log_p(scored: Scored) -> float:
    """The mean log-probability of a token, which most papers make their probabilities of."""
    return scored.total / len(scored.log_p)


def _claims(fact: Fact) -> Iterator[tuple[Name, Name | None, Name | None]]:
    """Subject, true and new object of the records that a fact can be one of; None where any will do."""
    old = key(fact.object) if fact.op != "insert" else None
    new = key(fact.target) if fact.target is not None else None
    for name in (fact.subject, *fact.aliases):
        yield key(name), old, new
