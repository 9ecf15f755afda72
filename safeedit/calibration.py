"""Settings of an editor for a model that nobody has tried it on, found on facts that the model knows.

No table of model names is asked. Facts that the model is known to state (the controls that come with
it, or the common knowledge that ships) are edited for a moment: some get each other's objects, and the
rest must stay. One setting after another is varied, as the editor says that it should be
(`Editor.tuned`), and the value stays that serves best. Nothing personal is needed, nothing is kept.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from safeedit.editors import EDITORS
from safeedit.errors import EditorError, UsageError
from safeedit.policy.compile import fact_for
from safeedit.probes.controls import ControlFact, load_controls
from safeedit.probes.match import Answer, states
from safeedit.probes.suite import load_suite
from safeedit.seeds import check_seed
from safeedit.triples.catalogue import builtin_catalogue

if TYPE_CHECKING:
    import os

    from safeedit.editors.base import Editor
    from safeedit.editors.statistics import Corpus, OwnText
    from safeedit.runs.options import ModelSource
    from safeedit.triples.facts import Edit, Fact

Progress = Callable[[str, int, int], None]

FEWEST = 4
"""Known facts without which nothing can be said."""
BETTER = 0.005
"""How much better another value must be to take the place of the one before it."""


@dataclass(frozen=True)
class Trial:
    """What one choice of settings did; all shares are of what greedy text says, 0 to 1."""

    params: Mapping[str, Any]
    """Settings other than the defaults."""
    reliability: float
    """Edits that hold in the prompts that the editor saw."""
    generalisation: float
    """The same in other phrasings."""
    locality: float
    """Other facts that are still right."""
    seconds: float
    """For one edit."""
    failed: bool = False
    """Whether the editor found no usable change."""

    @property
    def score(self) -> float:
        """The harmonic mean of the three, so that none makes up for another."""
        parts = (self.reliability, self.generalisation, self.locality)
        return 0.0 if min(parts) <= 0 else len(parts) / sum(1 / part for part in parts)


@dataclass(frozen=True)
class Calibration:
    """What was tried, and what came out best."""

    editor: str
    op: str
    """What was tried: `modify`, or `erase` for an editor that can do nothing else."""
    known: int
    """Facts that the model was found to know."""
    edited: int
    kept: int
    trials: tuple[Trial, ...]
    """The defaults first."""
    best: Trial

    @property
    def params(self) -> dict[str, Any]:
        """The settings to use: what differs from the defaults, for a policy's `editor.params`."""
        return dict(self.best.params)


def calibrate(
    editor: str,
    model: ModelSource = None,
    *,
    facts: int = 12,
    kept: int = 60,
    suite: str | os.PathLike[str] = "standard",
    statistics: str | os.PathLike[str] | None = None,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    progress: Progress | None = None,
) -> Calibration:
    """Try an editor's settings on facts that a model knows; the model stays as it is.

    Args:
        editor: its name.
        model: as in `safeedit.apply`.
        facts: how many facts are edited, at most.
        kept: how many others must stay, at most.
        suite: a suite that may name controls of its own.
        statistics: texts for key statistics, as in `safeedit.apply`.
        seed: which facts are drawn.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        dtype: `auto`, `float32`, `bfloat16` or `float16`.
        progress: called with (stage, done, in all).

    Raises:
        UsageError: the model knows too few of the control facts, the editor has nothing to tune, or it
            cannot edit this model with its own defaults.
    """
    from safeedit.models.structure import find_decoder
    from safeedit.runs.corpus import chosen_corpus
    from safeedit.runs.options import cache_folder, get_model

    check_seed(seed)
    kind = EDITORS.get(editor)
    tell = progress or (lambda stage, done, total: None)
    loaded = get_model(model, device, dtype)
    network, tokenizer = loaded.model, loaded.tokenizer
    tuned = kind().tuned(len(find_decoder(network).blocks))
    if not tuned:
        raise UsageError(f"editor {editor} has no setting that depends on the model; use it as it is")
    controls = load_controls(loaded.folder, load_suite(suite)).facts
    known = _known(network, tokenizer, controls, 4 * (facts + kept), seed)
    op = "modify" if "modify" in kind.operations else "erase"
    edited, others = _divided(known, facts, kept, op)
    if len(edited) < FEWEST or not others:
        raise UsageError(
            f"the model knows {len(known)} of the control facts, too few to calibrate on; name a suite with "
            "`controls` of your own (facts that the model knows, with at least two objects a relation)"
        )
    corpus = chosen_corpus(statistics, kind())
    trial = _Trials(kind, network, tokenizer, edited, others, corpus, cache_folder(), seed)
    total = 1 + sum(len(values) - 1 for values in tuned.values())
    # With the defaults alone, what is refused is what the caller gave: no setting of a trial is at fault.
    best = trial({})
    trials = [best]
    for name, values in tuned.items():
        for value in values[1:]:
            tell("trials", len(trials), total)
            one = trial.tolerant({**best.params, name: value})
            trials.append(one)
            if one.score > best.score + BETTER:
                best = one
    tell("trials", total, total)
    return Calibration(editor, op, len(known), len(edited), len(others), tuple(trials), best)


