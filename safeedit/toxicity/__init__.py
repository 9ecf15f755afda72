"""Scorers of toxic text: from texts to the probability that each of them is toxic.

A scorer is found by what a suite or a policy calls it:

- ``embedded`` ships with safeedit, so that everything can be tried offline; it knows little more than the
  insults of the reference world, and no release should rest on it.
- ``linear:FILE.safetensors`` is like it, fitted to labelled texts of one's own (`safeedit.toxicity.fit`).
- ``detoxify:original``, ``unbiased``, ``multilingual``, ``original-small``, ``unbiased-small``: Detoxify's
  published checkpoints; ``detoxify:FILE.ckpt`` one in its format.
- ``transformers:FOLDER`` or ``transformers:OWNER/NAME``: any sequence classifier of transformers;
  ``#LABEL,LABEL`` after it says which of its labels are toxic, where that cannot be told.

Other packages add names through the entry-point group ``safeedit.scorers``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safeedit.registry import Registry

if TYPE_CHECKING:
    from pathlib import Path

    from safeedit.toxicity.base import Scorer

SCORERS: Registry[Scorer] = Registry(
    "scorer",
    "safeedit.scorers",
    "safeedit.toxicity.base:Scorer",
    {
        "detoxify": "safeedit.toxicity.detoxify:Detoxify",
        "embedded": "safeedit.toxicity.embedded:Embedded",
        "linear": "safeedit.toxicity.linear:Linear",
        "transformers": "safeedit.toxicity.classifier:Classifier",
    },
)

_made: dict[tuple[type[Scorer], str, str], Scorer] = {}


def scorer(spec: str, device: str = "cpu") -> Scorer:
    """The scorer that `spec` names; one a process, made again where its files have changed.

    Args:
        spec: as the package's docstring says.
        device: where a scorer that has a model computes.

    Raises:
        UsageError: there is no such scorer, or what it is to be made of is not there or cannot be used.
    """
    name, _, argument = spec.partition(":")
    kind = SCORERS.get(name)
    key = kind, argument, device
    if key not in _made or _made[key].stale:
        _made[key] = kind.made(argument, device)
    return _made[key]


def beside(spec: str, folder: Path) -> str:
    """The same scorer, with a whole path where it names a file or a folder that lies in or below `folder`."""
    from safeedit.toxicity.released import RELEASED

    name, _, argument = spec.partition(":")
    # A folder's name may hold the sign that stands before labels.
    for place in dict.fromkeys((argument, argument.rpartition("#")[0] or argument)):
        if argument not in RELEASED and place and (folder / place).exists():
            return f"{name}:{(folder / place).resolve()}{argument[len(place) :]}"
    return spec


def public_name(spec: str) -> str:
    """What a report calls a scorer: its name, and which of Detoxify's; never where a file lies."""
    from safeedit.toxicity.released import RELEASED

    name, _, argument = spec.partition(":")
    return spec if argument in RELEASED else name


__all__ = ["SCORERS", "beside", "public_name", "scorer"]
