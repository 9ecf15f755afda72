"""What runs did to the model that a new run changes, read from their vaults for the probes that ask again."""

from __future__ import annotations

from collections.abc import Sequence

from safeedit.probes.base import Earlier
from safeedit.runs import stored
from safeedit.runs.folder import RunFolder
from safeedit.runs.keys import KeyMissingError
from safeedit.runs.lineage import ancestors
from safeedit.triples.catalogue import Relation
from safeedit.triples.facts import Fact


def earlier_of(parent: RunFolder | None) -> Earlier:
    """What the run whose model shall be changed, and those below it, edited; nothing where there is none."""
    return Earlier() if parent is None else edited_by((*ancestors(parent), parent))


def edited_by(runs: Sequence[RunFolder]) -> Earlier:
    """What some runs edited, the oldest first; a run that edited nothing has nothing that could be lost.

    A run whose key is gone is counted: that nobody can ask again is not that all is well.
    """
    requests: list[tuple[Fact, ...]] = []
    relations: dict[str, Relation] = {}
    unreadable = 0
    for run in runs:
        if stored.PATCH not in run.record.digests:
            continue
        try:
            policy, _ = stored.kept_request(run)
            requests.append(stored.edited_facts(run))
        except KeyMissingError:
            unreadable += 1
        else:
            relations |= policy.catalogue()
    return Earlier(tuple(requests), relations, unreadable)
