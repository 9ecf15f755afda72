"""Whether the runs that a run stands on are still what it recorded of them; reads only, without torch."""

from __future__ import annotations

from pathlib import Path

from safeedit.runs.chain import verify_chain
from safeedit.runs.findings import Finding
from safeedit.runs.folder import RunFolder
from safeedit.runs.lineage import left_by, parent_of
from safeedit.runs.manifest import LOG
from safeedit.runs.record import RECORD
from safeedit.runs.verify import inspect_run


def inspect_ancestry(path: Path) -> tuple[tuple[Finding, ...], tuple[str, ...]]:
    """What is wrong with the runs below a run, and what cannot be told because one is not here.

    Each is looked at by itself, and for what the run on it recorded: the model that it left, and its
    log as it was then. A run that was rolled back together with what it stood on is in order.
    """
    findings: list[Finding] = []
    child, seen = RunFolder.open(path), set[str]()
    while (known := child.record.parent) is not None and known.uuid not in seen:
        seen.add(known.uuid)
        parent = parent_of(child)
        if parent is None:
            note = (
                f"{child.path} stands on a run of {known.id} ({known.uuid}), which is not here: neither that "
                "run nor what it stands on could be checked"
            )
            return tuple(findings), (note,)
        own = inspect_run(parent.path).findings
        if own:
            message = f"the run that it stands on does not verify: {parent.path}: {own[0]}"
            findings.append(Finding("parent-unsound", RECORD, message))
        log = (parent.path / LOG).read_bytes() if (parent.path / LOG).is_file() else b""
        rewritten = verify_chain(log, LOG, known.log.length, known.log.head)
        rolled_back = parent.record.status == "rolled_back"
        if rolled_back and child.record.status != "rolled_back":
            message = f"the run that it stands on, {parent.path}, was rolled back"
            findings.append(Finding("parent-rolled-back", RECORD, message))
        elif (not rolled_back and left_by(parent.record) != known.model) or (rewritten and not own):
            message = f"the run that it stands on, {parent.path}, is not the one that it started from"
            findings.append(Finding("parent-changed", RECORD, message))
        child = parent
    return tuple(findings), ()
