"""Adam's arithmetic (Kingma and Ba, arXiv 1412.6980), for whatever its moves are made of and applied to."""

from __future__ import annotations

from torch import Tensor

MOMENTS = (0.9, 0.99)
"""How much of each moment a step keeps; of the second less than usual, as searches have dozens of steps."""
LEAST = 1e-12
"""Added to a spread; small, as gradients are of any scale."""


def remember(first: Tensor, second: Tensor, gradient: Tensor, moments: tuple[float, float] = MOMENTS) -> None:
    """Both running moments, of a gradient's shape, take a gradient in; they are changed in place."""
    one, two = moments
    first.lerp_(gradient, 1 - one)
    second.lerp_(gradient.square(), 1 - two)


def move(first: Tensor, second: Tensor, step: int, moments: tuple[float, float] = MOMENTS) -> Tensor:
    """The move that the moments make after `step` gradients, about 1 in size; it is a new tensor.

    Both are corrected for having started at 0.
    """
    one, two = moments
    spread = (second / (1 - two**step)).sqrt_().add_(LEAST)
    return (first / (1 - one**step)).div_(spread)
