"""The base of the probes that put a public data set to both models and report its paper's figures, paired."""

from __future__ import annotations

import math
import statistics
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from safeedit.errors import ProbeError, UsageError
from safeedit.exams import PREFIX
from safeedit.exams.paired import Key, Marks, Sample, Summary, compared, interval, least_certain, reported
from safeedit.exams.sources import Source, open_source
from safeedit.probes.base import Context, Figures, Options, Plan, Probe, View
from safeedit.probes.match import is_empty

if TYPE_CHECKING:
    from safeedit.models.scoring import Scored

TEXT = "text"
"""Kind of an item that is a whole text, to be weighed as it is."""
ONE_SIDED = 0.1
"""Of a two-sided interval whose ends are one-sided 95 % bounds."""


@dataclass(frozen=True, repr=False)
class Item:
    """One question."""

    part: str
    """Of the data set: its units are drawn and averaged by themselves."""
    unit: int
    """What the question is about: a record, with all that is asked about it."""
    kind: str
    """What the answer is marked for."""
    prompt: str
    texts: tuple[str, ...]
    """Continuations with their own leading spaces; or, for what is generated, the references."""
    generated: bool = False
    """Whether the model writes an answer, and does not only weigh the texts."""
    right: int = 0
    """Which of the texts is right, where the order is the data set's."""
    cluster: str | None = None
    """What its unit is drawn together with; None for a unit by itself."""


@dataclass(frozen=True, repr=False)
class ExamPlan(Plan):
    """Everything that is asked."""

    items: tuple[Item, ...]
    seed: int
    held: Mapping[str, int]
    """How many records each part holds; fewer may be asked about."""
    given: tuple[float, ...] = ()
    """Numbers that the data bring and the answers are compared with."""

    def prompts(self) -> tuple[str, ...]:
        """What the model is to go on from."""
        return tuple(item.prompt for item in self.items if item.generated)

    def material(self) -> object:
        """As JSON values."""
        return {
            "items": [
                [i.part, i.unit, i.kind, i.prompt, list(i.texts), i.generated, i.right, i.cluster]
                for i in self.items
            ],
            "seed": self.seed,
            "held": dict(self.held),
            "given": list(self.given),
        }


@dataclass(frozen=True, repr=False)
class Seen:
    """The marks of one model, and how many of its answers were empty."""

    marks: Marks
    empty: int = 0
    asked: str = ""
    """A digest of what was asked, where that was not fixed by the plan."""


class ExamOptions(Options):
    """Settings that every data set has."""

    paths: list[str] = Field(default_factory=list)
    """Files, folders or hub ids; `--dataset NAME:PATH` gives them."""
    n: int = Field(default=2000, ge=1)
    """Records of each part, at most; a sample of those that there are."""
    tokens: int = Field(default=32, ge=1, le=4096)
    """New tokens of an answer, at most."""


