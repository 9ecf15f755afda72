"""Several changes of one weight made into one, by rules that need nothing but the changes.

- ``ties`` (Yadav et al., arXiv 2306.01708): each change is trimmed to its largest entries, each entry's
  sign is elected by the total of all changes, and the mean is taken over those that agree with it.
- ``dare-ties`` (Yu et al., arXiv 2311.03099): entries are dropped at random and the rest scaled up to make
  up for them, then as above without trimming.
- ``linear``: the mean.
- ``slerp``: along the great circle between directions, one change after another (Shoemake, 1985).

An entry that a change does not have (its mask left it out, or it was trimmed) takes no part in a mean by
agreement.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Rule = Literal["ties", "dare-ties", "linear", "slerp"]


def merged(changes: Tensor, rule: Rule, density: float, generator: torch.Generator) -> Tensor:
    """One change for several.

    Args:
        changes: (changes, ...), float32.
        rule: how.
        density: share of a change's own entries that `ties` and `dare-ties` keep.
        generator: what `dare-ties` drops by; on the CPU.

    Returns:
        Of the shape of one change; a single change is returned as it is.
    """
    if len(changes) == 1:
        return changes[0]
    rules: dict[Rule, Callable[[], Tensor]] = {
        "ties": lambda: agreed(torch.stack([trimmed(change, density) for change in changes])),
        "dare-ties": lambda: agreed(torch.stack([dropped(c, density, generator) for c in changes])),
        "linear": lambda: changes.mean(0),
        "slerp": lambda: _slerped(changes),
    }
    return rules[rule]()


def trimmed(change: Tensor, density: float) -> Tensor:
    """A change with all but its largest entries set to zero; `density` is a share of those it has."""
    own = change.count_nonzero()
    kept = math.ceil(density * int(own))
    if kept >= own:
        return change
    flat = change.flatten()
    largest = flat.abs().topk(kept).indices
    return torch.zeros_like(flat).index_copy(0, largest, flat[largest]).view_as(change)


def dropped(change: Tensor, density: float, generator: torch.Generator) -> Tensor:
    """A change with entries dropped at random, and the others scaled so that its expectation stays."""
    if density >= 1:
        return change
    kept = torch.rand(change.shape, generator=generator) < density
    return change * kept.to(change.device) / density


def agreed(changes: Tensor) -> Tensor:
    """The mean, entry by entry, of those changes whose sign is that of the total."""
    sign = changes.sum(0).sign()
    agree = (changes.sign() == sign) & (changes != 0)
    return (changes * agree).sum(0) / agree.sum(0).clamp(min=1)


def _slerped(changes: Tensor) -> Tensor:
    found = changes[0]
    for number, change in enumerate(changes[1:], start=1):
        found = slerp(found, change, 1 / (number + 1))
    return found


def slerp(one: Tensor, other: Tensor, share: float) -> Tensor:
    """The point `share` of the way from `one` to `other` on the arc between them; lengths in between too."""
    first, second = float(one.norm()), float(other.norm())
    straight = one + share * (other - one)
    if not first or not second:
        return straight
    cosine = max(-1.0, min(1.0, float((one * other).sum()) / (first * second)))
    angle = math.acos(cosine)
    if math.sin(angle) < 1e-6:
        return straight
    near = math.sin((1 - share) * angle) / math.sin(angle)
    far = math.sin(share * angle) / math.sin(angle)
    return (near / first * one + far / second * other) * (first + share * (second - first))
