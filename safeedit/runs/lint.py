"""Whether policies could be carried out, as far as that shows without any model: for commits and for CI."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safeedit.errors import PolicyError, Problem, UsageError
from safeedit.exams.own import own_data, with_own_data
from safeedit.policy import Policy
from safeedit.policy.load import Draft, read_draft
from safeedit.policy.model import ProbeChoice
from safeedit.policy.positions import validated
from safeedit.policy.problems import Place
from safeedit.policy.rules import Finding, Loc
from safeedit.probes.suite import Suite, load_suite, suite_names
from safeedit.runs.choices import Wanted, pick, place_of, suite_beside, unknown_suite
from safeedit.runs.options import read_request


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
        draft = read_draft(path)
    except PolicyError as error:
        return Checked(path, tuple(error.problems))
    editor, wrong = pick(Wanted.of(draft.data), None, None)
    _note(draft, wrong)
    suite = _suite(draft, path.parent)
    if suite is not None:
        _own(draft, suite, path.parent)
    about: dict[str, Any] = {}
    if draft.policy is not None:
        try:
            request = replace(read_request(draft.policy), text=path.read_text("utf-8-sig"))
        except UsageError as error:
            _refused(draft, ("operations",), error)
        else:
            about = {"id": request.policy.metadata.id, **request.told()}
    try:
        draft.problems.raise_if_any()
    except PolicyError as error:
        return Checked(path, tuple(error.problems))
    # Without them something would be wrong.
    assert editor is not None
    assert suite is not None
    return Checked(path, (), {**about, "editor": editor.name, "suite": suite.name})


def _suite(draft: Draft, folder: Path) -> Suite | None:
    """The policy's suite, and what is wrong with it noted; None where it cannot be used."""
    given = draft.data.get("probes")
    named = given.get("suite", "standard") if isinstance(given, dict) else "standard"
    if not isinstance(named, str):
        return None
    source = suite_beside(named, folder)
    if source not in suite_names() and not Path(source).exists():
        _note(draft, [unknown_suite(named)])
        return None
    try:
        return load_suite(source)
    except UsageError as error:
        _refused(draft, ("probes", "suite"), error)
    return None


def _own(draft: Draft, suite: Suite, folder: Path) -> None:
    """Note what is wrong with the data that the policy names."""
    asked, _ = validated(ProbeChoice, draft.data.get("probes", {}))
    if asked is None:
        return

    def read(choice: ProbeChoice) -> UsageError | None:
        # Nothing else of the policy counts here, and it may be wrong.
        only: dict[str, Any] = {"probes": choice}
        try:
            with_own_data(suite, own_data(Policy.model_construct(**only), folder))
        except UsageError as error:
            return error
        return None

    whole = read(asked)
    if whole is None:
        return
    before = len(draft.problems)
    # Whose fault it is: the suite's alone, or that of one of the policy's lines.
    for field in ("suite", *sorted(asked.model_fields_set - {"suite"})):
        value = getattr(asked, field)
        error = read(ProbeChoice() if field == "suite" else ProbeChoice.model_validate({field: value}))
        if error is not None:
            _refused(draft, ("probes", field), error)
    if len(draft.problems) == before:
        _refused(draft, ("probes",), whole)


def _note(draft: Draft, wrong: Iterable[Finding]) -> None:
    places = [(place_of(finding, draft.positions), finding.message) for finding in wrong]
    # Where the reader has told what is wrong, the rest only follows from it.
    for place, message in [one for one in places if not draft.problems.noted(one[0])]:
        draft.problems.add(place, message)


def _refused(draft: Draft, loc: Loc, error: UsageError) -> None:
    """Note an error where it says that it stands, or else at a place of the policy."""
    if isinstance(error, PolicyError):
        for problem in error.problems:
            draft.problems.add(Place(problem.file, problem.line, problem.column), problem.message)
    else:
        first = str(error).splitlines()[0] if str(error) else "it cannot be carried out"
        draft.problems.add(draft.positions.value(loc), first)
