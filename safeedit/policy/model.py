"""A policy as validated, immutable data: what is asked for, by whom, and how it shall be judged.

Everything personal in a policy stays out of `repr`, `str` and validation messages.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable
from contextlib import suppress
from datetime import date, datetime
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic.config import JsonDict
from pydantic_core import InitErrorDetails, PydanticCustomError

from safeedit.canonical import canonical_json
from safeedit.policy.rules import (
    BEHAVIOUR_SOURCES,
    SOURCES,
    Finding,
    Loc,
    behaviour_findings,
    fact_findings,
    operation_findings,
    policy_findings,
    subject_findings,
)
from safeedit.triples.catalogue import Catalogue, Relation, builtin_catalogue
from safeedit.triples.facts import Op

RULE = "policy_rule"
"""Type of the validation errors that come from `safeedit.policy.rules`."""
BAD_TEXT = "policy_text"
"""Type of the validation errors about a text's characters, and about dates; the message is the words."""

_FORBIDDEN = {"Cc", "Cs", "Zl", "Zp"}
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_FIRST_YEAR, _LAST_YEAR = 2000, 2999


def _text(text: str) -> str:
    if any(unicodedata.category(char) in _FORBIDDEN and char not in "\n\t" for char in text):
        raise PydanticCustomError(BAD_TEXT, "must not hold control characters")
    if not text.strip():
        raise PydanticCustomError(BAD_TEXT, "must not be empty")
    return text


def _trimmed(text: str) -> str:
    if text != text.strip():
        raise PydanticCustomError(BAD_TEXT, "must not begin or end with white space")
    return text


def _one_line(text: str) -> str:
    if "\n" in text or "\t" in text:
        raise PydanticCustomError(BAD_TEXT, "must stand on one line, without tabs")
    return text


def _iso_date(value: object) -> object:
    day = value if isinstance(value, date) and not isinstance(value, datetime) else None
    if isinstance(value, str) and _DATE.fullmatch(value):
        with suppress(ValueError):  # The 31st of February is no date either, and gets the same message.
            day = date.fromisoformat(value)
    if day is None or not _FIRST_YEAR <= day.year <= _LAST_YEAR:
        raise PydanticCustomError(BAD_TEXT, "must be a date such as 2026-11-02")
    return day


Passage = Annotated[str, StringConstraints(min_length=1, max_length=20_000), AfterValidator(_text)]
Prompt = Annotated[
    str, StringConstraints(min_length=1, max_length=500), AfterValidator(_text), AfterValidator(_trimmed)
]
Name = Annotated[Prompt, AfterValidator(_one_line)]
Category = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
RelationName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:-]{1,64}$")]
IsoDate = Annotated[date, BeforeValidator(_iso_date)]

Regime = Literal["gdpr-17", "ccpa-delete", "delete-act", "correction", "safety", "internal"]
Grade = Literal["G1", "G2", "G3", "G4"]


class _Closed(BaseModel):
    """Immutable, without unknown keys, and silent about what it holds."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, hide_input_in_errors=True
    )

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    __str__ = __repr__

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        return ()


class Metadata(_Closed):
    """Whose request this is, under which rule, and since when."""

    id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    """Name of the request; the run's folder and the audit log use it, so put no personal data in it."""
    regime: Regime
    """The rule that the request comes under; it sets the date by which an answer is due."""
    received: IsoDate
    """The day on which the request came in."""
    description: Annotated[str, StringConstraints(max_length=20_000)] | None = None
    """Free text; treated as personal data and never copied into a log or a report."""


class Prompts(_Closed):
    """A fact's own phrasings; they take the place of the relation catalogue's."""

    edit: Annotated[tuple[Prompt, ...], Field(min_length=1)] | None = None
    """Prompts that an editor may see; each names the subject once (or has {subject}), the object follows."""
    paraphrases: Annotated[tuple[Prompt, ...], Field(min_length=1)] | None = None
    """Other phrasings of the same fact; for probes alone, they never reach an editor."""
    neighbours: Annotated[tuple[Prompt, ...], Field(min_length=1)] | None = None
    """Prompts about other subjects, whose answers shall stay; for probes alone."""


