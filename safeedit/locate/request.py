"""From a policy to the maps of its facts: what `safeedit locate` does."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from safeedit.editors.base import Progress
from safeedit.editors.rows import Text
from safeedit.locate.known import trace_known
from safeedit.locate.maps import Average, Map, Suggestion, averages, suggestions
from safeedit.locate.prompts import Part
from safeedit.locate.trace import Settings
from safeedit.policy import Policy
from safeedit.policy.requested import requested_facts
from safeedit.policy.resolve import Resolved, resolve_subjects
from safeedit.runs.guard import plainly
from safeedit.runs.options import ModelSource, check_model, get_model, read_request
from safeedit.runs.redact import Redactor
from safeedit.triples.facts import Fact

if TYPE_CHECKING:
    from safeedit.models.load import LoadedModel


@dataclass(frozen=True, repr=False)
class LocatedFact:
    """One fact of a request and the maps of the prompts to which the model says its object."""

    digest: str
    """Stands for subject, relation and object together; another one in every trace."""
    fact: Fact
    """The fact in plain text."""
    maps: tuple[Map, ...]
    """Empty where the model does not know it."""

    def to_json(self, *, show_sensitive: bool = False) -> dict[str, Any]:
        """As JSON values; with names and objects only if asked for."""
        shown = {"subject": self.fact.subject, "object": self.fact.object} if show_sensitive else {}
        return {
            "digest": self.digest,
            **shown,
            "relation": self.fact.relation,
            "prompts": [one.to_json(show_sensitive=show_sensitive) for one in self.maps],
        }


@dataclass(frozen=True, repr=False)
class Located:
    """What a trace of a policy's facts found."""

    policy_id: str
    model: str
    device: str
    dtype: str
    settings: Settings
    part: Part
    window: int
    """Layers over which MLP and attention outputs were restored."""
    noise: float
    """Standard deviation of the noise; 0 where nothing was traced."""
    depth: int
    facts: tuple[LocatedFact, ...]
    """Those that the model knows."""
    not_known: int
    """How many more were asked for, and how many relations of a person were."""
    averages: tuple[Average, ...]
    suggestions: tuple[Suggestion, ...]
    """Where the facts are looked up, by site, the strongest first."""
    seconds: float
    """For the trace alone."""

    def __repr__(self) -> str:
        return f"<Located {self.policy_id}: {len(self.facts)} facts>"

    @property
    def exit_code(self) -> int:
        """3 where no fact is known, so that there was nothing to trace."""
        return 0 if self.facts else 3

    @property
    def clean(self) -> float:
        """The objects' mean probability, over the prompts of a fact and then over facts."""
        return self._mean([[one.clean for one in fact.maps] for fact in self.facts])

    @property
    def corrupted(self) -> float:
        """The same with noise on the subjects."""
        return self._mean([[one.corrupted for one in fact.maps] for fact in self.facts])

    @staticmethod
    def _mean(each: Sequence[Sequence[float]]) -> float:
        return sum(sum(own) / len(own) for own in each) / len(each) if each else 0.0

    @property
    def maps(self) -> tuple[Map, ...]:
        """Those of all facts."""
        return tuple(one for fact in self.facts for one in fact.maps)

    def to_json(self, *, show_sensitive: bool = False) -> dict[str, Any]:
        """As JSON values; with names, objects and tokens only if asked for."""
        settings, best = self.settings, [one.to_json() for one in self.suggestions]
        return {
            "policy": self.policy_id,
            "model": self.model,
            "device": self.device,
            "dtype": self.dtype,
            "mode": settings.mode,
            "kinds": list(settings.kinds),
            "object": self.part,
            "samples": settings.samples,
            "seed": settings.seed,
            "window": self.window,
            "noise": round(self.noise, 6),
            "layers": self.depth,
            "clean": round(self.clean, 6),
            "corrupted": round(self.corrupted, 6),
            "known": len(self.facts),
            "not_known": self.not_known,
            "suggestion": best[0] if best else None,
            "weaker": best[1:],
            "averages": [average.to_json() for average in self.averages],
            "facts": [fact.to_json(show_sensitive=show_sensitive) for fact in self.facts],
            "seconds": round(self.seconds, 2),
            "exit_code": self.exit_code,
        }


def locate(
    policy: Policy | str | os.PathLike[str],
    model: ModelSource = None,
    *,
    settings: Settings | None = None,
    part: Part = "first",
    device: str = "auto",
    dtype: str = "auto",
    progress: Progress | None = None,
) -> Located:
    """Trace the facts of a policy that the model knows; nothing is changed and nothing written.

    The phrasings are those that an editor may see. A fact is known in a phrasing if each token of its
    object is the likeliest one, so that greedy text says it; the other phrasings are left out.

    Args:
        policy: a policy, or the path of one.
        model: a folder, a hub id, None for the reference model, or a loaded (model, tokenizer).
        settings: how to trace.
        part: whether the probability of the object's first token is traced, or that of all of it.
        device: where to compute.
        dtype: the number format to load the model in.
        progress: called as the work goes on.

    Raises:
        UsageError: it cannot be done as asked.
        ModelError: the model lacks a part that is traced, or its predictions are not finite.
    """
    settings = settings or Settings()

    def work() -> Located:
        settings.check()
        request = read_request(policy)
        check_model(model, device, dtype)
        loaded = get_model(model, device, dtype)
        resolved: tuple[Resolved, ...] = ()
        if request.subjects:
            resolved = resolve_subjects(
                request.subjects,
                loaded.model,
                loaded.tokenizer,
                request.catalogue,
                progress,
                seed=settings.seed,
            )
        facts = requested_facts(request.facts, resolved)
        unknown = sum(not one.known for one in resolved)
        found = _trace(loaded, facts, settings, part, progress or (lambda *_: None))
        return replace(found, policy_id=request.policy.metadata.id, not_known=found.not_known + unknown)

    return plainly(lambda: "the trace", work)


def _trace(
    loaded: LoadedModel, facts: Sequence[Fact], settings: Settings, part: Part, report: Progress
) -> Located:
    start, redactor = time.perf_counter(), Redactor(secrets.token_bytes(32))
    texts = [
        (index, Text("", template, fact.subject, fact.object))
        for index, fact in enumerate(facts)
        for template in dict.fromkeys(fact.edit_templates)
    ]
    traced = trace_known(loaded.model, loaded.tokenizer, texts, settings, part, report)
    own: dict[int, list[Map]] = {}
    for one in traced.maps:
        own.setdefault(one.prompt.fact, []).append(one)
    means = averages(traced.maps, settings.kinds)
    return Located(
        policy_id="",
        model=loaded.source_name,
        device=loaded.device,
        dtype=loaded.dtype,
        settings=settings,
        part=part,
        window=settings.width(traced.depth),
        noise=traced.noise,
        depth=traced.depth,
        facts=tuple(
            LocatedFact(redactor.digest("\0".join((f.subject, f.relation, f.object))), f, tuple(own[index]))
            for index, f in enumerate(facts)
            if index in own
        ),
        not_known=len(facts) - len(own),
        averages=tuple(means),
        suggestions=tuple(suggestions(means, traced.depth)),
        seconds=time.perf_counter() - start,
    )