class Exam(Probe[ExamPlan, Seen]):
    """Base of the probes of public data sets.

    A subclass reads records (`load`), asks about them (`ask`), marks each answer (`marks_of`) and makes
    the paper's figures of the marks' means (`summary`). None decides anything: the figures are for
    comparison with what others publish, and stand in no shipped suite's gates.
    """

    gateable = frozenset({"after", "upper95", "lower95"})
    unit = "record"
    options: ExamOptions
    options_model = ExamOptions
    headline: ClassVar[tuple[str, ...]]
    """Names of figures; the first that there is stands as `before` and `after`."""
    local: ClassVar[bool] = True
    """Whether a path is the place of a file, a folder or a data set."""

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(options)
        self._loaded: Any = None

    @property
    def dataset(self) -> str:
        """What `--dataset` calls it."""
        return self.id.removeprefix(PREFIX)

    @property
    def protocol(self) -> str:
        """The data set, and how long answers may be."""
        return f"{self.dataset}-{self.new_tokens}"

    @property
    def new_tokens(self) -> int:
        """The options say."""
        return self.options.tokens

    def settings(self) -> Mapping[str, Any]:
        """The options that decide an outcome: where the data lay is not among them, what is in them is."""
        return self.options.model_dump(mode="json", exclude={"paths"})

    def read(self) -> Any:
        """Everything that the files hold, read once; see `load`.

        Raises:
            UsageError: no path was given, or nothing usable lies there.
        """
        if self._loaded is None:
            if not self.options.paths:
                raise UsageError(
                    f"the probe {self.id} needs data: --dataset {self.dataset}:PATH, "
                    "or 'paths' among its options"
                )
            self._loaded = self.load(self.sources())
        return self._loaded

    def sources(self) -> Sequence[Source]:
        """What the paths stand for."""
        return [open_source(path) for path in self.options.paths]

    @abstractmethod
    def load(self, sources: Sequence[Source]) -> Any:
        """The records of all sources.

        Raises:
            PolicyError: they are not such records.
        """

    @abstractmethod
    def ask(self, loaded: Any, context: Context) -> Iterable[Item]:
        """The questions, all that there are to ask."""

    @abstractmethod
    def marks_of(self, item: Item, text: str | None, scored: Sequence[Scored]) -> Mapping[str, float]:
        """The marks of one answer: of the text that was generated, or of the texts' probabilities."""

    @abstractmethod
    def summary(self, sample: Sample) -> Summary:
        """The paper's figures under the paper's names."""

    def plan(self, context: Context) -> ExamPlan:
        """The questions about a sample of the records of each part."""
        items = tuple(self.ask(self.read(), context))
        units: dict[str, list[int]] = {}
        for item in items:
            units.setdefault(item.part, []).append(item.unit)
        held = {part: len(set(found)) for part, found in units.items()}
        rng = context.rng(self.id)
        kept = {
            part: set(rng.sample(sorted(set(found)), min(self.options.n, held[part])))
            for part, found in units.items()
        }
        chosen = tuple(item for item in items if item.unit in kept[item.part])
        return ExamPlan(chosen, context.seed, held, self.given(self.read()))

    def given(self, loaded: Any) -> tuple[float, ...]:
        """Numbers that the data bring and answers are compared with."""
        return ()

    def written(self, item: Item, text: str, tokenizer: Any) -> str:
        """The part of a generated text that is marked."""
        return text

    def weighed(self, plan: ExamPlan, view: View) -> Mapping[Key, Mapping[int, float]]:
        """Marks of whole texts (`TEXT`), which no prompt stands before."""
        return {}

    def observe(self, plan: ExamPlan, view: View) -> Seen:
        """Mark every answer; several marks of one kind about one unit are averaged."""
        from safeedit.models.scoring import score_candidates

        asked = [item for item in plan.items if not item.generated and item.kind != TEXT]
        scores = iter(
            score_candidates(view.model, view.tokenizer, [i.prompt for i in asked], [i.texts for i in asked])
        )
        found: dict[Key, dict[int, list[float]]] = {}
        empty = 0
        for item in plan.items:
            if item.kind == TEXT:
                continue
            text = view.answers[item.prompt].text if item.generated else None
            scored = () if item.generated else next(scores)
            if text is not None:
                empty += is_empty(text)
                text = self.written(item, text, view.tokenizer)
            for mark, value in self.marks_of(item, text, scored).items():
                found.setdefault((item.part, mark), {}).setdefault(item.unit, []).append(value)
        marks = {k: {u: statistics.fmean(v) for u, v in own.items()} for k, own in found.items()}
        marks |= {key: dict(values) for key, values in self.weighed(plan, view).items()}
        if not all(math.isfinite(value) for own in marks.values() for value in own.values()):
            raise ProbeError("a mark is not a number")
        return Seen(marks, empty)

    def figures(self, plan: ExamPlan, before: Seen, after: Seen, known: Mapping[int, bool]) -> Figures:
        """The paper's figures of both models, each with the interval of its change."""
        if not plan.items and not before.marks and not after.marks:
            return Figures(0, verdict="SKIPPED")
        if before.asked != after.asked:
            raise ProbeError("the two models were not asked the same, so they cannot be compared")
        clusters: dict[str, dict[int, object]] = {}
        for item in plan.items:
            if item.cluster is not None:
                clusters.setdefault(item.part, {})[item.unit] = item.cluster
        base, edited = compared(before.marks, after.marks, plan.seed, clusters)
        old, new = self.summary(base), self.summary(edited)
        name = self.main_figure(new)
        if name is None:
            raise ProbeError("the data give none of the figures of this data set")
        n = len({(part, unit) for (part, _), values in after.marks.items() for unit in values})
        generated = len(plan.prompts())
        detail = reported(old, new, self._units(edited, new))
        detail |= {"held": sum(plan.held.values()), "empty_before": before.empty, "empty_after": after.empty}
        detail |= self.extras(plan, base, edited)
        value = float(new[name][0])
        low, high = interval(new[name], ONE_SIDED) or _around(value, n)
        return Figures(
            n=n,
            before=float(old[name][0]),
            after=value,
            lower95=low,
            upper95=high,
            detail=detail,
            doubtful=2 * after.empty > max(generated, 1),
        )

    def main_figure(self, found: Summary) -> str | None:
        """The name of the figure that stands as `before` and `after`."""
        return next((name for name in self.headline if name in found), None)

    def extras(self, plan: ExamPlan, before: Sample, after: Sample) -> Mapping[str, float]:
        """Further numbers, that are no means and have no interval."""
        return {}

    def is_share(self, mark: str) -> bool:
        """Whether a mark lies between 0 and 1, whatever the model does."""
        return True

    def _units(self, sample: Sample, figures: Summary) -> dict[str, int]:
        """How many units each figure rests on that is the mean of one such mark."""
        found = {}
        for (part, mark), values in sample.marks.items():
            for name in (mark, part, f"{part}_{mark}", f"{mark}_{part}"):
                if name in figures and self.is_share(mark):
                    found[name] = len(values)
        return found


def _around(value: float, n: int) -> tuple[float, float]:
    margin = least_certain(n, ONE_SIDED)
    return max(0.0, value - margin), min(1.0, value + margin)
