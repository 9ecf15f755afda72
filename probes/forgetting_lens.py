"""Logit lens: what the hidden states after every block would say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field

from safeedit.errors import ProbeError
from safeedit.probes import stats
from safeedit.probes.asking import affordable, chosen, clusters, fill, placebo_pairs
from safeedit.probes.base import Context, Figures, Options, Plan, Probe, View
from safeedit.probes.fold import key
from safeedit.triples.catalogue import SUBJECT

if TYPE_CHECKING:
    from torch import Tensor

    from safeedit.models.structure import Decoder

EXPECTED = 0.5
"""A token that an invented subject gets with a higher probability tells nothing about the fact."""
ROWS_AT_ONCE = 32
LOGITS_AT_ONCE = 2**25


class LensOptions(Options):
    """Settings of the logit lens."""

    k: int = Field(default=4, ge=1)
    """How far up in the ranking a token counts as seen."""
    templates: int = Field(default=2, ge=1)
    """Phrasings for each fact, at most."""
    budget: int = Field(default=2000, ge=1)
    """Prompts in all, at most; every fact keeps at least two where it has them."""
    placebos: int = Field(default=50, ge=1)
    """How many (fact, invented subject) pairs are looked at too."""


@dataclass(frozen=True, repr=False)
class Row:
    """One prompt, continued with the object."""

    fact: int
    template: int
    placebo: int | None
    """Number of the invented subject; None for the fact's own subject."""
    cluster: int
    prompt: str
    object: str


@dataclass(frozen=True, repr=False)
class LensPlan(Plan):
    """Prompts to look into."""

    rows: tuple[Row, ...]
    untested: int

    def prompts(self) -> tuple[str, ...]:
        """None: nothing is generated."""
        return ()

    def material(self) -> object:
        """As JSON values."""
        rows = [[row.fact, row.template, row.placebo, row.prompt, row.object] for row in self.rows]
        return {"rows": rows, "untested": self.untested}


@dataclass(frozen=True)
class Trace:
    """What was seen for one row; numbers alone."""

    ranks: tuple[tuple[int, ...], ...]
    """For each block, the rank (from 0) of each token of the object at the position that predicts it."""
    probabilities: tuple[float, ...]
    """The model's final probability of each token, the earlier ones given."""

    def hit(self, telling: Iterable[int], k: int) -> bool:
        """Whether after some block all the telling tokens are among the k likeliest."""
        chosen = list(telling)
        return any(all(ranks[token] < k for token in chosen) for ranks in self.ranks)


class LogitLens(Probe[LensPlan, tuple[Trace, ...]]):
    """Erased and modified facts cannot be read from the hidden states between the blocks.

    Metric: share of facts whose old object is among the k likeliest tokens after any block, final
    norm and head applied. An object of several tokens is given step by step, and all its telling
    tokens must be seen after the same block; tokens that an invented subject gets anyway are not
    telling. Unit: fact. Protocol: teacher-forced, every block. The rate of invented subjects stands
    beside it. Source: the head-projection attack (arXiv 2309.17410).
    """

    id = "forgetting.lens"
    family = "forgetting"
    grade = "G3"
    metric = "lens_hit_rate"
    unit = "fact"
    gateable = frozenset({"leaks", "after", "upper95", "excess95"})
    options: LensOptions
    options_model = LensOptions

    @property
    def protocol(self) -> str:
        """Every block, top k."""
        return f"lens-top{self.options.k}"

    def plan(self, context: Context) -> LensPlan:
        """Phrasings that the editor saw, for every erased or modified fact and its placebos."""
        asked = [(i, fact) for i, fact in enumerate(context.facts) if fact.old is not None]
        limit = affordable(self.options.templates, self.options.budget, len(asked))
        templates = {
            i: chosen(context, fact.edit_templates, str(i), min(limit, self.options.templates))
            for i, fact in asked
        }
        subject = clusters(context)
        rows = [
            Row(i, number, None, subject[key(fact.subject)], fill(template, fact.subject), fact.object)
            for i, fact in asked
            for number, template in enumerate(templates[i])
        ]
        tested = [(i, fact) for i, fact in asked if any(SUBJECT in template for template in templates[i])]
        for placebo, (i, name) in enumerate(placebo_pairs(context, tested, self.options.placebos)):
            rows += [
                Row(i, number, placebo, placebo, fill(template, name), context.facts[i].object)
                for number, template in enumerate(templates[i])
                if SUBJECT in template
            ]
        return LensPlan(tuple(rows), sum(not found for found in templates.values()))

    def observe(self, plan: LensPlan, view: View) -> tuple[Trace, ...]:
        """Ranks after every block, for every row."""
        from safeedit.models.structure import find_decoder

        decoder = find_decoder(view.model)
        found: list[Trace] = []
        for start in range(0, len(plan.rows), ROWS_AT_ONCE):
            found += _traces(decoder, view.tokenizer, plan.rows[start : start + ROWS_AT_ONCE])
        return tuple(found)

    def figures(
        self,
        plan: LensPlan,
        before: tuple[Trace, ...],
        after: tuple[Trace, ...],
        known: Mapping[int, bool],
    ) -> Figures:
        """Hit rates over facts, and how far they lie above the rate of invented subjects."""
        if not plan.rows:
            return Figures(0, verdict="INCONCLUSIVE" if plan.untested else "SKIPPED")
        if not len(before) == len(after) == len(plan.rows):
            raise ProbeError("the two models were not looked into at the same prompts")
        telling = _telling(plan, before)
        was, chance_before = self._hits(plan, before, telling)
        now, chance = self._hits(plan, after, telling)
        cluster = {row.fact: row.cluster for row in plan.rows if row.placebo is None}
        facts = [i for i in now if known.get(i, False) or (now[i] and not was[i])]
        detail: dict[str, float] = {
            "blocks": len(before[0].ranks),
            "untested": plan.untested,
            "unknown": sum(not known.get(i, False) for i in now),
            "placebo_units": len(chance),
        }
        if not facts:
            return Figures(0, detail=detail, verdict="NO_BASELINE")
        grouped: dict[int, list[bool]] = {}
        for i in facts:
            grouped.setdefault(cluster[i], []).append(now[i])
        n, hits = len(facts), sum(now[i] for i in facts)
        if chance:
            detail["placebo_before"] = sum(chance_before.values()) / len(chance)
        return Figures(
            n=n,
            before=sum(was[i] for i in facts) / n,
            after=hits / n,
            leaks=hits,
            upper95=stats.clustered_rate_upper(grouped),
            excess95=stats.difference_upper(hits, n, sum(chance.values()), len(chance)) if chance else None,
            placebo=sum(chance.values()) / len(chance) if chance else None,
            detail=detail,
            doubtful=plan.untested > 0,
        )

    def _hits(
        self, plan: LensPlan, traces: tuple[Trace, ...], telling: Mapping[tuple[int, int], tuple[int, ...]]
    ) -> tuple[dict[int, bool], dict[int, bool]]:
        """By fact and by placebo: whether any of its prompts is a hit."""
        facts: dict[int, bool] = {}
        placebos: dict[int, bool] = {}
        for row, trace in zip(plan.rows, traces, strict=True):
            # An object may be split differently after another prompt; then every token counts.
            size = len(trace.probabilities)
            tokens = [token for token in telling[row.fact, row.template] if token < size] or range(size)
            group, place = (facts, row.fact) if row.placebo is None else (placebos, row.placebo)
            group[place] = group.get(place, False) or trace.hit(tokens, self.options.k)
        return facts, placebos


