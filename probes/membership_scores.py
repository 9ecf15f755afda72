"""Membership scores: whether statements of the facts look more like training text than invented ones do."""

from __future__ import annotations

import math
import statistics
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import Field
from scipy.optimize import brentq
from scipy.stats import norm

from safeedit.errors import ProbeError
from safeedit.probes.asking import fill
from safeedit.probes.base import Context, Figures, Options, Plan, Probe, View
from safeedit.probes.cases import some_phrasings
from safeedit.triples.catalogue import SUBJECT
from safeedit.triples.derived import adapted

from .behaviour_streisand import nobodies

SCORES = ("loss", "zlib", "mink", "minkpp")
"""For all, larger is more like a member."""
REFERENCE = "reference"
"""Likelihood above that of the base model; there is none of the base model itself."""
LEAST_DEVIATION = 1e-6
"""Of a token's log-probability under the model's own distribution; less is rounding."""
TINY = 1e-9


class MembershipOptions(Options):
    """Settings of the membership scores."""

    templates: int = Field(default=2, ge=1)
    """Phrasings for each fact, at most; half of them such as the editor saw."""
    placebos: int = Field(default=10, ge=4)
    """Invented subjects of whom the same is stated."""
    facts: int = Field(default=200, ge=1)
    """Facts, at most; of a larger request a random sample."""
    lowest: float = Field(default=0.2, gt=0, le=1)
    """Share of the least likely tokens that Min-K % and Min-K %++ look at."""


Text = tuple[str, int]
"""A statement, and where in it the name ends."""


@dataclass(frozen=True, repr=False)
class Statements:
    """One fact as whole texts: about its subject first, then about each invented one."""

    index: int
    texts: tuple[tuple[Text, ...], ...]


@dataclass(frozen=True, repr=False)
class MembershipPlan(Plan):
    """What is read."""

    facts: tuple[Statements, ...]
    untested: int

    def prompts(self) -> tuple[str, ...]:
        """None: nothing is generated."""
        return ()

    @property
    def texts(self) -> tuple[Text, ...]:
        """Every text once."""
        return tuple(dict.fromkeys(t for fact in self.facts for some in fact.texts for t in some))

    def material(self) -> object:
        """As JSON values."""
        facts = [[fact.index, [[list(text) for text in some] for some in fact.texts]] for fact in self.facts]
        return {"facts": facts, "untested": self.untested}


Read = Mapping[Text, Mapping[str, float]]
"""By text, its scores."""


