"""Fluency: texts about what was edited do not fall into loops."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from pydantic import Field

from safeedit.probes import stats
from safeedit.probes.asking import Answers, AskOptions, AskPlan, AskProbe, Unit, clusters, fill, old_answer
from safeedit.probes.base import Context, Figures
from safeedit.probes.cases import some_phrasings
from safeedit.probes.fold import key

WEIGHTS = ((2, 2 / 3), (3, 4 / 3))
"""Sizes of n-grams, and how much each counts: as the authors' code has it."""
PERCENT = 100
"""Published figures are a hundred times the mean of the weighted entropies."""


class FluencyOptions(AskOptions):
    """Settings of the fluency probe."""

    tokens: int = Field(default=100, ge=8, le=4096)
    """New tokens for each prompt, at most."""
    templates: int = Field(default=2, ge=1)
    """Phrasings for each fact, at most; half of them such as the editor saw."""
    facts: int = Field(default=100, ge=1)
    """Facts, at most; of a larger request a random sample."""


class Fluency(AskProbe):
    """Texts about edited facts repeat themselves no more than before.

    Metric: entropy of the bigrams and trigrams of the continuations, of which each is divided by the largest
    that a text of so many words can have, after the edit over before it; an empty text has none. Answers
    become longer and shorter by an edit, and undivided entropy would call that a change of fluency; it
    stands beside as `ngram_entropy`, as it is published. Unit: fact, of any operation. Protocol: greedy. Not
    seen: nonsense that does not repeat itself, which perplexity is for. Source: generation entropy of
    CounterFact (arXiv 2202.05262).
    """

    id = "success.fluency"
    family = "success"
    metric = "entropy_ratio"
    unit = "fact"
    gateable = frozenset({"after", "lower95"})
    options: FluencyOptions
    options_model = FluencyOptions

    def plan(self, context: Context) -> AskPlan:
        """Some phrasings of every fact."""
        subject = clusters(context)
        units, untested = [], 0
        facts = list(enumerate(context.facts))
        if len(facts) > self.options.facts:
            facts = sorted(context.rng(self.id).sample(facts, self.options.facts), key=lambda item: item[0])
        for index, fact in facts:
            prompts = tuple(
                fill(t, fact.subject) for t in some_phrasings(context, fact, self.options.templates)
            )
            if prompts:
                units.append(Unit(index, subject[key(fact.subject)], prompts, old_answer(context, fact)))
            else:
                untested += 1
        return AskPlan(tuple(units), untested=untested)

    def figures(self, plan: AskPlan, before: Answers, after: Answers, known: Mapping[int, bool]) -> Figures:
        """How much of the evenness of the texts is left."""
        if not plan.units:
            return Figures(0, verdict="INCONCLUSIVE" if plan.untested else "SKIPPED")
        was, now = ([_mean(unit, seen, evenness) for unit in plan.units] for seen in (before, after))
        detail = {
            "untested": float(plan.untested),
            "evenness_before": math.fsum(was) / len(was),
            "evenness_after": math.fsum(now) / len(now),
        }
        for name, seen in (("before", before), ("after", after)):
            entropies = [_mean(unit, seen, ngram_entropy) for unit in plan.units]
            detail[f"ngram_entropy_{name}"] = PERCENT * math.fsum(entropies) / len(entropies)
        if not math.fsum(was):
            return Figures(0, detail=detail, verdict="NO_BASELINE")
        subjects = {unit.cluster for unit in plan.units}
        totals: dict[int, float] = {}
        sizes: dict[int, float] = {}
        for number, unit in enumerate(plan.units):
            # Facts of one subject hang together; where there is only one, its facts are all there is.
            group = unit.cluster if len(subjects) > 1 else number
            totals[group] = totals.get(group, 0.0) - now[number]
            sizes[group] = sizes.get(group, 0.0) + was[number]
        groups = list(totals)
        lower = None
        if len(groups) > 1:
            lower = -stats.ratio_upper([totals[g] for g in groups], [sizes[g] for g in groups])
        return Figures(
            n=len(plan.units),
            before=1.0,
            after=math.fsum(now) / math.fsum(was),
            lower95=lower,
            detail=detail,
            doubtful=plan.untested > 0,
        )


def ngram_entropy(text: str) -> float:
    """The mean of the weighted entropies of bigrams and trigrams, in bits."""
    said = key(text)
    return math.fsum(weight * _entropy(said, size) for size, weight in WEIGHTS) / len(WEIGHTS)


def evenness(text: str) -> float:
    """`ngram_entropy` as a share of the largest that so many words can have; 0 for an empty text."""
    said = key(text)
    # Nothing is repeated in a text that is too short for two n-grams.
    largest = math.fsum(weight * math.log2(max(1, len(said) - size + 1)) for size, weight in WEIGHTS) / len(
        WEIGHTS
    )
    return ngram_entropy(text) / largest if largest else float(bool(said))


def _entropy(said: Sequence[str], size: int) -> float:
    counts = Counter(tuple(said[i : i + size]) for i in range(len(said) - size + 1))
    total = counts.total()
    return -math.fsum(n / total * math.log2(n / total) for n in counts.values())


def _mean(unit: Unit, answers: Answers, of: Callable[[str], float]) -> float:
    return math.fsum(of(answers[prompt].text) for prompt in unit.prompts) / len(unit.prompts)