def _telling(plan: LensPlan, base: tuple[Trace, ...]) -> dict[tuple[int, int], tuple[int, ...]]:
    """The object's tokens that tell something, by fact and phrasing: decided on the base model alone."""
    own: dict[tuple[int, int], int] = {}
    chance: dict[tuple[int, int], list[tuple[float, ...]]] = {}
    for row, trace in zip(plan.rows, base, strict=True):
        place = (row.fact, row.template)
        if row.placebo is None:
            own[place] = len(trace.probabilities)
        else:
            chance.setdefault(place, []).append(trace.probabilities)
    found = {}
    for place, size in own.items():
        same = [p for p in chance.get(place, ()) if len(p) == size]
        means = [sum(p[token] for p in same) / len(same) for token in range(size)] if same else [0.0] * size
        tokens = tuple(token for token in range(size) if means[token] <= EXPECTED)
        found[place] = tokens or (means.index(min(means)),)
    return found


def _traces(decoder: Decoder, tokenizer: Any, rows: tuple[Row, ...]) -> list[Trace]:
    import torch

    from safeedit.models.hooks import first_tensor, frozen
    from safeedit.models.tokens import pad, pad_id, tokenise

    texts = tokenise(tokenizer, [f"{row.prompt} {row.object}" for row in rows])
    places = [
        (line, column - 1, text.ids[column])
        for line, (row, text) in enumerate(zip(rows, texts, strict=True))
        for column in range(max(1, text.first_from(len(row.prompt))), len(text.ids))
        if text.offsets[column][0] < text.offsets[column][1]
    ]
    sizes = [sum(line == number for line, _, _ in places) for number in range(len(rows))]
    if not all(sizes):
        raise ProbeError("an object has no token of its own")
    line, column, target = (torch.tensor(part, device=decoder.device) for part in zip(*places, strict=True))
    batch = pad([text.ids for text in texts], pad_id(tokenizer), "right").to(decoder.device)
    seen: list[Tensor] = []

    def watch(_module: Any, _args: Any, output: Any) -> None:
        seen.append(first_tensor(output)[line, column])

    with ExitStack() as stack, torch.no_grad():
        stack.enter_context(frozen(decoder.model))
        for block in decoder.blocks:
            stack.callback(block.register_forward_hook(watch).remove)
        decoder.model(**batch.forward_args(), use_cache=False)
    with frozen(decoder.model), torch.no_grad():
        looked = [_rank(decoder, hidden, target) for hidden in seen]
    final = looked[-1][1]
    traces, start = [], 0
    for size in sizes:
        span = slice(start, start + size)
        traces.append(Trace(tuple(tuple(ranks[span]) for ranks, _ in looked), tuple(final[span])))
        start += size
    return traces


def _rank(decoder: Decoder, hidden: Tensor, target: Tensor) -> tuple[list[int], list[float]]:
    """Rank and probability of the targets under the lens; ties count as seen."""
    import torch

    ranks: list[int] = []
    probabilities: list[float] = []
    size = max(1, LOGITS_AT_ONCE // decoder.vocabulary)
    for start in range(0, len(hidden), size):
        logits = decoder.lens(hidden[start : start + size]).float()
        if not torch.isfinite(logits).all():
            raise ProbeError("the lens gave a logit that is not finite")
        wanted = logits.gather(1, target[start : start + size, None])
        ranks += (logits > wanted).sum(-1).tolist()
        probabilities += (wanted - logits.logsumexp(-1, keepdim=True)).exp()[:, 0].tolist()
    return ranks, probabilities
