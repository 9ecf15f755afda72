"""What a model said of each fact of a run, before the edit and after it, counted over its prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safeedit.triples.catalogue import SUBJECT

if TYPE_CHECKING:
    from safeedit.runs.outcome import Run
    from safeedit.triples.catalogue import Catalogue
    from safeedit.triples.facts import Fact


@dataclass(frozen=True, repr=False)
class FactAnswers:
    """One fact and what was answered about it; in plain text, so that its `repr` is empty."""

    fact: Fact
    subject_digest: str
    object_digest: str
    known: bool
    """Whether the base model had the baseline that the operation needs."""
    asked: int
    """How many prompts about the fact were answered both times."""
    said: tuple[int, int]
    """In how many of them the object is said (for an insertion or a modification: the new one)."""
    example: tuple[str, str]
    """How the first of them was continued; empty where none was."""

    def __repr__(self) -> str:
        return "<FactAnswers>"

    def to_json(self, *, show_sensitive: bool) -> dict[str, Any]:
        """As JSON values; names, objects and answers only if asked for."""
        fact = self.fact
        value: dict[str, Any] = {
            "op": fact.op,
            "relation": fact.relation,
            "subject": self.subject_digest,
            "object": self.object_digest,
            "known": self.known,
            "prompts": self.asked,
            "said_before": self.said[0],
            "said_after": self.said[1],
        }
        if show_sensitive:
            value |= {"subject": fact.subject, "object": fact.object}
            if fact.new_object is not None:
                value["new_object"] = fact.new_object
            value |= {"answer_before": self.example[0], "answer_after": self.example[1]}
        return value


def answers(run: Run, catalogue: Catalogue) -> Iterator[FactAnswers]:
    """For each fact of a run, what was said of it; the digests are the run's own."""
    from safeedit.runs.folder import RunFolder

    redactor = RunFolder.open(run.path).redactor
    kept = run.report.transcripts()
    texts = [{row["prompt"]: row["text"] for row in kept.get(when, ())} for when in ("before", "after")]
    for fact, known in zip(run.facts, run.known, strict=True):
        yield _answers(fact, known, texts, catalogue, redactor.digest)


def _answers(
    fact: Fact, known: bool, texts: Sequence[Mapping[str, str]], catalogue: Catalogue, digest: Any
) -> FactAnswers:
    from safeedit.policy.answers import first_sentence
    from safeedit.probes.match import Answer, find_leak, states

    names = (fact.subject, *fact.aliases)
    asked = [
        prompt
        for name in names
        for template in (*fact.edit_templates, *fact.probe_templates)
        if all((prompt := template.replace(SUBJECT, name)) in said for said in texts)
    ]
    closed = fact.relation in catalogue and bool(catalogue[fact.relation].objects)
    old = Answer((fact.object, *fact.object_aliases), closed=closed, names=names)
    new = Answer((fact.target,)) if fact.target is not None else None
    before, after = (
        sum(
            find_leak(old, prompt, said[prompt]) is not None if new is None else states(new, said[prompt])
            for prompt in asked
        )
        for said in texts
    )
    shown = [first_sentence(said[asked[0]]) if asked else "" for said in texts]
    return FactAnswers(
        fact,
        digest(fact.subject),
        digest(fact.object),
        known,
        len(asked),
        (before, after),
        (shown[0], shown[1]),
    )
