"""What every editor is: a name, its settings, and a way from edits to a patch."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict

from safeedit.errors import UsageError
from safeedit.policy.positions import validated
from safeedit.policy.rules import Finding
from safeedit.policy.words import findings_of
from safeedit.triples.facts import Edit, Op

if TYPE_CHECKING:
    from safeedit.deltas import WeightDelta
    from safeedit.editors.journal import Notes
    from safeedit.editors.statistics import Corpus, OwnText
    from safeedit.memories import Memory
    from safeedit.models.segment import Segment
    from safeedit.models.structure import Decoder
    from safeedit.patch import Patch

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, in all)."""


class SettingsError(UsageError):
    """An editor does not take these settings; `findings` has each that is wrong, with its place in them."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = tuple(findings)
        super().__init__("\n".join(dict.fromkeys(finding.message for finding in findings)))


class Params(BaseModel):
    """Base of an editor's settings: unknown ones are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Settings of publications, by what the setting `preset`, where there is one, may be."""

    instead: ClassVar[Mapping[str, str]] = {}
    """Settings that, given explicitly, take the place of another that a preset has."""

    def with_preset(self) -> Self:
        """The settings with the preset's values where none was given explicitly."""
        preset = getattr(self, "preset", None)
        values = self.published[preset] if preset is not None else {}
        given = self.model_fields_set
        given = given | {other for name, other in self.instead.items() if name in given}
        return self.model_copy(update={k: v for k, v in values.items() if k not in given})


@dataclass(frozen=True, repr=False)
class Job:
    """One call of an editor, with what every editor looks up first."""

    model: Any
    """Frozen: no parameter asks for a gradient, and it is in evaluation mode."""
    tokenizer: Any
    edits: Sequence[Edit]
    decoder: Decoder
    segment: Segment
    corpus: Corpus | OwnText | None
    cache: Path | None
    digests: Mapping[str, str]
    seed: int
    report: Progress
    notes: Notes
    """Where work is kept that an edit which was cut short need not do again."""
    controls: Sequence[str] = ()
    """Prompts whose answers shall stay as they are."""
    basis: str | None = None
    """Digest of the model whose statistics shall serve, where that is not this one."""


@dataclass(frozen=True)
class Made:
    """What an editor found; the rest of a patch is the same for all."""

    deltas: Mapping[str, WeightDelta] = field(default_factory=dict)
    """By tensor name."""
    settled: Mapping[str, Any] = field(default_factory=dict)
    """Settings as they were used, where they are others than those given."""
    meta: Mapping[str, float] = field(default_factory=dict)
    """Figures of the search."""
    memories: Mapping[str, Memory] = field(default_factory=dict)
    """By the name of the weight of the module at which each is put."""


