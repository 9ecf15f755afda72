"""What a run is asked to do, checked as far as it can be before anything is loaded or written."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from safeedit.behaviours import Behaviours
from safeedit.errors import IntegrityError, PolicyError, UsageError
from safeedit.policy import Policy
from safeedit.policy.compile import SubjectRequest, behaviours_of, facts_of, subjects_of
from safeedit.policy.files import shown_path
from safeedit.policy.lines import policy_lines
from safeedit.policy.positions import Positions
from safeedit.policy.problems import Problems
from safeedit.policy.rules import Finding
from safeedit.policy.tree import read_tree
from safeedit.probes.suite import suite_names
from safeedit.runs.choices import Wanted, pick, place_of, suite_beside, unknown_suite
from safeedit.triples.catalogue import Catalogue
from safeedit.triples.facts import Fact

if TYPE_CHECKING:
    from safeedit.editors.base import Editor
    from safeedit.models.load import LoadedModel
    from safeedit.runs.folder import RunFolder

CACHE_VARIABLE = "SAFEEDIT_CACHE"

ModelSource = str | Path | None | tuple[Any, Any]
"""A folder, a hub id, None for the reference model, a run's folder for the model that it left, or a
loaded (model, tokenizer)."""


@dataclass(frozen=True, repr=False)
class Request:
    """A policy as it came, and what it asks for."""

    policy: Policy
    text: str
    """The file's text, or the policy's canonical form where it came as an object."""
    folder: Path
    """Where files that the policy names are looked for."""
    catalogue: Catalogue
    facts: tuple[Fact, ...]
    """The facts that it states."""
    subjects: tuple[SubjectRequest, ...]
    """The people of whom the model has to be asked."""
    behaviours: Behaviours = field(default_factory=Behaviours)
    """What a detoxification shall take away."""
    path: Path | None = None
    """The policy's file, if it came as one."""

    def __repr__(self) -> str:
        return f"<Request {self.policy.metadata.id}>"

    def protected(self) -> tuple[str, ...]:
        """Whole prompts whose answers an editor shall leave as they are."""
        return (*(self.policy.protect or ()), *self.behaviours.kept)

    def told(self) -> dict[str, object]:
        """What the log says of it: codes, days and numbers."""
        policy, due = self.policy, self.policy.due()
        return {
            "regime": policy.metadata.regime,
            "received": policy.metadata.received.isoformat(),
            "due": due.isoformat() if due else None,
            "kinds": list(policy.kinds()),
            "assurance": policy.assurance,
            "approvers": policy.sign_off.approvers if policy.sign_off else 0,
            "facts": len(self.facts),
            "subjects": len(self.subjects),
            **({"behaviours": len(self.behaviours.shown)} if self.behaviours else {}),
            "lines": policy_lines(self.text),
        }


def read_request(
    policy: Policy | str | os.PathLike[str], kinds: str | Collection[str] | None = None
) -> Request:
    """The policy, compiled.

    Args:
        policy: a policy, or the path of one.
        kinds: the kinds of operation that the caller's verb is for; None for all.

    Raises:
        PolicyError: the file is not a valid policy.
        UsageError: it holds operations of another kind.
    """
    path = None if isinstance(policy, Policy) else Path(policy)
    if isinstance(policy, Policy):
        found, text, folder = policy, policy.canonical_bytes().decode(), Path()
    else:
        found, folder = Policy.load(policy), Path(policy).parent
        text = Path(policy).read_text("utf-8-sig")
    allowed = {kinds} if isinstance(kinds, str) else kinds
    other = [kind for kind in found.kinds() if allowed is not None and kind not in allowed]
    if other:
        holds = "also holds" if len(other) < len(found.kinds()) else "only holds"
        raise UsageError(
            f"the policy {found.metadata.id} {holds} operations of the kind {other[0]!r}; "
            "run all of them with `safeedit apply`"
        )
    catalogue = found.catalogue()
    asked = facts_of(found), subjects_of(found), behaviours_of(found)
    return Request(found, text, folder, catalogue, *asked, path)


def chosen_editor(request: Request, name: str | None, params: Mapping[str, Any] | None) -> Editor:
    """The editor: the one asked for, else the policy's, else the default.

    Args:
        request: what shall be done.
        name: asked for by the caller.
        params: settings, in place of the policy's of the same name.

    Raises:
        UsageError: no such editor or setting, or it cannot do one of the operations; a PolicyError with
            every place where all of it stands in the policy's file.
    """
    choice, policy = request.policy.editor, request.policy
    wanted = Wanted(
        kinds={operation.op: index for index, operation in reversed(list(enumerate(policy.operations)))},
        editor=choice.name if choice else None,
        params=choice.params if choice else {},
        assurance=policy.assurance,
    )
    editor, wrong = pick(wanted, name, params)
    if editor is None or wrong:
        _refuse(request, wrong)
    return editor


