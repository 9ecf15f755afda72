"""The facts of an editing benchmark as a policy states them, relations included."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from safeedit.exams.counterfact import SHAPE as COUNTERFACT_SHAPE
from safeedit.exams.counterfact import CounterFactRecord
from safeedit.exams.records import records
from safeedit.exams.sources import open_source
from safeedit.exams.zsre import SHAPE as ZSRE_SHAPE
from safeedit.exams.zsre import ZsreRecord
from safeedit.policy.problems import Place
from safeedit.policy.rules import same, to_template
from safeedit.triples.catalogue import SUBJECT

EDITS: Mapping[str, tuple[type[CounterFactRecord] | type[ZsreRecord], str]] = {
    "counterfact": (CounterFactRecord, COUNTERFACT_SHAPE),
    "zsre": (ZsreRecord, ZSRE_SHAPE),
}
"""The data sets that state edits."""
LONGEST = 500
"""A policy's prompts are no longer."""
MOST_CLOZES = 8


@dataclass(repr=False)
class StatedFacts:
    """What a data set states, as plain data for a policy."""

    facts: list[tuple[dict[str, Any], Place]] = field(default_factory=list)
    relations: dict[str, dict[str, Any]] = field(default_factory=dict)


def dataset_of(name: str) -> tuple[str, str] | None:
    """Name and path of ``NAME:PATH``, where NAME is a data set of edits."""
    dataset, colon, path = name.partition(":")
    return (dataset, path) if colon and dataset in EDITS else None


def stated_facts(dataset: str, path: str, op: str) -> StatedFacts:
    """Every record as a fact for an operation of this kind.

    What is modified goes from the true object to the new one, what is erased is the true one, and what
    is inserted is CounterFact's new one, or the answer of zsRE. Phrasings that a policy would refuse
    (too long, without the subject or with it twice, the same as the edit's own) are left out.

    Raises:
        PolicyError: rows that are no such records.
        UsageError: there is no such file.
    """
    kind, shape = EDITS[dataset]
    source, found = open_source(path), StatedFacts()
    for part in source.parts:
        for record, place in zip(*records(source.rows(part), kind, source.name, shape), strict=True):
            fact: dict[str, Any] = {
                "subject": record.subject.strip(),
                "relation": record.relation,
                "object": _object(record, op),
                "prompts": _prompts(record),
            }
            if op == "modify":
                fact["new_object"] = record.new or ""
            found.facts.append((fact, place))
            _add_relation(found.relations, record)
    return found


def _object(record: CounterFactRecord | ZsreRecord, op: str) -> str:
    if op == "insert" and isinstance(record, CounterFactRecord):
        return record.new
    return record.true


def _prompts(record: CounterFactRecord | ZsreRecord) -> dict[str, list[str]]:
    found = {"edit": [record.template]}
    seen = {same(record.template)}
    paraphrases = []
    for text in record.paraphrases:
        template = _template(text, record.subject)
        if template and same(template) not in seen:
            seen.add(same(template))
            paraphrases.append(template)
    neighbours = list(dict.fromkeys(text.strip() for text in record.neighbours if _fits(text.strip())))
    if paraphrases:
        found["paraphrases"] = paraphrases
    if neighbours:
        found["neighbours"] = neighbours
    return found


def _template(text: str, subject: str) -> str | None:
    try:
        template = to_template(text.strip(), subject)
    except ValueError:
        return None
    return template if _fits(template) else None


def _fits(text: str) -> bool:
    return 0 < len(text) <= LONGEST and all(char.isprintable() or char == "\n" for char in text)


def _add_relation(relations: dict[str, dict[str, Any]], record: CounterFactRecord | ZsreRecord) -> None:
    """A relation that no catalogue has is said as the data set says it, in a few of its ways."""
    template = record.template
    # What a policy would refuse is told of the fact, with its line.
    if template.count(SUBJECT) != 1 or not _fits(template):
        return
    entry = relations.setdefault(record.relation, {"cloze": [], "about": record.about})
    if len(entry["cloze"]) < MOST_CLOZES and template not in entry["cloze"]:
        entry["cloze"].append(template)