class Editor(ABC):
    """Turns edits into a patch; the model is the same before and after, whatever happens."""

    name: ClassVar[str]
    summary: ClassVar[str]
    """One line for a list."""
    paper: ClassVar[str]
    """arXiv id."""
    operations: ClassVar[frozenset[Op]]
    cannot: ClassVar[Mapping[Op, str]] = {}
    """Why not, for the other operations."""
    beside_weights: ClassVar[bool] = False
    """Whether patches hold memories beside the weights, which no checkpoint can hold."""
    Params: ClassVar[type[Params]]

    def __init__(self, /, **params: Any) -> None:
        """Check the settings.

        Raises:
            SettingsError: a setting is unknown or has an impossible value; everything wrong is told.
        """
        found, errors = validated(self.Params, params)
        if found is None:
            wrong = findings_of(errors, params, self.Params, whole="its settings", unknown="no such setting")
            raise SettingsError([self._complaint(finding) for finding in wrong])
        self.params = found.with_preset()

    def _complaint(self, finding: Finding) -> Finding:
        return replace(finding, message=f"editor {self.name}: {finding.message}")

    def check(self, edits: Sequence[Edit]) -> None:
        """Refuse what this editor cannot do.

        Raises:
            UsageError: no edits or something else, or an operation that this editor does not support.
        """
        if not edits:
            raise UsageError("there is nothing to edit")
        if not all(isinstance(edit, Edit) for edit in edits):
            raise UsageError("an editor takes a sequence of safeedit.Edit")
        self.check_operations({edit.op for edit in edits})

    @classmethod
    def check_operations(cls, wanted: Collection[Op]) -> None:
        """Refuse operations that this editor does not support.

        Raises:
            UsageError: there is one.
        """
        for op in sorted(set(wanted) - cls.operations):
            why = f": {cls.cannot[op]}" if op in cls.cannot else ""
            raise UsageError(
                f"editor {cls.name} cannot {op}{why}; it can {', '.join(sorted(cls.operations))}"
            )

    def hides(self) -> str | None:
        """Why what is erased would still be in the model, only unsaid; None where the weights lose it."""
        return "the weights keep what was erased" if self.beside_weights else None

    def tuned(self, depth: int) -> dict[str, tuple[Any, ...]]:
        """Settings worth trying on a model with `depth` blocks, each with its values, the default first."""
        return {}

    def layers_for(self, model: Any, tokenizer: Any, edits: Sequence[Edit]) -> tuple[int, ...]:
        """The blocks that `edit` would change; those of the setting `layers` unless an editor says more."""
        return tuple(getattr(self.params, "layers", None) or ())

    def edit(
        self,
        model: Any,
        tokenizer: Any,
        edits: Sequence[Edit],
        *,
        corpus: Corpus | OwnText | None = None,
        cache: Path | None = None,
        digests: Mapping[str, str] | None = None,
        seed: int = 0,
        progress: Progress | None = None,
        controls: Sequence[str] = (),
        basis: str | None = None,
    ) -> Patch:
        """Find what to change so that all `edits` hold.

        Args:
            model: a `transformers` causal LM; unchanged when this returns or raises.
            tokenizer: its fast tokenizer.
            edits: what shall be different.
            corpus: texts whose keys shall keep their values, or the model's own; the reference world's
                by default.
            cache: folder for statistics that take long to collect; None to collect them anew.
            digests: the model's `named_digests`, where the caller has them already.
            seed: the same seed gives the same patch.
            progress: called as the work goes on.
            controls: whole prompts whose answers shall stay as they are.
            basis: digest of the model whose statistics shall serve, where that is not this one: the one
                before earlier edits.

        Returns:
            The change as a patch, with the figures of the search in its `meta`.

        Raises:
            UsageError: the edits cannot be done by this editor.
            EditorError: no finite, usable result was reached.
        """
        from safeedit.applied import named_tensors
        from safeedit.editors.guards import relative_change
        from safeedit.models.hooks import frozen
        from safeedit.models.segment import Segment
        from safeedit.models.structure import find_decoder
        from safeedit.patch import Patch
        from safeedit.tensors.digest import named_digests

        self.check(edits)
        if not all(prompt.strip() for prompt in controls):
            raise UsageError("a prompt whose answer shall stay is empty")
        digests = named_digests(model) if digests is None else digests
        with frozen(model):
            decoder = find_decoder(model)
            report = progress or _quiet
            job = Job(
                model,
                tokenizer,
                edits,
                decoder,
                Segment(decoder),
                corpus,
                cache,
                digests,
                seed,
                report,
                self._notes(model, tokenizer, edits, corpus, [digests, seed, controls, basis]),
                controls,
                basis,
            )
            made = self._edit(job)
        tensors = named_tensors(model)
        changes = {name: relative_change(delta, tensors[name]) for name, delta in made.deltas.items()}
        return Patch.of(
            model,
            made.deltas,
            editor=self.name,
            digests=digests,
            params={**self.params.model_dump(mode="json"), **made.settled, "seed": seed},
            meta={
                "edits": len(edits),
                **({"change_max": max(changes.values())} if changes else {}),
                **made.meta,
            },
            memories=made.memories,
        )

    def _notes(
        self,
        model: Any,
        tokenizer: Any,
        edits: Sequence[Edit],
        corpus: Corpus | OwnText | None,
        others: Sequence[object],
    ) -> Notes:
        """The journal, if one is kept, and the digest of all that this editor is given."""
        from safeedit.applied import memory_digests
        from safeedit.editors.journal import JOURNAL, Notes, state_of, tokenizer_digest

        journal = JOURNAL.get()
        if journal is None:
            return Notes()
        about = {
            "editor": self.name,
            "params": self.params.model_dump(mode="json"),
            "edits": [asdict(edit) for edit in edits],
            "model": [memory_digests(model), model.config.to_json_string(use_diff=False)],
            "tokenizer": tokenizer_digest(tokenizer),
            "corpus": None if corpus is None else corpus.digest(),
            "others": others,
        }
        return Notes(journal, state_of(json.dumps(about, sort_keys=True), ()))

    @abstractmethod
    def _edit(self, job: Job) -> Made:
        """Do what `edit` promises."""


def _quiet(stage: str, done: int, total: int) -> None:
    """Nobody asked to be told."""