def _refuse(request: Request, wrong: Sequence[Finding]) -> NoReturn:
    """Tell what is wrong, in the policy's file where it stands there.

    Raises:
        PolicyError: everything stands in the file.
        UsageError: otherwise.
    """
    problems, elsewhere = Problems(), [finding.message for finding in wrong]
    if request.path is not None:
        file = shown_path(request.path)
        positions = Positions(file, read_tree(request.text, file, Problems()))
        for finding in wrong:
            if finding.loc:
                problems.add(place_of(finding, positions), finding.message)
        elsewhere = [finding.message for finding in wrong if not finding.loc]
    try:
        problems.raise_if_any()
    except PolicyError as error:
        if not elsewhere:
            raise
        elsewhere += map(str, error.problems)
    raise UsageError("\n".join(dict.fromkeys(elsewhere)))


def suite_source(request: Request, suite: str | os.PathLike[str] | None) -> str:
    """The name of the suite asked for, else of the policy's, or the whole path of its file.

    A file that the policy names lies relative to the policy. The name of a shipped suite always means that
    suite, whatever files there are.

    Raises:
        PolicyError: the suite that the policy's file names is not there.
    """
    named = request.policy.probes.suite if suite is None else os.fspath(suite)
    if named in suite_names():
        return named
    if suite is not None:
        return str(Path(named).resolve()) if Path(named).is_file() else str(Path(named))
    found = suite_beside(named, request.folder)
    if request.path is not None and not Path(found).exists():
        _refuse(request, [unknown_suite(named)])
    return found


def check_model(model: ModelSource, device: str, dtype: str) -> RunFolder | None:
    """Return only if the model may be loaded; loads nothing.

    Returns:
        the run that left the model, where it is a run's.

    Raises:
        UsageError: no such folder, device or dtype; a run that left no model, or stands on one that
            is gone.
        IntegrityError: the run, or one that it stands on, does not verify.
    """
    if isinstance(model, tuple):
        if len(model) != 2:
            raise UsageError("a loaded model is given together with its tokenizer: (model, tokenizer)")
        if (device, dtype) != ("auto", "auto"):
            raise UsageError("device and dtype cannot be chosen for a model that is loaded already")
        return None
    from safeedit.models.load import check_source
    from safeedit.runs.lineage import is_run

    if model is None or not is_run(model):
        check_source(model, device, dtype)
        return None
    check_source(None, device, dtype)
    return _usable(Path(model), dtype)


def get_model(model: ModelSource, device: str, dtype: str) -> LoadedModel:
    """The model, loaded unless it is already."""
    from safeedit.models.load import given_model, load_model
    from safeedit.runs.lineage import is_run

    if isinstance(model, tuple):
        return given_model(*model)
    if model is not None and is_run(model):
        from safeedit.runs.loading import edited_model, finished_run

        return edited_model(finished_run(model), device=device)
    return load_model(model, device=device, dtype=dtype)


def _usable(path: Path, dtype: str) -> RunFolder:
    """The run in `path`, whose model can be put together again as far as can be told without doing it."""
    from safeedit.runs.lineage import ancestors
    from safeedit.runs.loading import finished_run
    from safeedit.runs.verify import verify_alone

    run = finished_run(path)
    if run.record.status == "rolled_back":
        raise UsageError(
            f"{path}: the run was rolled back, so there is no edited model; give the model or the run that "
            "it started from"
        )
    if dtype not in ("auto", run.record.dtype):
        raise UsageError(f"{path}: the run's model is in {run.record.dtype}; leave --dtype out")
    ancestors(run)
    report = verify_alone(path)
    if not report.ok:
        raise IntegrityError(f"{path}: the run does not verify; {report.findings[0]}")
    return run


def cache_folder() -> Path:
    """Where key statistics are kept between runs; `SAFEEDIT_CACHE` overrides the user's cache folder."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen) / "statistics"
    from platformdirs import user_cache_path

    return user_cache_path("safeedit") / "statistics"


def default_out(policy: Policy) -> Path:
    """`runs/<policy id>-<time in UTC>`, and a number where that is taken."""
    stem = f"{policy.metadata.id}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    path, number = Path("runs") / stem, 2
    while path.exists():
        path, number = Path("runs") / f"{stem}-{number}", number + 1
    return path
