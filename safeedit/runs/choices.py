"""Whether the editor, the grade and the suite that a policy asks for exist and fit together, with places."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from safeedit.editors import EDITORS
from safeedit.editors.base import SettingsError
from safeedit.errors import UsageError
from safeedit.policy.model import Grade
from safeedit.policy.positions import Positions
from safeedit.policy.problems import Place, one_of
from safeedit.policy.rules import Finding, Loc
from safeedit.probes.suite import suite_names
from safeedit.triples.facts import Op

if TYPE_CHECKING:
    from safeedit.editors.base import Editor

DEFAULT_EDITOR = "memit"
DETOX_EDITOR = "ft-m"
"""The editor of a policy that asks for nothing but detoxification."""
SUPPRESSED = "G1"
"""The grade of evidence that an output is suppressed, and no more."""


@dataclass(frozen=True, repr=False)
class Wanted:
    """What a policy says that decides about the editor."""

    kinds: Mapping[Op, int]
    """The kinds of its operations, each with the index of the first one."""
    editor: str | None
    params: Mapping[str, Any]
    assurance: str | None

    @classmethod
    def of(cls, data: Mapping[str, object]) -> Wanted:
        """The same from plain data, as far as it says it; the rest of a policy may be wrong."""
        kinds: dict[Op, int] = {}
        operations, choice = data.get("operations"), data.get("editor")
        for index, operation in enumerate(operations if isinstance(operations, list) else ()):
            op = operation.get("op") if isinstance(operation, dict) else None
            if op in get_args(Op):
                kinds.setdefault(cast("Op", op), index)
        given = choice if isinstance(choice, dict) else {}
        name, params, grade = given.get("name"), given.get("params"), data.get("assurance")
        return cls(
            kinds,
            name if isinstance(name, str) else None,
            params if isinstance(params, dict) else {},
            str(grade) if grade in get_args(Grade) else None,
        )


def pick(
    wanted: Wanted, name: str | None, params: Mapping[str, Any] | None
) -> tuple[Editor | None, tuple[Finding, ...]]:
    """The editor asked for by the caller, else by the policy, else the default; and what is wrong with it.

    Args:
        wanted: what the policy says.
        name: asked for by the caller.
        params: settings, in place of the policy's of the same name.

    Returns:
        None for the editor where there is none of that name or its settings are wrong. The places are
        those in a policy; `()` stands for what the caller has given.
    """
    chosen = name or wanted.editor or (DETOX_EDITOR if set(wanted.kinds) == {"detox"} else DEFAULT_EDITOR)
    at: Loc = ("editor", "name") if name is None and wanted.editor else ()
    try:
        kind = EDITORS.get(chosen)
    except UsageError as error:
        unknown = bool(at) and chosen not in EDITORS
        return None, (Finding(at, f"'name' {one_of(chosen, EDITORS)}" if unknown else str(error)),)
    wrong: list[Finding] = []
    for op in sorted(wanted.kinds):
        try:
            kind.check_operations({op})
        except UsageError as error:
            place: Loc = at or (() if name else ("operations", wanted.kinds[op], "op"))
            wrong.append(Finding(place, str(error)))
    own, given = dict(wanted.params) if wanted.editor == chosen else {}, dict(params or {})
    settings = {**own, **given}
    editor: Editor | None = None
    try:
        judged = editor = kind(**settings)
    except SettingsError as error:
        in_file = set(own) - set(given)
        faulty = {finding.loc[0] for finding in error.findings if finding.loc}
        for finding in error.findings:
            stands = finding.loc and finding.loc[0] in in_file
            wrong.append(replace(finding, loc=("editor", "params", *finding.loc) if stands else ()))
        judged = None
        # What the others would promise, so that it need not wait until these are mended.
        with suppress(UsageError):
            judged = kind(**{key: value for key, value in settings.items() if key not in faulty})
    except UsageError as error:
        return None, (*wrong, Finding(_named(str(error), own, given), str(error)))
    hidden, asked = judged.hides() if judged is not None else None, wanted.assurance
    if "erase" in wanted.kinds and hidden and asked and asked > SUPPRESSED:
        told = (
            f"assurance {asked} asks for more than that the objects are no longer said, and with editor "
            f"{chosen} {hidden}; use {_erasers()} for it, or ask for assurance {SUPPRESSED}"
        )
        wrong.append(Finding(() if name else ("assurance",), told))
    return editor, tuple(wrong)


def _named(told: str, own: Collection[str], given: Collection[str]) -> Loc:
    """The place of the setting that a message of the form ``editor NAME: SETTING: …`` is about."""
    setting = [*told.split(": ", 2), ""][1]
    if setting in own and setting not in given:
        return ("editor", "params", setting)
    return ("editor", "params") if own and not given else ()


def _erasers() -> str:
    """The editors whose erasures take objects out of the weights."""
    kinds = EDITORS.sound()
    able = [name for name, kind in kinds.items() if "erase" in kind.operations and not kind.beside_weights]
    return f"{', '.join(able[:-1])} or {able[-1]}"


def suite_beside(named: str, folder: Path) -> str:
    """The name of a suite that ships, or the whole path of a file beside a policy or where the caller is.

    The name of a shipped suite always means that suite, whatever files there are.
    """
    if named in suite_names():
        return named
    chosen = folder / named if (folder / named).is_file() else Path(named)
    return str(chosen.resolve()) if chosen.is_file() else str(chosen)


def unknown_suite(named: str) -> Finding:
    """That the suite of a policy is neither one that ships nor a file."""
    told = f"'suite' {one_of(named, suite_names())}; or give a file (.yaml)"
    if Path(named).suffix:
        told = f"'suite': there is no such file; the suites that ship are: {', '.join(suite_names())}"
    return Finding(("probes", "suite"), told)


def place_of(finding: Finding, positions: Positions) -> Place:
    """Where in a policy's file a finding stands."""
    return positions.key(finding.loc) if finding.at_key else positions.value(finding.loc)