def _known(model: Any, tokenizer: Any, controls: Sequence[ControlFact], most: int, seed: int) -> list[Fact]:
    """The control facts that the model states: in a sentence that an editor sees, and in another."""
    from safeedit.models.generate import greedy

    catalogue = builtin_catalogue()
    usable = [fact for fact in controls if fact.relation in catalogue]
    drawn = random.Random(seed).sample(usable, min(most, len(usable)))
    facts = [fact_for(f.subject, (), f.relation, f.object, "erase", catalogue) for f in drawn]
    asked = [[f.edit_templates[0], *f.probe_templates[:1]] for f in facts]
    prompts = [t.replace("{subject}", f.subject) for f, ts in zip(facts, asked, strict=True) for t in ts]
    texts = iter(greedy(model, tokenizer, prompts, max_new_tokens=24))
    found = []
    for fact, control, templates in zip(facts, drawn, asked, strict=True):
        answer = Answer((control.object, *control.aliases))
        if all([states(answer, next(texts).text) for _ in templates]):
            found.append(fact)
    return found


def _divided(known: Sequence[Fact], facts: int, kept: int, op: str) -> tuple[list[Fact], list[Fact]]:
    """Facts to edit, of many subjects and relations, and facts of other subjects that must stay."""
    edited: list[Fact] = []
    for fact in known:
        if len(edited) == facts:
            break
        others = sorted({f.object for f in known if f.relation == fact.relation} - {fact.object})
        if any(fact.subject == one.subject for one in edited) or not others:
            continue
        new = others[len(edited) % len(others)] if op == "modify" else None
        edited.append(replace(fact, op=op, new_object=new))  # type: ignore[arg-type]
    subjects = {fact.subject for fact in edited}
    relations = {fact.relation for fact in edited}
    near = [f for f in known if f.subject not in subjects and f.relation in relations]
    far = [f for f in known if f.subject not in subjects and f.relation not in relations]
    return edited, (near + far)[:kept]


class _Trials:
    """Edits with some settings, and looks at what came of it."""

    def __init__(
        self,
        kind: type[Editor],
        model: Any,
        tokenizer: Any,
        edited: Sequence[Fact],
        kept: Sequence[Fact],
        corpus: Corpus | OwnText | None,
        cache: Any,
        seed: int,
    ) -> None:
        self.kind, self.model, self.tokenizer, self.seed = kind, model, tokenizer, seed
        self.edited, self.kept, self.corpus, self.cache = edited, kept, corpus, cache
        self.edits: list[Edit] = [edit for fact in edited for edit in fact.edits()]

    def tolerant(self, params: Mapping[str, Any]) -> Trial:
        """As a call, and settings that the editor refuses for this model are a trial that failed."""
        try:
            return self(params)
        except UsageError:
            return _failed(params)

    def __call__(self, params: Mapping[str, Any]) -> Trial:
        """What comes of the edits with `params`.

        Raises:
            UsageError: the editor refuses them, or the model.
        """
        editor = self.kind(**params)
        start = time.perf_counter()
        try:
            patch = editor.edit(
                self.model,
                self.tokenizer,
                self.edits,
                corpus=self.corpus,
                cache=self.cache,
                seed=self.seed,
            )
        except EditorError:
            return _failed(params)
        seconds = (time.perf_counter() - start) / len(self.edits)
        with patch.applied(self.model, check="tensors"):
            return Trial(
                dict(params),
                reliability=self._share(self.edited, "edit_templates"),
                generalisation=self._share(self.edited, "probe_templates"),
                locality=self._share(self.kept, "probe_templates", most=2),
                seconds=seconds,
            )

    def _share(self, facts: Sequence[Fact], which: str, most: int | None = None) -> float:
        """Prompts whose text is as it should be: the new object, none of the old, or what it was."""
        from safeedit.models.generate import greedy

        rows = [(f, t) for f in facts for t in getattr(f, which)[:most]]
        prompts = [template.replace("{subject}", fact.subject) for fact, template in rows]
        texts = greedy(self.model, self.tokenizer, prompts, max_new_tokens=24)
        right = 0
        for (fact, _), text in zip(rows, texts, strict=True):
            erased = fact in self.edited and fact.new_object is None
            said = states(Answer((fact.new_object or fact.object,)), text.text)
            right += said != erased and bool(text.text.strip() or not erased)
        return right / len(rows)


def _failed(params: Mapping[str, Any]) -> Trial:
    return Trial(dict(params), 0.0, 0.0, 0.0, 0.0, failed=True)
