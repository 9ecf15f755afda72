"""What a probe is: it plans its prompts before any editing, observes a model, and compares two observations.

A probe never decides what passes. It gives `Figures`; the suite's gates turn them into a verdict.
Prompts depend on the request, the controls and the seed alone, never on a model.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from safeedit.behaviours import Behaviours
from safeedit.probes.controls import Controls
from safeedit.triples.catalogue import Catalogue, Relation
from safeedit.triples.facts import Fact

if TYPE_CHECKING:
    from safeedit.models.generate import Generation

Family = Literal[
    "forgetting", "success", "locality", "utility", "attack", "behaviour", "membership", "toxicity"
]
Grade = Literal["G0", "G1", "G2", "G3", "G4", "G5"]
Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE", "NO_BASELINE", "ERROR", "SKIPPED"]
Number = Literal["leaks", "losses", "after", "upper95", "lower95", "excess95", "worst95"]
"""The figures that a gate can stand on."""


@dataclass(frozen=True)
class Figures:
    """What came out of one probe: numbers alone, no text."""

    n: int
    """How many units the figures rest on."""
    before: float | None = None
    after: float | None = None
    leaks: int | None = None
    """Units in which something was said that should not be."""
    losses: int | None = None
    """Units that were right before the edit and are wrong after it."""
    upper95: float | None = None
    lower95: float | None = None
    excess95: float | None = None
    """Upper bound of how far `after` lies above `placebo`."""
    worst95: float | None = None
    """The largest upper bound of any part by itself (of any language, say) and of the whole."""
    worst: float | None = None
    """The rate that was measured there."""
    placebo: float | None = None
    """The same rate for invented subjects: what chance alone gives."""
    detail: Mapping[str, float] = field(default_factory=dict)
    """Further numbers by name."""
    verdict: Verdict | None = None
    """Set where no gate is asked: SKIPPED or NO_BASELINE."""
    doubtful: bool = False
    """Whether something speaks against trusting a pass; a PASS then becomes INCONCLUSIVE."""
    whole: bool = True
    """Whether the units are all that there are, which a gate that counts losses takes for granted."""


@dataclass(frozen=True, repr=False)
class Earlier:
    """What earlier requests did to the model that this one changes."""

    requests: tuple[tuple[Fact, ...], ...] = ()
    """The facts that each edited, the oldest request first."""
    relations: Mapping[str, Relation] = field(default_factory=dict)
    """Their catalogue's relations, those included that only their policies know."""
    unreadable: int = 0
    """How many requests there were besides, of which nobody here can read what they asked for."""


@dataclass(frozen=True, repr=False)
class Context:
    """All that a probe may plan from."""

    facts: tuple[Fact, ...]
    controls: Controls
    catalogue: Catalogue
    seed: int
    earlier: Earlier = Earlier()
    chat: bool = False
    """Whether the tokenizer has a chat template, through which questions are then put as well."""
    behaviours: Behaviours = field(default_factory=Behaviours)
    """What a detoxification shall take away, and what it shall leave."""

    @cached_property
    def objects(self) -> Mapping[str, frozenset[str]]:
        """The objects of the controls, by relation."""
        found: dict[str, set[str]] = {}
        for control in self.controls.facts:
            found.setdefault(control.relation, set()).add(control.object)
        return {relation: frozenset(objects) for relation, objects in found.items()}

    def rng(self, label: str) -> random.Random:
        """Random numbers of their own for each purpose, the same on every machine."""
        return random.Random(f"{self.seed}|{label}")


class Plan(ABC):
    """What a probe will do, decided before any editing. Its `repr` shows no text."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    @abstractmethod
    def prompts(self) -> tuple[str, ...]:
        """The prompts whose continuations the probe needs."""

    @abstractmethod
    def material(self) -> object:
        """Everything that was decided, as JSON values, for a commitment."""


@dataclass(frozen=True, repr=False)
class View:
    """What a probe sees of one model."""

    model: Any
    tokenizer: Any
    answers: Mapping[str, Generation]
    """The continuation of each prompt of the plan."""
    base: Any = None
    """What the same probe observed on the base model, if that was before."""
    ask: Callable[[Sequence[str]], Mapping[str, Generation]] | None = None
    """Continues further prompts, for a probe whose plan says that more is asked where the first do not
    decide; what was answered already is not asked again."""


class Options(BaseModel):
    """Settings of a probe as a suite gives them; an unknown one is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


P = TypeVar("P", bound=Plan)
Seen = TypeVar("Seen")


class Probe(ABC, Generic[P, Seen]):
    """One measurement, made on the base model and on the edited one.

    A subclass states in its docstring what is measured, on which unit, by which protocol, and
    where the idea comes from; the first line is what ``safeedit probes`` lists.
    """

    id: ClassVar[str]
    family: ClassVar[Family]
    grade: ClassVar[Grade | None] = None
    """The rung of the evidence ladder that the probe belongs to."""
    metric: ClassVar[str]
    unit: ClassVar[str]
    gateable: ClassVar[frozenset[Number]]
    """The figures that the probe gives and a gate may therefore stand on."""
    options_model: ClassVar[type[Options]] = Options

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        self.options = self.options_model.model_validate(dict(options or {}))

    def settings(self) -> Mapping[str, Any]:
        """The options that decide an outcome, as JSON values, for a commitment."""
        return self.options.model_dump(mode="json")

    @property
    @abstractmethod
    def protocol(self) -> str:
        """How the figures are obtained, in one word; figures of different protocols do not compare."""

    @property
    def new_tokens(self) -> int:
        """How many tokens to generate for each prompt; 0 for a probe that generates nothing."""
        return 0

    @abstractmethod
    def plan(self, context: Context) -> P:
        """Decide every prompt, and what is looked for in the answers."""

    @abstractmethod
    def observe(self, plan: P, view: View) -> Seen:
        """What the model does; a figure that is not finite or a missing answer is an exception."""

    @abstractmethod
    def figures(self, plan: P, before: Seen, after: Seen, known: Mapping[int, bool]) -> Figures:
        """Compare the base model with the edited one.

        Args:
            plan: what was decided.
            before: seen on the base model.
            after: seen on the edited model.
            known: for each fact, whether the base model had the baseline that its operation needs.
        """

    def covers(self, plan: P) -> frozenset[int]:
        """The facts (by index) whose old object the probe looks for in generated text."""
        return frozenset()

    def said(self, plan: P, seen: Seen) -> frozenset[int]:
        """Those of the covered facts whose old object the model says."""
        return frozenset()

    def misbehaves(self, plan: P, seen: Seen) -> bool:
        """Whether the model shows any of the behaviours that shall go; the baseline of a detoxification."""
        return False


class Greedy:
    """Of probes whose texts are greedy continuations; stands before `Probe` among their bases."""

    options: Any

    @property
    def protocol(self) -> str:
        """Greedy decoding, and how long."""
        return f"greedy-{self.options.tokens}"

    @property
    def new_tokens(self) -> int:
        """The suite says."""
        tokens: int = self.options.tokens
        return tokens