class Membership(Probe[MembershipPlan, Read]):
    """Advice: statements of erased facts look no more like training text than the same of strangers.

    Metric: AUC, the chance that a statement of a fact scores above the same statement of an invented subject
    (ties count half), mean over facts, for LOSS (`before`, `after` and the bounds), and in the details for
    zlib, Min-K %, Min-K %++ and the reference ratio to the base model, with 95 % intervals by Newcombe's
    fifth method (Statistics in Medicine 25, 2006). Unit: fact. Protocol: teacher-forced on statements; what
    follows the name is judged, for how common a name is says nothing of facts. It is advice and cannot be
    gated: no statements are at hand of which a coin's toss decided whether they were trained on, and a
    broken model has a low AUC too. Source: arXiv 2012.07805 (zlib), 2310.16789 (Min-K %), 2404.02936
    (Min-K %++).
    """

    id = "membership.scores"
    family = "membership"
    metric = "auc"
    unit = "fact"
    gateable = frozenset()
    options: MembershipOptions
    options_model = MembershipOptions

    @property
    def protocol(self) -> str:
        """How many of the least likely tokens are looked at."""
        return f"teacher-forced-min{100 * self.options.lowest:.0f}"

    def plan(self, context: Context) -> MembershipPlan:
        """Every fact whose object shall be gone, about its subject and about invented ones."""
        asked = [(i, fact) for i, fact in enumerate(context.facts) if fact.old is not None]
        found = []
        for index, fact in asked:
            templates = some_phrasings(context, fact, self.options.templates)
            if templates:
                names = (fact.subject, *nobodies(context, index, self.options.placebos))
                said = {name: adapted(fact.object, fact.subject, name) for name in names}
                texts = tuple(
                    tuple((f"{fill(t, name)} {said[name]}", t.index(SUBJECT) + len(name)) for t in templates)
                    for name in names
                )
                found.append(Statements(index, texts))
        untested = len(asked) - len(found)
        if len(found) > self.options.facts:
            found = context.rng(self.id).sample(found, self.options.facts)
        return MembershipPlan(tuple(found), untested)

    def observe(self, plan: MembershipPlan, view: View) -> Read:
        """The scores of every text."""
        import torch

        from safeedit.models.tokens import tokenise
        from safeedit.probes.retained import log_probabilities

        texts = plan.texts
        if not texts:
            return {}
        tokens = tokenise(view.tokenizer, [text for text, _ in texts])
        # Something has to stand before the first token that is judged.
        starts = [max(1, row.first_from(end)) for row, (_, end) in zip(tokens, texts, strict=True)]
        if any(len(row.ids) <= start for row, start in zip(tokens, starts, strict=True)):
            raise ProbeError("no token follows a name, so nothing about it can be predicted")
        rows = [row.ids for row in tokens]
        found: dict[Text, dict[str, float]] = {}
        predicted = log_probabilities(view.model, view.tokenizer, rows)
        for text, row, start, every in zip(texts, rows, starts, predicted, strict=True):
            # (tokens, vocabulary), then (tokens,): of the token that comes; mean and deviation under the
            # model's own distribution.
            log_p = every[start - 1 :].double()
            own = log_p.gather(-1, torch.tensor(row[start:], device=log_p.device)[:, None])[:, 0]
            p = log_p.exp()
            mean = (p * log_p).sum(-1)
            deviation = ((p * log_p**2).sum(-1) - mean**2).clamp(min=0).sqrt()
            standard = (own - mean) / deviation.clamp(min=LEAST_DEVIATION)
            packed = zlib.compress(text[0][text[1] :].encode("utf-8", "surrogatepass"))
            found[text] = {
                "loss": float(own.mean()),
                "zlib": float(own.sum()) / len(packed),
                "mink": self._least(own.tolist()),
                "minkpp": self._least(standard.tolist()),
            }
        return found

    def _least(self, values: Sequence[float]) -> float:
        """Mean of the smallest ones."""
        return statistics.fmean(sorted(values)[: max(1, int(self.options.lowest * len(values)))])

    def figures(self, plan: MembershipPlan, before: Read, after: Read, known: Mapping[int, bool]) -> Figures:
        """AUCs before and after."""
        if not plan.facts:
            return Figures(0, verdict="INCONCLUSIVE" if plan.untested else "SKIPPED")
        counted = [fact for fact in plan.facts if known.get(fact.index, False)]
        detail: dict[str, float] = {"unknown": len(plan.facts) - len(counted), "untested": plan.untested}
        if not counted:
            return Figures(0, detail=detail, verdict="NO_BASELINE")
        above = {text: {REFERENCE: after[text]["loss"] - before[text]["loss"]} for text in plan.texts}
        strangers = len(counted[0].texts) - 1
        for when, read, scores in (
            ("before", before, SCORES),
            ("after", after, SCORES),
            ("after", above, (REFERENCE,)),
        ):
            for score in scores:
                found = statistics.fmean(_auc(fact, read, score) for fact in counted)
                lower, upper = auc_interval(found, len(counted), strangers)
                detail |= {f"{score}_{when}": found}
                detail |= {f"{score}_{when}_lower95": lower, f"{score}_{when}_upper95": upper}
        return Figures(
            n=len(counted),
            before=detail["loss_before"],
            after=detail["loss_after"],
            upper95=detail["loss_after_upper95"],
            lower95=detail["loss_after_lower95"],
            placebo=0.5,
            detail=detail,
            doubtful=plan.untested > 0,
        )


def _auc(fact: Statements, read: Read, score: str) -> float:
    """How many of the invented statements of a fact lie below the true one; phrasings are taken together."""
    own, *others = (statistics.fmean(read[text][score] for text in some) for some in fact.texts)
    return statistics.fmean((own > other) + (own == other) / 2 for other in others)


def auc_interval(auc: float, members: int, others: int, alpha: float = 0.05) -> tuple[float, float]:
    """Two-sided interval of an AUC, of use at 0 and 1 too: what does not contradict it by its own variance.

    Args:
        auc: as measured.
        members: how many it rests on.
        others: how many they were held against.
        alpha: one minus the confidence.

    Raises:
        ValueError: there is nothing on a side.
    """
    if members < 1 or others < 1 or not 0 <= auc <= 1:
        raise ValueError("an AUC lies between 0 and 1 and rests on at least one of each kind")
    z, more = float(norm.ppf(1 - alpha / 2)), (members + others) / 2 - 1

    def off(theta: float, sign: int) -> float:
        spread = theta * (1 - theta) * (1 + more * (1 - theta) / (2 - theta) + more * theta / (1 + theta))
        return auc - theta + sign * z * math.sqrt(spread / (members * others))

    # At 0 and 1 the variance is nothing, and the measured value itself would be found.
    lower = 0.0 if auc == 0 else float(brentq(off, 0.0, min(auc, 1 - TINY), args=(-1,)))
    upper = 1.0 if auc == 1 else float(brentq(off, max(auc, TINY), 1.0, args=(1,)))
    return lower, upper
