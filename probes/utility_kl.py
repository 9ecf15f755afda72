"""Divergence from the base model on retained prose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import Field

from safeedit.errors import ProbeError
from safeedit.probes import stats
from safeedit.probes.base import Figures, View
from safeedit.probes.retained import TextOptions, TextPlan, TextProbe, log_probabilities

if TYPE_CHECKING:
    from torch import Tensor

WHOLE = 3 * 10**7
"""Up to this many log-probabilities the whole distributions are kept."""
NOISE_DOCUMENTS = 8
LEAST_REST = 1e-9


class DivergenceOptions(TextOptions):
    """Settings of the divergence probe."""

    top: int = Field(default=64, ge=2)
    """How many of the base model's likeliest tokens are kept where the vocabulary is large."""
    noise: float = Field(default=0.003, gt=0)
    """A noise floor above this makes a pass doubtful."""


@dataclass(frozen=True, repr=False)
class Distributions:
    """What a model predicts at every token of every document."""

    ids: tuple[Tensor, ...] | None
    """The tokens that are kept, (positions, top); None where all are."""
    log_p: tuple[Tensor, ...]
    """Their log-probabilities, one tensor a document."""
    likeliest: tuple[Tensor, ...]
    noise: float
    """Mean divergence of the model from itself, documents read together and one by one."""


class Divergence(TextProbe[Distributions]):
    """The edited model predicts retained prose as the base model does.

    Metric: mean over tokens of KL(base || edited), in nats; the 99th percentile, the largest value
    and the agreement of the likeliest token are reported too, and the noise floor (the base model
    against itself in another batching) stands as the figure before. Unit: document; the bound is
    over documents. Protocol: whole distributions for a small vocabulary; otherwise the base model's
    likeliest tokens and the rest as one, which can only understate the divergence (data-processing
    inequality). For large vocabularies the edited model must be measured against the base one.
    """

    id = "utility.kl"
    metric = "kl_mean"
    options: DivergenceOptions
    options_model = DivergenceOptions

    @property
    def protocol(self) -> str:
        """Forward divergence from the base model."""
        return f"kl-{self.options.tokens}"

    def observe(self, plan: TextPlan, view: View) -> Distributions:
        """The distributions over every document, in a size that memory bears."""
        rows = self.rows(plan, view)
        vocabulary = int(view.model.get_output_embeddings().weight.shape[0])
        whole = vocabulary <= self.options.top or sum(map(len, rows)) * vocabulary <= WHOLE
        base: Distributions | None = view.base
        ids: list[Tensor] = []
        kept: list[Tensor] = []
        likeliest: list[Tensor] = []
        for index, log_p in enumerate(log_probabilities(view.model, view.tokenizer, rows)):
            likeliest.append(log_p.argmax(-1).cpu())
            if whole:
                kept.append(log_p.cpu())
                continue
            if base is None or base.ids is None:
                ids.append(log_p.topk(self.options.top).indices.cpu())
            else:
                ids.append(base.ids[index])
            kept.append(log_p.gather(1, ids[-1].to(log_p.device)).cpu())
        seen = Distributions(None if whole else tuple(ids), tuple(kept), tuple(likeliest), 0.0)
        noise = 0.0 if base is not None else self._noise(rows, seen, view)
        return Distributions(seen.ids, seen.log_p, seen.likeliest, noise)

    def _noise(self, rows: list[list[int]], seen: Distributions, view: View) -> float:
        total = tokens = 0.0
        alone = log_probabilities(view.model, view.tokenizer, rows[:NOISE_DOCUMENTS], together=False)
        for index, log_p in enumerate(alone):
            again = log_p.cpu() if seen.ids is None else log_p.cpu().gather(1, seen.ids[index])
            per_token = _divergence(seen.log_p[index], again, rest=seen.ids is not None)
            total += per_token.sum().item()
            tokens += len(per_token)
        return max(0.0, total / tokens)

    def figures(
        self, plan: TextPlan, before: Distributions, after: Distributions, known: Mapping[int, bool]
    ) -> Figures:
        """Mean divergence, its bound and its tail."""
        import torch

        self._comparable(before, after)
        if len(before.log_p) < 2:
            return Figures(len(before.log_p), verdict="INCONCLUSIVE")
        rest = before.ids is not None
        each = [_divergence(p, q, rest=rest) for p, q in zip(before.log_p, after.log_p, strict=True)]
        tokens = torch.cat(each)
        same = torch.cat(before.likeliest) == torch.cat(after.likeliest)
        return Figures(
            n=len(each),
            before=before.noise,
            after=tokens.mean().item(),
            upper95=stats.ratio_upper([d.sum().item() for d in each], [float(len(d)) for d in each]),
            detail={
                "tokens": len(tokens),
                "p99": tokens.quantile(0.99).item(),
                "largest": tokens.max().item(),
                "likeliest_agrees": same.double().mean().item(),
            },
            doubtful=before.noise > self.options.noise,
        )

    def _comparable(self, before: Distributions, after: Distributions) -> None:
        if [p.shape for p in before.log_p] != [p.shape for p in after.log_p]:
            raise ProbeError("the two models did not read the same tokens")
        if (before.ids is None) != (after.ids is None) or any(
            not a.equal(b) for a, b in zip(before.ids or (), after.ids or (), strict=True)
        ):
            raise ProbeError("the edited model was not measured against the base model's tokens")


def _divergence(base: Tensor, edited: Tensor, *, rest: bool) -> Tensor:
    """KL(base || edited) at every position, in nats; `rest` adds what the kept tokens leave over."""
    base, edited = base.double(), edited.double()
    p = base.exp()
    found = (p * (base - edited)).sum(-1)
    if rest:
        left = (1 - p.sum(-1)).clamp(min=LEAST_REST)
        left_edited = (1 - edited.exp().sum(-1)).clamp(min=LEAST_REST)
        found = found + left * (left.log() - left_edited.log())
    return found
