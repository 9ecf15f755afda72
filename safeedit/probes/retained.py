"""Probes of prose that must stay as likely as it was: documents, and their log-probabilities."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import Field

from safeedit.errors import ProbeError
from safeedit.probes.base import Context, Options, Plan, Probe, View

if TYPE_CHECKING:
    from torch import Tensor

LOGITS_AT_ONCE = 2**25
"""How many logits one forward pass may give."""

Seen = TypeVar("Seen")


@dataclass(frozen=True, repr=False)
class TextPlan(Plan):
    """Documents to read."""

    texts: tuple[str, ...]

    def prompts(self) -> tuple[str, ...]:
        """None: nothing is generated."""
        return ()

    def material(self) -> object:
        """As JSON values."""
        return {"texts": list(self.texts)}


class TextOptions(Options):
    """Settings of a probe that reads documents."""

    documents: int = Field(default=64, ge=2)
    """Documents, at most."""
    tokens: int = Field(default=256, ge=2)
    """Tokens of each document, at most."""


class TextProbe(Probe[TextPlan, Seen]):
    """Base of the probes whose unit is a document of retained prose."""

    family = "utility"
    unit = "document"
    gateable = frozenset({"after", "upper95"})
    options: TextOptions
    options_model = TextOptions

    def plan(self, context: Context) -> TextPlan:
        """A sample of the retained texts."""
        texts = list(dict.fromkeys(context.controls.texts))
        if len(texts) > self.options.documents:
            texts = context.rng("retained").sample(texts, self.options.documents)
        return TextPlan(tuple(texts))

    @abstractmethod
    def observe(self, plan: TextPlan, view: View) -> Seen:
        """Read every document."""

    def rows(self, plan: TextPlan, view: View) -> list[list[int]]:
        """The documents as tokens, cut to length; documents of fewer than two tokens are left out.

        Raises:
            ProbeError: no document is left.
        """
        from safeedit.models.tokens import tokenise

        rows = [tokens.ids[: self.options.tokens] for tokens in tokenise(view.tokenizer, plan.texts)]
        kept = [row for row in rows if len(row) > 1]
        if not kept:
            raise ProbeError("no retained text has two tokens, so nothing about it can be predicted")
        return kept


def log_probabilities(
    model: Any, tokenizer: Any, rows: list[list[int]], *, together: bool = True
) -> Iterator[Tensor]:
    """For each row, in order, the log-probabilities of every next token: (tokens - 1, vocabulary), float32.

    Args:
        model: a causal LM.
        tokenizer: its tokenizer, for a token to pad with.
        rows: token ids, at least two each.
        together: whether rows share a forward pass; apart, rounding differs a little.

    Raises:
        ProbeError: a logit is not finite.
    """
    import torch

    from safeedit.models.hooks import frozen
    from safeedit.models.tokens import pad, pad_id

    device = next(model.parameters()).device
    width = max(map(len, rows))
    vocabulary = int(model.get_output_embeddings().weight.shape[0])
    size = max(1, LOGITS_AT_ONCE // (width * vocabulary)) if together else 1
    for start in range(0, len(rows), size):
        chunk = rows[start : start + size]
        batch = pad(chunk, pad_id(tokenizer), "right").to(device)
        with frozen(model), torch.no_grad():
            logits = model(**batch.forward_args(), use_cache=False).logits
        for row, scores in zip(chunk, logits, strict=True):
            scores = scores[: len(row) - 1].float()
            if not torch.isfinite(scores).all():
                raise ProbeError("the model gave a logit that is not finite")
            yield torch.log_softmax(scores, -1)