class StatedFact(_Closed):
    """A triple: subject, relation, object."""

    subject: Name
    """Whom or what the fact is about, spelt as in text."""
    relation: Name
    """A relation of the catalogue or of `relations`."""
    object: Name
    """What is true now (erase, modify), or what shall be true (insert)."""
    aliases: tuple[Name, ...] = ()
    """Other names of the subject."""
    object_aliases: tuple[Name, ...] = ()
    """Other spellings of the object; any of them in the model's words counts as the object."""
    prompts: Prompts | None = None
    """Phrasings of this fact's own."""

    @model_validator(mode="after")
    def _rules(self) -> Self:
        _raise(type(self).__name__, fact_findings(self))
        return self


class ChangedFact(StatedFact):
    """A triple, and what shall take the place of its object."""

    new_object: Name
    """What shall be true instead of `object`."""


class NamedSubject(_Closed):
    """A person of whom all that the model says shall be erased."""

    name: Name
    """The person's name, spelt as in text."""
    aliases: tuple[Name, ...] = ()
    """Other names of the person."""
    relations: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    """Relations to narrow the request to; without them, every relation of the catalogue about people."""

    @model_validator(mode="after")
    def _rules(self) -> Self:
        _raise("NamedSubject", subject_findings(self))
        return self


class StatedBehaviour(_Closed):
    """A prompt, the answer that shall go, and one that may take its place."""

    prompt: Passage
    """What the model is asked; the answer follows after a space, or directly if it ends in white space."""
    unsafe: Passage
    """An answer that it shall no longer give."""
    safe: Passage
    """An answer that it may give."""
    category: Category = "behaviour"
    """A code of its kind, such as insult, by which figures are broken down; put no personal data in it."""

    @model_validator(mode="after")
    def _rules(self) -> Self:
        _raise(type(self).__name__, behaviour_findings(self))
        return self


FactsFile = Annotated[str, StringConstraints(min_length=1, max_length=1000)]


def _one_of(keys: Iterable[str]) -> JsonDict:
    return {"oneOf": [{"required": [key]} for key in keys]}


class _Operation(_Closed):
    """Base of operations on facts."""

    @model_validator(mode="after")
    def _rules(self) -> Self:
        _raise(type(self).__name__, operation_findings(self))
        return self


class Erase(_Operation):
    """Make the model forget facts, or all that it says of people."""

    model_config = ConfigDict(json_schema_extra=_one_of(SOURCES))

    op: Literal["erase"]
    facts: Annotated[tuple[StatedFact, ...], Field(min_length=1)] | None = None
    """The facts to erase, as the model states them now."""
    facts_file: FactsFile | None = None
    """A file with a fact a line, or counterfact:FILE, zsre:FILE; in or below the policy's folder."""
    subjects: Annotated[tuple[NamedSubject, ...], Field(min_length=1)] | None = None
    """People; what the model knows of them is found by asking it."""


class Modify(_Operation):
    """Give facts another object."""

    model_config = ConfigDict(json_schema_extra=_one_of(SOURCES[:2]))

    op: Literal["modify"]
    facts: Annotated[tuple[ChangedFact, ...], Field(min_length=1)] | None = None
    """The facts to change, with what is true now and what shall be."""
    facts_file: FactsFile | None = None
    """A file with a fact a line, or counterfact:FILE, zsre:FILE; in or below the policy's folder."""


class Insert(_Operation):
    """Teach facts that the model does not know."""

    model_config = ConfigDict(json_schema_extra=_one_of(SOURCES[:2]))

    op: Literal["insert"]
    facts: Annotated[tuple[StatedFact, ...], Field(min_length=1)] | None = None
    """The facts to teach."""
    facts_file: FactsFile | None = None
    """A file with a fact a line, or counterfact:FILE, zsre:FILE; in or below the policy's folder."""


Passages = Annotated[tuple[Passage, ...], Field(min_length=1, max_length=10_000)]


class Detox(_Operation):
    """Take unsafe answers away."""

    model_config = ConfigDict(json_schema_extra=_one_of(BEHAVIOUR_SOURCES))

    op: Literal["detox"]
    behaviours: Annotated[tuple[StatedBehaviour, ...], Field(min_length=1)] | None = None
    """Examples of what shall go and of what may come instead."""
    behaviours_file: FactsFile | None = None
    """A file with a behaviour a line; in or below the policy's folder."""
    unseen: Passages | None = None
    """Other prompts that provoke the same, for probes alone; without them some behaviours are held out."""
    attacks: Passages | None = None
    """Texts around {prompt} that make models misbehave; for probes alone."""
    answerable: Passages | None = None
    """Harmless prompts that must be answered as before; the editor may see every other one of them."""


Operation: TypeAlias = Annotated[Erase | Modify | Insert | Detox, Field(discriminator="op")]


