"""Base of the probes that put the hidden states after every block through a head."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from safeedit.errors import ProbeError
from safeedit.probes import inside, standing
from safeedit.probes.base import Context, Family, Figures, Probe, View
from safeedit.probes.inside import InsideOptions, InsidePlan
from safeedit.probes.standing import Evidence

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from safeedit.models.structure import Decoder
    from safeedit.probes.hidden import Head

EXPECTED = 0.5
"""A token that invented subjects get with a higher probability tells nothing about the fact."""
FARTHEST = 50.0
"""Log-odds and log-probabilities beyond this are cut off: out there is rounding alone."""

Telling = Mapping[tuple[int, int], tuple[int, ...]]
"""The object's tokens that tell something, by fact and phrasing."""


@dataclass(frozen=True, repr=False)
class Trace:
    """What was seen for one row through one head; (places, tokens of the object)."""

    ranks: NDArray[np.int64]
    scores: NDArray[np.float64]


@dataclass(frozen=True, repr=False)
class Observation:
    """What was seen of one model."""

    evidence: Mapping[int, Evidence]
    telling: Telling
    head: Head
    """The base model's head."""
    alone: bool
    """Whether this model was looked at through its own head only: it was taken for the base model."""
    another_head: bool
    """Whether the model's own head is the base model's, but changed."""
    foreign_head: bool
    """Whether it was trained apart from the base model's, which then tells nothing of this model."""


