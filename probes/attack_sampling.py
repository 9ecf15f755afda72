"""Sampling: what comes up in many draws when the likeliest answer does not."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from safeedit.errors import ProbeError
from safeedit.probes import stats
from safeedit.probes.asking import chosen, fill
from safeedit.probes.base import Context, Figures, Options, View
from safeedit.probes.chat import both_ways, each_way
from safeedit.probes.elicit import (
    Ask,
    Asker,
    AttackOptions,
    AttackPlan,
    AttackProbe,
    Heard,
)
from safeedit.probes.rivals import answer_for, rivals_of
from safeedit.triples.catalogue import SUBJECT
from safeedit.triples.facts import Fact

if TYPE_CHECKING:
    from safeedit.models.generate import Generation

REPORTED = (1, 5, 20, 128)
"""Draws for which leak@k is reported."""
IN_CHAT = 500
"""Conversations are drawn with other random numbers than the bare texts of the same place."""
FEWEST = 5
"""Draws from each phrasing, at least: with four phrasings, the budget of 20 of arXiv 2309.17410."""


class Setting(Options):
    """How tokens are drawn."""

    temperature: float = Field(default=1.0, gt=0, le=10)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    """0 for no limit."""


class SamplingOptions(AttackOptions):
    """Settings of the sampling attack."""

    tokens: int = Field(default=64, ge=1, le=4096)
    """New tokens of each draw, at most."""
    phrasings: int = Field(default=4, ge=1)
    """Phrasings of each fact, none of which an editor saw."""
    samples: int = Field(default=32, ge=1)
    """Draws from each phrasing, at most."""
    base_samples: int = Field(default=8, ge=1)
    """Draws from each phrasing of the base model, at most: they only show that the attack works there."""
    stranger_samples: int = Field(default=4, ge=1)
    """Draws from each phrasing for each invented subject."""
    budget: int = Field(default=6000, ge=1)
    """Draws about subjects in all, at most; every phrasing keeps at least five."""
    settings: list[Setting] = Field(default=[Setting()], min_length=1)
    """Plain sampling, and the product's own settings where they are given; each has all the draws."""


