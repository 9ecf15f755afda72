"""Edits one batch after another, each on the model that those before it left, for as long as that holds.

    turns = in_turns(editor, model, tokenizer, edits, size=10, guard=Guard(texts=...))
    turns.patch          one patch for the base model, with all that was kept
    turns.stopped        why it ended early, or None

A batch that crosses a limit, or that the editor cannot do, is taken back and ends the sequence at the
last good state. The model itself is as it was when this returns.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from safeedit.applied import named_tensors
from safeedit.deltas import WeightDelta, add
from safeedit.editors.guards import Guard, perplexity, relative_change
from safeedit.errors import EditorError, UsageError
from safeedit.models.hooks import frozen
from safeedit.patch import Patch
from safeedit.tensors.digest import named_digests, root_digest

if TYPE_CHECKING:
    from safeedit.editors.base import Editor, Progress
    from safeedit.editors.statistics import Corpus, OwnText
    from safeedit.triples.facts import Edit


@dataclass(frozen=True)
class Turn:
    """One batch that was kept."""

    edits: int
    change: float
    """Largest change of a weight over all batches so far, relative to its norm."""
    perplexity: float | None
    """Ratio to what it was before all edits; None where it was not watched."""
    seconds: float


@dataclass(frozen=True)
class Turns:
    """What became of a sequence."""

    patch: Patch | None
    """All batches that were kept, as one patch for the base model; None where there is none."""
    turns: tuple[Turn, ...]
    stopped: str | None
    """Why the rest was not done."""

    @property
    def done(self) -> int:
        """How many edits were made."""
        return sum(turn.edits for turn in self.turns)


def in_turns(
    editor: Editor,
    model: Any,
    tokenizer: Any,
    edits: Sequence[Edit],
    *,
    size: int = 1,
    guard: Guard | None = None,
    corpus: Corpus | OwnText | None = None,
    cache: Path | None = None,
    seed: int = 0,
    controls: Sequence[str] = (),
    keep_earlier: bool = False,
    progress: Progress | None = None,
) -> Turns:
    """Make `edits` in their order, `size` at a time.

    Args:
        editor: what makes them; its key statistics stay those of the model before all of them.
        model: a causal LM; unchanged when this returns or raises.
        tokenizer: its tokenizer.
        edits: in the order in which they came.
        size: edits of one batch.
        guard: limits; by default those of `Guard`.
        corpus: see `Editor.edit`.
        cache: see `Editor.edit`.
        seed: see `Editor.edit`.
        controls: see `Editor.edit`.
        keep_earlier: whether the prompts of batches that were kept are among the controls of later ones, as
            AlphaEdit (arXiv 2410.02355) has the keys of earlier edits; what was asked for lasts, and other
            facts suffer less, but later edits of the same sentences hardly get through (BENCHMARKS.md).
        progress: called with (`edits`, done, in all) and with the editor's own stages.

    Raises:
        UsageError: the edits make no sense to the editor, or its changes lie beside the weights.
    """
    if size < 1:
        raise UsageError("a batch has at least one edit")
    if editor.beside_weights:
        raise UsageError(f"{editor.name} makes memories, which do not add up; give it all edits at once")
    editor.check(edits)
    guard = guard or Guard()
    with ExitStack() as stack:
        folder = cache or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(frozen(model))
        live = stack.enter_context(_Live.on(model))
        before = perplexity(model, tokenizer, guard.texts) if guard.texts else None
        kept, stopped = list[Turn](), None
        held: list[str] = []
        for start in range(0, len(edits), size):
            batch = edits[start : start + size]
            asked = {prompt for edit in batch for prompt in edit.prompts()}
            began = time.perf_counter()
            try:
                patch = editor.edit(
                    model,
                    tokenizer,
                    batch,
                    corpus=corpus,
                    cache=folder,
                    digests=live.digests,
                    seed=seed,
                    progress=progress,
                    # What is asked anew is no longer to stay as it was.
                    controls=(*controls, *(prompt for prompt in held if prompt not in asked)),
                    basis=root_digest(live.base),
                )
                change = live.grow(patch.deltas)
            except EditorError as error:
                stopped = str(error)
                break
            ratio = perplexity(model, tokenizer, guard.texts) / before if before else None
            stopped = guard.crossed(change, ratio)
            if stopped is not None:
                live.back()
                break
            if keep_earlier:
                held += sorted(asked - set(held))
            kept.append(Turn(len(batch), change, ratio, time.perf_counter() - began))
            if progress is not None:
                progress("edits", start + len(batch), len(edits))
        total, base = live.total, live.base
    if not total:
        return Turns(None, tuple(kept), stopped)
    params = {**editor.params.model_dump(mode="json"), "seed": seed, "size": size}
    meta = {"edits": sum(turn.edits for turn in kept), "turns": len(kept), "change_max": kept[-1].change}
    whole = Patch.of(model, total, editor=editor.name, params=params, meta=meta, digests=base)
    return Turns(whole, tuple(kept), stopped)


class _Live:
    """A model with all changes so far on it: always the base and their sum, rounded once."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model, self.tensors = model, named_tensors(model)
        self.base = named_digests(model)
        self.digests = dict(self.base)
        """Those of the model as it now is."""
        self.total: dict[str, WeightDelta] = {}
        self.originals: dict[str, torch.Tensor] = {}
        self._last: dict[str, WeightDelta] = {}

    @classmethod
    @contextmanager
    def on(cls, model: torch.nn.Module) -> Iterator[_Live]:
        """Every tensor is bit for bit what it was when this is left, in any way."""
        live = cls(model)
        try:
            yield live
        finally:
            with torch.no_grad():
                for name, original in live.originals.items():
                    live.tensors[name].detach().copy_(original)

    def grow(self, deltas: Mapping[str, WeightDelta]) -> float:
        """Add to what is on the model; the largest change of a weight by now, relative to its norm.

        Raises:
            EditorError: a weight would not be finite; nothing was added.
        """
        self._last = dict(self.total)
        for name in deltas.keys() - self.originals.keys():
            self.originals[name] = self.tensors[name].detach().clone()
        for name, delta in deltas.items():
            self.total[name] = add(self.total[name], delta) if name in self.total else delta
        try:
            self._put(deltas)
        except EditorError:
            self.back()
            raise
        return max((relative_change(d, self.originals[n]) for n, d in self.total.items()), default=0.0)

    def back(self) -> None:
        """Take the last growth back."""
        lost = self.total.keys() - self._last.keys()
        changed = {n for n, d in self.total.items() if self._last.get(n) is not d}
        self.total = dict(self._last)
        with torch.no_grad():
            for name in lost:
                self.tensors[name].detach().copy_(self.originals[name])
        self._put(changed - lost)

    @torch.no_grad()
    def _put(self, names: Collection[str]) -> None:
        for name in names:
            weight, original = self.tensors[name], self.originals[name]
            wide = torch.promote_types(weight.dtype, torch.float32)
            after = (original.to(wide) + self.total[name].dense(weight.device).to(wide)).to(weight.dtype)
            if not bool(torch.isfinite(after).all()):
                raise EditorError(f"{name} would not be finite in {weight.dtype} after so many edits")
            weight.detach().copy_(after)
        places = {self.tensors[name].data_ptr() for name in names}
        # A tied weight goes by several names.
        touched = {n: t for n, t in self.model.state_dict().items() if t.data_ptr() in places}
        self.digests |= named_digests(touched)
