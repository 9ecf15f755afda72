"""zsRE's records as editing papers use them: a question, its answer, a rephrasing, and a question beside it.

Read with the names of its editing split (`src`, `answers`, `alt`, `rephrase`, `loc`, `loc_ans`; arXiv
2110.11309) and with those of later editing libraries.
"""

from __future__ import annotations

import hashlib
from typing import Literal

from pydantic import AliasChoices, Field, model_validator
from pydantic_core import PydanticCustomError

from safeedit.exams.records import OneOrMore, Record, Text
from safeedit.triples.catalogue import SUBJECT

SHAPE = "subject, src, answers (a list), rephrase, and alt, loc, loc_ans where there are such"


class ZsreRecord(Record):
    """One record."""

    subject: Text
    question: Text = Field(validation_alias=AliasChoices("src", "prompt"))
    answers: OneOrMore = Field(validation_alias=AliasChoices("answers", "ground_truth", "pred"), min_length=1)
    alternative: Text | None = Field(None, validation_alias=AliasChoices("alt", "target_new"))
    rephrasings: OneOrMore = Field((), validation_alias=AliasChoices("rephrase", "rephrase_prompt"))
    beside: Text | None = Field(None, validation_alias=AliasChoices("loc", "locality_prompt"))
    beside_answer: OneOrMore | None = Field(
        None, validation_alias=AliasChoices("loc_ans", "locality_ground_truth")
    )

    @model_validator(mode="after")
    def _names_the_subject(self) -> ZsreRecord:
        if self.subject not in self.question:
            raise PydanticCustomError("src", "its question must name the subject, spelt as in 'subject'")
        return self

    @property
    def prompt(self) -> str:
        """The question as editors are given it."""
        return self.question.strip()

    @property
    def template(self) -> str:
        """The same, with a place for other subjects."""
        return self.prompt.replace(self.subject, SUBJECT, 1)

    @property
    def true(self) -> str:
        """The answer."""
        return self.answers[0].strip()

    @property
    def new(self) -> str | None:
        """Another answer of the kind, to modify to."""
        return self.alternative.strip() if self.alternative else None

    @property
    def relation(self) -> str:
        """A name for the question: the set has none for its relations."""
        return f"zsre-{hashlib.sha256(self.template.encode()).hexdigest()[:12]}"

    @property
    def about(self) -> Literal["person", "organisation", "place"]:
        """The set does not say; most of its subjects are people or have people's names."""
        return "person"

    @property
    def paraphrases(self) -> tuple[str, ...]:
        """Other questions for the same fact."""
        return self.rephrasings

    @property
    def neighbours(self) -> tuple[str, ...]:
        """A question about something else, as its users put it."""
        return (f"{self.beside.strip().removesuffix('?')}?",) if self.beside else ()
