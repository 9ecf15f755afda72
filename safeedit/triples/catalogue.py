"""The relation catalogue: how each relation of a triple is put into words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Annotated, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

SUBJECT = "{subject}"


def _one_subject(template: str) -> str:
    if template.count(SUBJECT) != 1:
        raise ValueError(f"must contain {SUBJECT} exactly once")
    if template != template.strip():
        raise ValueError("must not begin or end with white space")
    return template


Template = Annotated[str, AfterValidator(_one_subject), Field(min_length=1, max_length=500)]


class Relation(BaseModel):
    """One relation: the sentences and questions that ask for its object."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    cloze: list[Template] = Field(min_length=1)
    """Sentences that the object continues; `{subject}` stands for the subject."""
    questions: list[Template] = Field(default_factory=list)
    """The same, asked; see `prompts` for how a completion model is asked."""
    objects: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)
    """The answers that are possible, where the list is closed; empty means open."""
    about: Literal["person", "organisation", "place"] = "person"
    """What kind of subject the relation belongs to."""

    def prompts(self, subject: str) -> tuple[str, ...]:
        """Every phrasing for `subject`, clozes first, questions rendered for a completion model."""
        asked = [render_question(question) for question in self.questions]
        return tuple(template.replace(SUBJECT, subject) for template in (*self.cloze, *asked))


def render_question(question: str) -> str:
    """How a question is put to a completion model; the answer continues it."""
    return f"Question: {question}\nAnswer:"


class Catalogue(Mapping[str, Relation]):
    """Relations by name; reading it like a dictionary is all that it can do."""

    def __init__(self, relations: Mapping[str, Relation]) -> None:
        self._relations = dict(relations)

    def __getitem__(self, name: str) -> Relation:
        return self._relations[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._relations)

    def __len__(self) -> int:
        return len(self._relations)

    def with_overrides(self, relations: Mapping[str, Relation]) -> Catalogue:
        """A catalogue in which `relations` are added, or take the place of entries of the same name."""
        return Catalogue({**self._relations, **relations})

    def about(self, kind: str) -> tuple[str, ...]:
        """Names of the relations that subjects of this kind can have."""
        return tuple(name for name, relation in self._relations.items() if relation.about == kind)


@cache
def builtin_catalogue() -> Catalogue:
    """The catalogue that ships with safeedit."""
    text = (files("safeedit_policies") / "relations.yaml").read_text("utf-8")
    return Catalogue({name: Relation.model_validate(body) for name, body in yaml.safe_load(text).items()})
