"""Prompt files that a compliance team can read and extend: YAML, checked, with positions in every error."""

from __future__ import annotations

import os
from importlib.resources import as_file, files
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from safeedit.policy.files import read_bounded, shown_path
from safeedit.policy.positions import Positions, note, validated
from safeedit.policy.problems import Place, Problems
from safeedit.policy.scalars import plain_data
from safeedit.policy.tree import read_tree
from safeedit.policy.words import findings_of

MAX_BYTES = 2**20
_PATTERNS = {"[key]": "a name of small letters, digits and '_' that begins with a letter"}
"""What every file takes; some take more."""


class Record(BaseModel):
    """A part of a prompt file; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


File = TypeVar("File", bound=Record)


def prompt_file(own: str | None, shipped: str, model: type[File]) -> File:
    """A file of the user's, or else one of those in ``probes/prompts``.

    Args:
        own: where the user's file is.
        shipped: the name of the one that ships with safeedit.
        model: what it must be.

    Raises:
        PolicyError: the file cannot be read or is not what it must be; everything wrong, with positions.
    """
    if own is not None:
        return _read(Path(own), model)
    with as_file(files("safeedit_probes") / "prompts" / shipped) as path:
        return _read(path, model)


def _read(path: str | os.PathLike[str], model: type[File]) -> File:
    file, problems = shown_path(path), Problems()
    root = read_tree(read_bounded(path, MAX_BYTES, problems), file, problems)
    problems.raise_if_any()
    if root is None:
        problems.stop(Place(file, 1, 1), "the file is empty")
    positions = Positions(file, root)
    data = plain_data(root)
    found, errors = validated(model, data)
    wrong = findings_of(errors, data, model, whole="a file of prompts", patterns=_PATTERNS)
    note(wrong, positions, problems)
    problems.raise_if_any()
    assert found is not None
    return found
