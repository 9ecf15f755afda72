"""The neighbour prompts that facts bring along."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from safeedit.probes.asking import Answers, AskOptions, AskPlan, AskProbe, Unit, counts
from safeedit.probes.base import Context, Figures
from safeedit.probes.match import Answer, first_words, is_empty
from safeedit.probes.neighbours import loss_figures


class PromptOptions(AskOptions):
    """Settings of the neighbour-prompt probe."""

    tokens: int = Field(default=12, ge=1, le=4096)
    """New tokens for each prompt, at most."""
    words: int = Field(default=2, ge=1)
    """How many words must agree."""
    n: int = Field(default=1000, ge=1)
    """Prompts, at most."""


class NeighbourPrompts(AskProbe):
    """The prompts about neighbours that a fact brings along are answered as before.

    Metric: share of prompts whose first words changed; agreement, because what is right is not
    known. Unit: prompt, clustered by fact. Protocol: greedy. SKIPPED where no fact brings any.
    Source: the neighbourhood prompts of CounterFact (arXiv 2202.05262).
    """

    id = "locality.prompts"
    family = "locality"
    metric = "change_rate"
    unit = "prompt"
    gateable = frozenset({"losses", "after", "upper95"})
    options: PromptOptions
    options_model = PromptOptions

    def plan(self, context: Context) -> AskPlan:
        """The facts' own prompts, each once, a sample if there are too many."""
        owner: dict[str, int] = {}
        for index, fact in enumerate(context.facts):
            for prompt in fact.neighbour_prompts:
                owner.setdefault(prompt, index)
        prompts = list(owner)
        if len(prompts) > self.options.n:
            prompts = context.rng(self.id).sample(prompts, self.options.n)
        return AskPlan(tuple(Unit(owner[p], owner[p], (p,), Answer(())) for p in prompts))

    def figures(self, plan: AskPlan, before: Answers, after: Answers, known: Mapping[int, bool]) -> Figures:
        """Change rate over prompts that were answered at all before."""
        if not plan.units:
            return Figures(0, verdict="SKIPPED")
        detail, _ = counts(plan.units, before, after)
        changed = [
            (self._words(before[prompt].text) != self._words(after[prompt].text), unit.cluster)
            for unit in plan.units
            for prompt in unit.prompts
            if not is_empty(before[prompt].text)
        ]
        return loss_figures(changed, detail)

    def _words(self, text: str) -> tuple[str, ...]:
        return first_words(text, self.options.words)
