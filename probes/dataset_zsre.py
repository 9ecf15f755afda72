"""zsRE: its accuracies for the records of the request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from safeedit.exams.exam import Exam, Item
from safeedit.exams.paired import Sample, Summary
from safeedit.exams.records import all_records
from safeedit.exams.sources import Source
from safeedit.exams.zsre import SHAPE, ZsreRecord
from safeedit.probes.base import Context
from safeedit.probes.fold import key
from safeedit.probes.match import Answer, states
from safeedit.triples.facts import Fact

if TYPE_CHECKING:
    from safeedit.models.scoring import Scored

NAMES = {"own": "efficacy", "rephrase": "paraphrase", "beside": "specificity"}


class Zsre(Exam):
    """zsRE's accuracies for the records that the request edits, teacher-forced, and what is really written.

    Metric: `efficacy_teacher_forced`, `paraphrase_teacher_forced`, `specificity_teacher_forced`: the share
    of the answer's tokens that are the likeliest ones, the earlier ones given. The papers' figure; it
    gives away the answer's beginning and length (arXiv 2502.11177). Beside it `…_generated`: whether the
    model's own text begins with the answer. Of an erasure the answer is the old one, and the first two
    are called `old_answer_…` and `old_answer_paraphrase_…`. Unit: record.
    Protocol: the question as it is, without a template. SKIPPED where no record is the request's.
    Source: MEND (arXiv 2110.11309), MEMIT (arXiv 2210.07229).
    """

    id = "dataset.zsre"
    family = "success"
    metric = "efficacy_teacher_forced"
    headline = ("efficacy_teacher_forced", "old_answer_teacher_forced")

    def load(self, sources: Sequence[Source]) -> tuple[ZsreRecord, ...]:
        """All records of all parts."""
        return all_records(sources, ZsreRecord, SHAPE)

    def ask(self, loaded: tuple[ZsreRecord, ...], context: Context) -> Iterable[Item]:
        """The answer that the request wants, after the question, its rephrasing and the one beside it."""
        by_subject: dict[tuple[str, ...], list[Fact]] = {}
        for fact in context.facts:
            by_subject.setdefault(key(fact.subject), []).append(fact)
        for unit, record in enumerate(loaded):
            facts = [fact for fact in by_subject.get(key(record.subject), ()) if _same(record, fact)]
            for fact in facts[:1]:
                yield from self._items(unit, record, fact)

    def _items(self, unit: int, record: ZsreRecord, fact: Fact) -> Iterator[Item]:
        part = "erased" if fact.op == "erase" else "edited"
        wanted = f" {fact.object if fact.target is None else fact.target}"
        asked = [("own", record.prompt, wanted)]
        asked += [("rephrase", text.strip(), wanted) for text in record.paraphrases]
        if record.beside_answer:
            asked += [("beside", text, f" {record.beside_answer[0].strip()}") for text in record.neighbours]
        for kind, prompt, text in asked:
            yield Item(part, unit, kind, prompt, (text,))
            yield Item(part, unit, kind, prompt, (text,), generated=True)

    def marks_of(self, item: Item, text: str | None, scored: Sequence[Scored]) -> Mapping[str, float]:
        """The share of tokens that would be chosen; or whether the answer is what is written."""
        name = NAMES[item.kind]
        if item.part == "erased" and item.kind != "beside":
            name = "old_answer" if item.kind == "own" else "old_answer_paraphrase"
        if text is not None:
            return {f"{name}_generated": float(states(Answer((item.texts[0].strip(),)), text))}
        return {f"{name}_teacher_forced": sum(scored[0].top) / len(scored[0].top)}

    def summary(self, sample: Sample) -> Summary:
        """The means; a mark that both erased and edited records have stands for the edited ones."""
        found = {}
        for part, mark in sorted(sample.marks, reverse=True):
            found[mark] = sample.mean(part, mark)
        return found


def _same(record: ZsreRecord, fact: Fact) -> bool:
    """Whether a fact is this record's: by its answers, old and new."""
    answers = {key(text) for text in (*record.answers, record.new or "") if text}
    return key(fact.object) in answers and (fact.new_object is None or key(fact.new_object) in answers)
