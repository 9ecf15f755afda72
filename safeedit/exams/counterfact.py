"""CounterFact's records (arXiv 2202.05262): a fact, what shall be said instead, and prompts around it.

Read as its authors publish it (`requested_rewrite` with a template), and with the flat names that other
editing libraries give the same fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from safeedit.exams.records import Record, Text, Texts
from safeedit.triples.catalogue import SUBJECT

SHAPE = "requested_rewrite: {prompt, relation_id, subject, target_new: {str}, target_true: {str}}"
GAP = "{}"
"""Where the subject stands in a template."""

_PLACES = frozenset({"P17", "P30", "P36", "P37", "P47", "P131", "P190", "P276", "P1376"})
_ORGANISATIONS = frozenset({"P127", "P159", "P176", "P178", "P264", "P407", "P449", "P495", "P740"})
"""Relations of Wikidata by what their subjects mostly are; those of the rest are mostly people."""


class Target(Record):
    """An object."""

    text: Text = Field(alias="str")


class Rewrite(Record):
    """The fact and its new object."""

    prompt: Text
    relation_id: Text = "counterfact"
    subject: Text
    target_new: Target
    target_true: Target


class CounterFactRecord(Record):
    """One record."""

    requested_rewrite: Rewrite
    paraphrase_prompts: Texts = ()
    neighborhood_prompts: Texts = ()

    @model_validator(mode="before")
    @classmethod
    def _flat(cls, value: Any) -> Any:
        """The nested form of a record that has other libraries' names."""
        if not isinstance(value, Mapping) or "requested_rewrite" in value or "target_new" not in value:
            return value
        truth = value.get("ground_truth", value.get("target_true"))
        rewrite = {key: value[key] for key in ("prompt", "subject", "relation_id") if key in value}
        rewrite["target_new"] = _target(value["target_new"])
        if truth is not None:
            rewrite["target_true"] = _target(truth)
        neighbours = value.get("neighborhood_prompts", value.get("locality_prompt", ()))
        paraphrases = value.get("paraphrase_prompts", value.get("rephrase_prompt", ()))
        return {
            "requested_rewrite": rewrite,
            "paraphrase_prompts": (paraphrases,) if isinstance(paraphrases, str) else paraphrases,
            "neighborhood_prompts": (neighbours,) if isinstance(neighbours, str) else neighbours,
        }

    @model_validator(mode="after")
    def _names_the_subject(self) -> CounterFactRecord:
        if GAP not in self.requested_rewrite.prompt and self.subject not in self.requested_rewrite.prompt:
            raise PydanticCustomError("prompt", "its prompt must hold {{}} where the subject stands")
        return self

    @property
    def subject(self) -> str:
        """Whom it is about."""
        return self.requested_rewrite.subject

    @property
    def true(self) -> str:
        """What is so."""
        return self.requested_rewrite.target_true.text.strip()

    @property
    def new(self) -> str:
        """What shall be said instead."""
        return self.requested_rewrite.target_new.text.strip()

    @property
    def prompt(self) -> str:
        """The prompt of the edit."""
        return self.requested_rewrite.prompt.replace(GAP, self.subject)

    @property
    def template(self) -> str:
        """The same, with a place for other subjects."""
        prompt = self.requested_rewrite.prompt
        return prompt.replace(GAP if GAP in prompt else self.subject, SUBJECT, 1).strip()

    @property
    def relation(self) -> str:
        """The relation's name in Wikidata."""
        return self.requested_rewrite.relation_id

    @property
    def about(self) -> Literal["person", "organisation", "place"]:
        """What kind of subject such relations have."""
        if self.relation in _PLACES:
            return "place"
        return "organisation" if self.relation in _ORGANISATIONS else "person"

    @property
    def paraphrases(self) -> tuple[str, ...]:
        """Other prompts for the same fact."""
        return self.paraphrase_prompts

    @property
    def neighbours(self) -> tuple[str, ...]:
        """Prompts about others of whom the true object holds."""
        return self.neighborhood_prompts


def _target(value: object) -> object:
    if isinstance(value, list | tuple) and value:
        value = value[0]
    return value if isinstance(value, Mapping) else {"str": value}