class EditorChoice(_Closed):
    """Which editor makes the change, and how."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
    """Name of an editor; `safeedit editors` lists them."""
    params: dict[str, JsonValue] = Field(default_factory=dict)
    """Hyperparameters of that editor, by their own names."""


class ProbeChoice(_Closed):
    """What the result is judged by."""

    suite: Name = "standard"
    """smoke, standard, full, or a suite file."""
    controls: Name | None = None
    """Facts of others that must survive: a file beside the policy, or an id of a data set."""
    retained: Name | None = None
    """Texts that must stay as likely as they are: a file beside the policy, or an id of a data set."""
    prompts: Name | None = None
    """More phrasings of the facts, for probes alone: a file beside the policy, or an id of a data set."""
    scorers: Annotated[tuple[Name, ...], Field(min_length=1, max_length=2)] | None = None
    """By what toxicity is judged, in place of the suite's: embedded, linear:FILE, transformers:FOLDER,
    detoxify:NAME or detoxify:FILE; with two, a result on which they disagree decides nothing."""
    datasets: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    """Public data sets to measure before and after, each NAME:PATH."""


class SignOff(_Closed):
    """Who must agree before the run counts as signed off."""

    approvers: Annotated[int, Field(strict=True, ge=1, le=100)] = 1
    """How many distinct keys must sign."""


class Policy(_Closed):
    """A request to change what a model says, with everything it needs to be carried out and judged."""

    # The file's own spelling, so that a policy reads and writes under one name.
    apiVersion: Literal["safeedit/v1"]  # noqa: N815
    """Version of this format."""
    metadata: Metadata
    """Whose request this is, under which rule, and since when."""
    relations: dict[RelationName, Relation] = Field(default_factory=dict)
    """Relations that are added to the catalogue, or take the place of its entries."""
    operations: Annotated[tuple[Operation, ...], Field(min_length=1)]
    """What shall be done, in this order."""
    protect: Annotated[tuple[Prompt, ...], Field(min_length=1, max_length=10_000)] | None = None
    """Prompts whose answers the editor shall leave as they are; treated as personal data."""
    editor: EditorChoice | None = None
    """Without it, an editor is chosen for the operation and the assurance asked for."""
    assurance: Grade | None = None
    """Evidence grade that the run must reach."""
    probes: ProbeChoice = ProbeChoice()
    """What the result is judged by."""
    sign_off: SignOff | None = None
    """Without it, nobody has to sign."""

    @model_validator(mode="after")
    def _rules(self) -> Self:
        _raise("Policy", policy_findings(self))
        return self

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Policy:
        """The policy in a YAML file, with the facts of every `facts_file` in it.

        Raises:
            PolicyError: the file is not a valid policy; everything that is wrong, with positions.
        """
        # The loader validates into this class, so it cannot be imported before the class exists.
        from safeedit.policy.load import load_policy

        return load_policy(path)

    def kinds(self) -> tuple[Op, ...]:
        """The kinds of operation in the policy, in the order of their first appearance."""
        return tuple(dict.fromkeys(operation.op for operation in self.operations))

    def due(self) -> date | None:
        """The day by which an answer is due by law; None where the regime sets none.

        Extensions, week-ends and holidays are not counted in; `safeedit.evidence.clock` has the law.
        """
        from safeedit.evidence.clock import RULES

        answer = RULES[self.metadata.regime].answer
        return None if answer is None else answer.after(self.metadata.received)

    def catalogue(self, base: Catalogue | None = None) -> Catalogue:
        """`base` (the built-in catalogue) with the policy's own relations."""
        return (builtin_catalogue() if base is None else base).with_overrides(self.relations)

    def canonical_bytes(self) -> bytes:
        """One byte string for one policy (RFC 8785), all its personal data included.

        `Policy.model_validate_json` reads it back. For a digest that leaves the vault, use a keyed
        one: names and telephone numbers are few enough to be guessed from a bare hash.
        """
        return canonical_json(self.model_dump(mode="json", exclude_none=True))


def _raise(title: str, findings: Iterable[Finding]) -> None:
    errors = [
        InitErrorDetails(
            type=PydanticCustomError(RULE, "{words}", {"words": finding.text(_dotted)}),
            loc=finding.loc,
            input=None,
        )
        for finding in findings
    ]
    if errors:
        raise ValidationError.from_exception_data(title, errors)


def _dotted(loc: Loc) -> str:
    return ".".join(str(part) for part in loc)