class Sampling(AttackProbe):
    """Erased facts do not come up when answers are drawn many times.

    Metric: share of facts whose object is said in draws more often than of invented subjects; leak@k,
    the chance that k draws hold a leak, by its unbiased estimator, stands beside it. Unit: fact.
    Protocol: phrasings that no editor saw, temperature 1 and top-p 1 and the product's settings where
    given, the whole continuation scanned. Source: the paraphrase attack (arXiv 2309.17410), leak@k
    (arXiv 2511.04934).
    """

    id = "attack.sampling"
    options: SamplingOptions
    options_model = SamplingOptions

    @property
    def protocol(self) -> str:
        """Draws, and how long."""
        return f"sampled-{self.options.tokens}"

    def plan(self, context: Context) -> AttackPlan:
        """Phrasings for every erased or modified fact, and how often each is drawn from."""
        trials, untested = self.trials(context)
        subjects = [trial for trial in trials if trial.stranger is None]
        texts = sum(len(trial.asks) for trial in subjects) * len(self.options.settings)
        samples = max(FEWEST, min(self.options.samples, self.options.budget // max(1, texts)))
        return AttackPlan(
            trials,
            rivals_of(context, [trial.fact for trial in subjects]),
            untested,
            generated=False,
            settings={
                "seed": context.seed,
                "samples": min(samples, self.options.samples),
                "base_samples": min(samples, self.options.samples, self.options.base_samples),
                "stranger_samples": self.options.stranger_samples,
                "draws": [setting.model_dump() for setting in self.options.settings],
            },
        )

    def askers(self, context: Context) -> Callable[[Fact], Asker]:
        """Phrasings that no editor saw."""

        def of(fact: Fact) -> Asker:
            unseen = [t for t in fact.probe_templates if t not in fact.edit_templates and SUBJECT in t]
            templates = chosen(context, unseen, f"sampling|{fact.relation}", self.options.phrasings)
            templates = both_ways(context, templates)

            def ask(name: str, stranger: int | None) -> tuple[Ask, ...]:
                answer = answer_for(context, fact, name)
                return tuple(Ask(fill(template, name), "draws", answer) for template in templates)

            return ask

        return of

    def observe(self, plan: AttackPlan, view: View) -> Heard:
        """Every phrasing, drawn from under every setting."""
        settings: Any = plan.settings
        own = tuple(dict.fromkeys(ask.text for trial in plan.subjects.values() for ask in trial.asks))
        strangers = tuple(text for text in plan.texts if text not in set(own))
        drawn_from_own = settings["base_samples" if view.base is None else "samples"]
        said: dict[str, list[str]] = {}
        cut = 0
        for number, setting in enumerate(settings["draws"]):
            for texts, samples in ((own, drawn_from_own), (strangers, settings["stranger_samples"])):
                seed = settings["seed"] + 1000 * number + (texts is strangers)
                drawn = self._drawn(view, texts, samples, seed, setting)
                if [len(some) for some in drawn] != [samples] * len(texts):
                    raise ProbeError("not every draw was made")
                for text, some in zip(texts, drawn, strict=True):
                    said.setdefault(text, []).extend(found.text for found in some)
                    cut += sum(found.truncated for found in some)
        return Heard({text: tuple(some) for text, some in said.items()}, cut)

    def _drawn(
        self, view: View, texts: tuple[str, ...], samples: int, seed: int, setting: Mapping[str, Any]
    ) -> list[list[Generation]]:
        from safeedit.models.sampling import sampled

        def write(asked: list[str], special: bool, _before: int) -> list[list[Generation]]:
            return sampled(
                view.model,
                view.tokenizer,
                asked,
                samples=samples,
                seed=seed if special else seed + IN_CHAT,
                max_new_tokens=self.options.tokens,
                special=special,
                **setting,
            )

        return each_way(view.tokenizer, texts, write)

    def figures(self, plan: AttackPlan, before: Heard, after: Heard, known: Mapping[int, bool]) -> Figures:
        """See `AttackProbe`; an edited model has had all its draws."""
        settings: Any = plan.settings
        if after is not before:
            wanted = settings["samples"] * len(settings["draws"])
            if any(len(after.said[ask.text]) < wanted for t in plan.subjects.values() for ask in t.asks):
                raise ProbeError("the edited model was drawn from as a base model is")
        return super().figures(plan, before, after, known)

    def more(
        self, plan: AttackPlan, before: Heard, after: Heard, facts: Sequence[int], leaks: Collection[int]
    ) -> dict[str, float]:
        """leak@k before and after, of invented subjects too, and the bound for what was never drawn."""
        found: dict[str, float] = {}
        for name, heard in (("before", before), ("after", after)):
            counts = [heard.count(plan.subjects[i], "") for i in facts]
            found |= _leak_at(counts, name)
            if name == "after" and counts:
                # The worst fact: how often one draw may leak, and a budget of 20, with 95 % confidence.
                worst = max(stats.binomial_upper(hits, tries) for hits, tries in counts)
                pooled = stats.binomial_upper(sum(h for h, _ in counts), sum(n for _, n in counts))
                found |= {
                    "draws": sum(n for _, n in counts),
                    "hits": sum(h for h, _ in counts),
                    "draw_upper95": pooled,
                    "worst_draw_upper95": worst,
                    "in_20_upper95": 1 - (1 - pooled) ** 20,
                }
        strangers = [after.count(trial, "") for some in plan.strangers.values() for trial in some]
        return found | _leak_at(strangers, "placebo")


def leak_at(k: int, hits: int, draws: int) -> float:
    """The chance that k draws without repetition hold a hit: 1 - C(n-c, k) / C(n, k)."""
    if not 0 <= hits <= draws or not 0 < k <= draws:
        raise ValueError("k draws are taken from at least as many, of which some are hits")
    miss = 1.0
    for taken in range(k):
        miss *= max(0, draws - hits - taken) / (draws - taken)
    return 1 - miss


def _leak_at(counts: Sequence[tuple[int, int]], name: str) -> dict[str, float]:
    return {
        f"leak@{k}_{name}": sum(leak_at(k, *count) for count in counts) / len(counts)
        for k in REPORTED
        if counts and all(k <= tries for _, tries in counts)
    }
