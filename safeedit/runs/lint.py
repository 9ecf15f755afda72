"""Whether policies could be carried out, as far as that shows without any model: for commits and for CI."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safeedit.errors import PolicyError, Problem, UsageError
from safeedit.exams.own import own_data, with_own_data
from safeedit.probes.suite import load_suite
from safeedit.runs.options import chosen_editor, read_request, suite_source


@dataclass(frozen=True)
class Checked:
    """One policy file, and what is wrong with it."""

    path: Path
    problems: tuple[Problem, ...] = ()
    about: dict[str, Any] | None = None
    """What it asks for, in codes, days and numbers; None where it is not valid."""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """As the command line prints it."""
        problems = [
            {"file": p.file, "line": p.line, "column": p.column, "message": p.message} for p in self.problems
        ]
        return {"file": str(self.path), "ok": self.ok, "policy": self.about, "problems": problems}


def lint(paths: Iterable[str | os.PathLike[str]]) -> tuple[Checked, ...]:
    """Check policies with the files that they name, their editor and their suite; two may not have one id.

    Everything wrong with a file is told at once, and of every file.
    """
    found = [_checked(Path(path)) for path in paths]
    seen: dict[str, Path] = {}
    for index, one in enumerate(found):
        if one.about is None:
            continue
        first = seen.setdefault(one.about["id"], one.path)
        if first != one.path:
            line = one.about["lines"].get("metadata", 1)
            message = f"metadata.id is that of {first} too; a request has an id of its own"
            found[index] = Checked(one.path, (Problem(str(one.path), line, 1, message),), one.about)
    return tuple(found)


def _checked(path: Path) -> Checked:
    try:
        request = read_request(path)
        editor = chosen_editor(request, None, None)
        suite = load_suite(suite_source(request, None))
        with_own_data(suite, own_data(request.policy, request.folder, ()))
    except PolicyError as error:
        return Checked(path, tuple(error.problems))
    except UsageError as error:
        first = str(error).splitlines()[0] if str(error) else "it cannot be carried out"
        return Checked(path, (Problem(str(path), 1, 1, first),))
    about = {"id": request.policy.metadata.id, **request.told(), "editor": editor.name, "suite": suite.name}
    return Checked(path, (), about)
