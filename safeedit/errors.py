"""Every way in which safeedit refuses or fails, with the exit code that the command line gives it.

Messages are plain text for a person: what, where, what would be right. They never contain a
subject, an object, a prompt or a generation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


class SafeEditError(Exception):
    """Base of all errors that safeedit raises on purpose; by itself, the machine's or the model's fault."""

    exit_code: ClassVar[int] = 4


class UsageError(SafeEditError):
    """The caller asked for something that cannot be done as asked; nothing was changed."""

    exit_code = 2


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a file, and where."""

    file: str
    line: int
    """Counted from 1."""
    column: int
    """Counted from 1."""
    message: str
    """What is wrong and what would be right; no value of the file that could be personal."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.message}"


class PolicyError(UsageError):
    """A policy, suite or facts file is not valid; `problems` holds everything that is wrong with it."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = sorted(problems, key=lambda p: (p.file, p.line, p.column, p.message))
        super().__init__("\n".join(str(problem) for problem in self.problems))


class ModelError(SafeEditError):
    """The model or the tokenizer could not be loaded, or lacks a part that an editor needs."""


class EditorError(SafeEditError):
    """An editor could not reach a finite, usable result; the model is as it was before."""


class ProbeError(SafeEditError):
    """A probe could not be run as registered."""


class IntegrityError(SafeEditError):
    """Something recorded does not match what is there: a digest, the log's chain, a base model."""

    exit_code = 5
