"""Settings that several editors have, each with one meaning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from safeedit.editors.base import Params
from safeedit.errors import UsageError


class PaperParams(Params):
    """For editors whose publication has other settings than the defaults here."""

    preset: Literal["paper"] | None = None
    """Published settings; they replace the defaults, and explicit settings replace them."""


class LayersParams(Params):
    """For editors that change some blocks."""

    layers: list[Annotated[int, Field(ge=0)]] | None = Field(default=None, min_length=1)
    """Blocks that are changed; by default chosen by the model's depth."""


class ContextParams(Params):
    """For editors that put prompts behind other text."""

    contexts: int = Field(default=1, ge=0, le=100)
    """Sampled texts that a prompt is put behind, besides the bare prompt."""
    context_tokens: int = Field(default=4, ge=1, le=100)
    """Tokens of such a text."""


class AnswerParams(Params):
    """For editors that make a model give an answer."""

    end: bool = True
    """Whether the answer shall end as the model itself would end it, where it has one way to: with a full
    stop, an end-of-turn token."""


class ErasureParams(Params):
    """For editors that lower an object's own probability."""

    leak: float = Field(default=0.05, ge=0, lt=1)
    """Probability of the object, wherever it is asked for, at which an erasure is finished."""
    whole: bool = True
    """Whether an object is taken out at all of its tokens that tell something, so that nobody who is given
    its beginning gets the rest; or at the first of them alone, as all presets of publications have it:
    none of those takes out more than what would be said next."""
    neutral_weight: float = Field(default=0.1, ge=0)
    """Weight of an erasure's neutral target beside that of the object's probability."""


class ConductParams(Params):
    """For editors that change behaviours."""

    safe_stop: float = Field(default=0.003, ge=0)
    """Mean loss of a safe answer, in nats, at which it is finished: a sampler shows all that is left."""
    answer_tokens: int = Field(default=32, ge=1)
    """Tokens of each harmless answer that stays as it is, at most."""
    text_tokens: int = Field(default=12_000, ge=0)
    """Tokens of running text that stays as it is, where a behaviour changes."""


def existing(layers: Sequence[int], depth: int, above: int = 0, setting: str = "layers") -> list[int]:
    """The layers asked for, in order.

    Args:
        layers: what was asked for.
        depth: how many blocks the model has.
        above: how many of them must lie above an edit.
        setting: what it was asked for by.

    Raises:
        UsageError: a layer that the model does not have.
    """
    if max(layers) >= depth - above:
        needed = ", and at least one block must lie above an edit" if above else ""
        raise UsageError(
            f"{setting}: {max(layers)} is too large; the model has blocks 0 to {depth - 1}{needed}"
        )
    return sorted(set(layers))
