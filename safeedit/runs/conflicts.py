"""What a new policy would undo or repeat of the runs that it shall stand on, found before anything is done.

The facts of earlier runs are in their vaults alone. A run whose vault cannot be read is not
compared, and that is said. What a run was asked for and did not edit, because the model did not
know it, is no edit. Names are compared as the policy's own rules compare phrasings: without regard
to case and spacing, aliases included.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from safeedit.errors import UsageError
from safeedit.policy.compile import subjects_of
from safeedit.policy.model import Detox
from safeedit.policy.rules import same
from safeedit.runs import stored
from safeedit.runs.folder import RunFolder
from safeedit.runs.keys import KeyMissingError
from safeedit.runs.lineage import ancestors
from safeedit.runs.options import Request
from safeedit.runs.redact import Redactor
from safeedit.triples.facts import Fact

OnConflict = Literal["stop", "replace"]
Kind = Literal["changed", "erased", "repeated"]

SHOWN = 25
"""A message lists at most so many."""

_WORDS: dict[Kind, str] = {
    "changed": "was given another object",
    "erased": "was erased",
    "repeated": "was edited to the same end",
}


class ConflictError(UsageError):
    """A policy contradicts, or repeats, what runs did that it shall stand on; nothing was done."""

    def __init__(self, conflicts: Sequence[Conflict]) -> None:
        self.conflicts = tuple(conflicts)
        lines = [one.line() for one in conflicts[:SHOWN]]
        if len(conflicts) > SHOWN:
            lines.append(f"and {len(conflicts) - SHOWN} more")
        lines.append("take them out of the policy, or let it win with --on-conflict replace")
        super().__init__("\n".join(lines))


@dataclass(frozen=True)
class Conflict:
    """One fact of a policy that an earlier run has settled already."""

    where: str
    """The fact's place in the policy."""
    kind: Kind
    relation: str
    """Its name, or a keyed digest where that is no identifier."""
    subject: str
    """A digest of the name, under the earlier run's key."""
    run: RunFolder

    def line(self) -> str:
        """For a person; names no subject and no object."""
        return (
            f"{self.where}: {self.relation} of {self.subject} {_WORDS[self.kind]} by {self.run.record.id} "
            f"({self.run.path})"
        )


@dataclass(frozen=True)
class Compared:
    """What a comparison found."""

    conflicts: tuple[Conflict, ...] = ()
    runs: int = 0
    """How many runs' facts the policy was compared with."""
    unreadable: tuple[RunFolder, ...] = ()
    """Those whose facts nobody here can read."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """One line for each run that could not be compared."""
        return tuple(
            f"{run.path}: whether the policy contradicts this run cannot be checked, nor whether what it did "
            "still holds: the key of its vault is not here"
            for run in self.unreadable
        )

    def counts(self) -> dict[str, int]:
        """How many conflicts there are of each kind."""
        return {kind: sum(one.kind == kind for one in self.conflicts) for kind in get_args(Kind)}


def compare(request: Request, parent: RunFolder | None, on_conflict: str) -> Compared:
    """What of a request `parent`, or a run that it stands on, has settled already.

    Args:
        request: the new policy.
        parent: the run whose model it shall change; None where it is no run's.
        on_conflict: `stop`, or `replace` to let the new policy win.

    Raises:
        UsageError: `on_conflict` is something else.
        ConflictError: there are conflicts, and the run shall stop then.
    """
    if on_conflict not in get_args(OnConflict):
        raise UsageError(f"unknown way to meet a conflict; there are: {', '.join(get_args(OnConflict))}")
    if parent is None:
        return Compared()
    history, unreadable, runs = _History(), [], 0
    for run in (*ancestors(parent), parent):
        if stored.PATCH not in run.record.digests:
            continue
        try:
            history.add(run)
            runs += 1
        except KeyMissingError:
            unreadable.append(run)
    conflicts = tuple(history.conflicts(request))
    if conflicts and on_conflict == "stop":
        raise ConflictError(conflicts)
    return Compared(conflicts, runs, tuple(unreadable))


@dataclass
class _Last:
    """What was last done to one relation of one name."""

    order: int
    run: RunFolder
    target: str | None
    """What shall be said; None after an erasure ..."""
    erased: set[str] = field(default_factory=set)
    """... of these."""


class _History:
    """What the runs did, one after another, by name and relation."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], _Last] = {}
        self._people: dict[str, tuple[int, RunFolder, tuple[str, ...] | None]] = {}
        self._runs = 0

    def add(self, run: RunFolder) -> None:
        """What one more run did.

        Raises:
            KeyMissingError: its vault cannot be read.
        """
        facts, (policy, _) = stored.edited_facts(run), stored.kept_request(run)
        order = self._runs
        self._runs += 1
        for subject in subjects_of(policy):
            for name in (subject.name, *subject.aliases):
                self._people[same(name)] = (order, run, subject.relations)
        for fact in facts:
            for at in _keys(fact):
                target = None if fact.target is None else same(fact.target)
                before = self._last.get(at)
                erased = set(before.erased) if before and target is None and before.target is None else set()
                if target is None:
                    erased |= {same(name) for name in (fact.object, *fact.object_aliases)}
                self._last[at] = _Last(order, run, target, erased)

    def conflicts(self, request: Request) -> Iterator[Conflict]:
        """Each fact of a request that is settled, once."""
        redactors: dict[str, Redactor] = {}
        for where, fact in zip(_places(request), request.facts, strict=True):
            for at in _keys(fact):
                found = self._settled(at, fact)
                if found is not None:
                    kind, run = found
                    if run.record.uuid not in redactors:
                        redactors[run.record.uuid] = run.redactor
                    redactor = redactors[run.record.uuid]
                    relation = str(redactor.plain(fact.relation))
                    yield Conflict(where, kind, relation, redactor.digest(fact.subject), run)
                    break

    def _settled(self, at: tuple[str, str], fact: Fact) -> tuple[Kind, RunFolder] | None:
        last, person = self._last.get(at), self._people.get(at[0])
        if fact.target is None:
            repeated = last is not None and last.target is None and same(fact.object) in last.erased
            return ("repeated", last.run) if last is not None and repeated else None
        if person is not None and (last is None or last.order < person[0]):
            _, run, relations = person
            if relations is None or at[1] in relations:
                return "erased", run
        if last is None:
            return None
        if last.target is None:
            return "erased", last.run
        return ("repeated" if last.target == same(fact.target) else "changed"), last.run


def _keys(fact: Fact) -> list[tuple[str, str]]:
    return [(same(name), fact.relation) for name in (fact.subject, *fact.aliases)]


def _places(request: Request) -> Iterator[str]:
    """Where each of a request's facts stands in the policy."""
    for index, operation in enumerate(request.policy.operations):
        for at in range(len(() if isinstance(operation, Detox) else operation.facts or ())):
            yield f"operations[{index}].facts[{at}]"
