"""When a model has been edited too much: limits whose crossing stops a sequence of edits.

Editing again and again wears a model down long before any single edit looks wrong: norms grow, and then
its language goes (arXiv 2401.07453). Both are cheap to watch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from safeedit.errors import UsageError
from safeedit.models.tokens import pad, pad_id, tokenise

if TYPE_CHECKING:
    from safeedit.deltas import WeightDelta


@dataclass(frozen=True)
class Guard:
    """Limits for all edits of a sequence together."""

    norm: float = 1.0
    """Largest Frobenius norm of a weight's whole change, relative to that of the weight."""
    perplexity: float = 1.2
    """Largest ratio of the perplexity on `texts` to what it was before all edits."""
    texts: tuple[str, ...] = ()
    """Plain texts; where there are none, perplexity is not watched."""

    def __post_init__(self) -> None:
        if not self.norm > 0 or not self.perplexity > 1:
            raise UsageError("a guard's norm must be above 0, and its perplexity above 1")

    def crossed(self, norm: float, ratio: float | None) -> str | None:
        """Which limit was crossed, in words; a figure that is not finite crosses every limit."""
        if not norm <= self.norm:
            return f"a weight changed by {norm:.2f} of its norm, and the limit is {self.norm:g}"
        if ratio is not None and not ratio <= self.perplexity:
            return f"perplexity rose to x{ratio:.3f}, and the limit is x{self.perplexity:g}"
        return None


def relative_change(delta: WeightDelta, weight: Tensor) -> float:
    """Frobenius norm of a change, relative to that of the weight before it."""
    size = float(torch.linalg.vector_norm(weight.detach(), dtype=torch.float64))
    return delta.norm() / size if size else math.inf


@torch.no_grad()
def perplexity(model: Any, tokenizer: Any, texts: Sequence[str], batch: int = 32) -> float:
    """Exponential of the mean loss a token over `texts`; not finite where the model is broken."""
    device = next(model.parameters()).device
    total, count = 0.0, 0
    for start in range(0, len(texts), batch):
        rows = [one.ids for one in tokenise(tokenizer, texts[start : start + batch])]
        part = pad(rows, pad_id(tokenizer), "right").to(device)
        log_p = model(**part.forward_args(), use_cache=False).logits[:, :-1].float().log_softmax(-1)
        real = part.attention_mask[:, 1:].bool()
        total -= float(log_p.gather(2, part.input_ids[:, 1:, None])[..., 0][real].sum())
        count += int(real.sum())
    loss = total / count if count else math.nan
    return math.exp(loss) if loss < 700 else math.inf