class ProjectedProbe(Probe[InsidePlan, Observation]):
    """Base of probes whose places are blocks (or steps between them) and whose scores come from logits.

    An object of several tokens is given step by step, and all its telling tokens must be seen at the
    same place; tokens that an invented subject gets anyway are not telling, which is decided on the
    base model. An edited model is looked at through its own head and through the base model's.
    """

    family: ClassVar[Family] = "forgetting"
    grade = "G3"
    unit = "fact"
    gateable = frozenset({"leaks", "after", "upper95", "excess95"})
    options: InsideOptions
    options_model = InsideOptions
    two_sided: ClassVar[bool] = False
    """Whether a score far below chance is telling too."""
    scales: ClassVar[int] = 1
    """How many scores there are for each layer, one after another."""

    @abstractmethod
    def look(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Ranks (from 0) and scores of the targets at every place.

        Args:
            logits: (blocks, tokens, vocabulary), float32.
            target: (tokens,).

        Returns:
            Two tensors (places, tokens).
        """

    def plan(self, context: Context) -> InsidePlan:
        """Phrasings that the editor saw, for every erased or modified fact and its invented subjects."""
        return inside.plan_rows(context, self.options)

    def observe(self, plan: InsidePlan, view: View) -> Observation:
        """Ranks and scores at every place, through one head or two."""
        from safeedit.models.structure import find_decoder
        from safeedit.probes.hidden import Head

        decoder = find_decoder(view.model)
        base = view.base
        alone = not isinstance(base, Observation)
        head = Head.of(decoder) if alone else base.head
        if not plan.rows:
            return Observation({}, {}, head, alone, False, False)
        foreign = not alone and not head.fits(decoder)
        traces, final, echoed, another = self._traces(
            plan, decoder, view.tokenizer, None if alone or foreign else head
        )
        telling = base.telling if isinstance(base, Observation) else _telling(plan, final, echoed)
        return Observation(self._evidence(plan, traces, telling), telling, head, alone, another, foreign)

    def figures(
        self, plan: InsidePlan, before: Observation, after: Observation, known: Mapping[int, bool]
    ) -> Figures:
        """Scores and hits against those of invented subjects."""
        if after.alone and after is not before:
            raise ProbeError("the edited model was not looked at through the base model's head")
        return standing.compared_figures(
            before.evidence,
            after.evidence,
            known,
            plan.clusters,
            plan.untested,
            layers=self.options.layers,
            alpha=self.options.alpha,
            two_sided=self.two_sided,
            detail={
                "another_head": float(after.another_head),
                "foreign_head": float(after.foreign_head),
            },
        )

    def _traces(
        self, plan: InsidePlan, decoder: Decoder, tokenizer: Any, head: Head | None
    ) -> tuple[list[list[Trace]], list[NDArray[np.float64]], list[NDArray[np.bool_]], bool]:
        """What was seen of each row.

        Returns:
            For each row a trace for each head, the final probabilities of the object's tokens and which
            of these repeat the subject's name; and whether two heads were needed.
        """
        import torch

        from safeedit.models.tokens import tokenise
        from safeedit.probes.hidden import object_columns, states, through

        texts = tokenise(tokenizer, [f"{row.prompt} {row.object}" for row in plan.rows])
        columns = [object_columns(text, row.prompt) for text, row in zip(texts, plan.rows, strict=True)]
        before = [[column - 1 for column in found] for found in columns]
        same = head is None or head.same_tensors(decoder)
        another = False
        traces: list[list[Trace]] = [[] for _ in texts]
        final: list[NDArray[np.float64]] = [np.empty(0)] * len(texts)
        for lines, hidden in states(decoder, tokenizer, texts, before, range(len(decoder.blocks))):
            target = torch.tensor(
                [texts[line].ids[column] for line in lines for column in columns[line]],
                device=hidden.device,
            )
            heads = [decoder]
            if head is not None and not (same and head.same_logits(decoder, hidden[-1])):
                heads.append(head.decoder)
                another = True
            found = [through(each, hidden, target, self.look) for each in heads]
            last = through(decoder, hidden[-1:], target, odds)[1][0] if head is None else target
            start = 0
            for line in lines:
                span = slice(start, start + len(columns[line]))
                start = span.stop
                for ranks, scores in found:
                    traces[line].append(
                        Trace(ranks[:, span].cpu().numpy(), scores[:, span].double().cpu().numpy())
                    )
                final[line] = last[span].double().sigmoid().cpu().numpy()
        echoed = [
            ~np.isin(found, inside.own_tokens(text, row.prompt, plan.echoes[row.fact]))
            for text, found, row in zip(texts, columns, plan.rows, strict=True)
        ]
        return traces, final, echoed, another

    def _evidence(
        self, plan: InsidePlan, traces: Sequence[Sequence[Trace]], telling: Telling
    ) -> dict[int, Evidence]:
        rows: dict[tuple[int, int | None], list[tuple[tuple[int, int], Sequence[Trace]]]] = {}
        for row, seen in zip(plan.rows, traces, strict=True):
            rows.setdefault((row.fact, row.placebo), []).append(((row.fact, row.template), seen))
        own: dict[int, _Subject] = {}
        others: dict[int, list[_Subject]] = {}
        for (fact, placebo), found in rows.items():
            if placebo is None:
                own[fact] = self._subject(found, telling)
        for (fact, placebo), found in rows.items():
            if placebo is None:
                continue
            # An object may be split differently after another name; then the two do not compare.
            if all(_size(seen) == own[fact].sizes[place] for place, seen in found):
                others.setdefault(fact, []).append(self._subject(found, telling))
        return {
            fact: Evidence(
                guess=plan.guesses[fact],
                own=seen.scores,
                others=np.stack([o.scores for o in others[fact]])
                if others.get(fact)
                else np.empty((0, len(seen.scores))),
                layer=seen.layers,
                hits=seen.hits,
                other_hits=tuple(o.hits for o in others.get(fact, ())),
            )
            for fact, seen in own.items()
        }

    def _subject(
        self, found: Sequence[tuple[tuple[int, int], Sequence[Trace]]], telling: Telling
    ) -> _Subject:
        """Scores are averaged over phrasings: a guess changes with the wording, knowledge does not."""
        heads: list[NDArray[np.float64]] = []
        hits: set[int] = set()
        for head in range(len(found[0][1])):
            scores = [seen[head].scores[:, telling[place]].sum(1) for place, seen in found]
            heads.append(np.mean(scores, axis=0))
        for place, seen in found:
            for trace in seen:
                among = (trace.ranks[:, telling[place]] < self.options.k).all(1)
                hits |= set((np.flatnonzero(among) // self.scales).tolist())
        sizes = {place: _size(seen) for place, seen in found}
        layers = tuple(place // self.scales for place in range(len(heads[0]))) * len(heads)
        return _Subject(np.concatenate(heads), layers, frozenset(hits), sizes)


@dataclass(frozen=True, repr=False)
class _Subject:
    scores: NDArray[np.float64]
    layers: tuple[int, ...]
    hits: frozenset[int]
    sizes: Mapping[tuple[int, int], int]
    """Tokens of the object, by fact and phrasing."""


def _size(seen: Sequence[Trace]) -> int:
    return int(seen[0].scores.shape[1])


def odds(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Ranks of the targets (ties count as seen) and their log-odds against all other tokens.

    Log-odds and not log-probabilities: those of a token that is certain and of one that is nearly so
    would be alike.
    """
    import torch

    index = target.expand(logits.shape[:2])[..., None]
    wanted = logits.gather(-1, index)
    ranks = (logits > wanted).sum(-1)
    others = logits.scatter(-1, index, -torch.inf).logsumexp(-1)
    return ranks, (wanted[..., 0] - others).clamp(-FARTHEST, FARTHEST)


def _telling(
    plan: InsidePlan, final: Sequence[NDArray[np.float64]], echoed: Sequence[NDArray[np.bool_]]
) -> Telling:
    """The tokens that neither the name gives away nor invented subjects get anyway.

    The latter by the base model's final probabilities. At least one token is kept.
    """
    own: dict[tuple[int, int], NDArray[np.bool_]] = {}
    expected: dict[tuple[int, int], list[NDArray[np.float64]]] = {}
    for row, probabilities, given in zip(plan.rows, final, echoed, strict=True):
        place = (row.fact, row.template)
        if row.placebo is None:
            own[place] = given
        else:
            expected.setdefault(place, []).append(probabilities)
    found = {}
    for place, given in own.items():
        same = [p for p in expected.get(place, ()) if len(p) == len(given)]
        means = np.where(given, 1.0, np.mean(same, axis=0) if same else 0.0)
        tokens = tuple(np.flatnonzero(means <= EXPECTED).tolist())
        found[place] = tokens or (int(means.argmin()),)
    return found
