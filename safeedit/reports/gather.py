"""Reads a run folder into a `Report`; a run that does not verify has none."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from safeedit.errors import IntegrityError, UsageError
from safeedit.evidence.requests import request_of
from safeedit.probes.report import EXIT_CODES
from safeedit.reports.model import (
    ArtefactPart,
    EditPart,
    EventPart,
    ProbePart,
    RepeatPart,
    Report,
    RequestPart,
)
from safeedit.reports.standing import sign_off_of
from safeedit.runs.chain import Entry
from safeedit.runs.folder import RunFolder
from safeedit.runs.plain import check_plain
from safeedit.runs.record import RunRecord
from safeedit.runs.verify import verify_run

PROBES, PATCH = "probes.json", "patch/patch.json"
_REPORTED = frozenset({"finished", "rolled_back", "failed"})
_FIXED = frozenset({"unit", "metric", "protocol", "gate", "detail"})
"""What a probe's own code and the suite's gates say in words of their own, or in numbers."""
_PART = re.compile(r"[A-Za-z_][A-Za-z0-9._:@+/-]{0,127}")


def gather(run: str | os.PathLike[str]) -> Report:
    """The report of the run in a folder.

    Raises:
        UsageError: there is no run, or it has not come to its end.
        IntegrityError: the run does not verify, so that nothing can be said of it.
    """
    path = Path(run)
    checked = verify_run(path)
    # What is wrong with a signature is told in the report, by what the sign-off is worth.
    passed = ("interrupted", "running", "signature", "attestation")
    serious = [found for found in checked.findings if not found.code.startswith(passed)]
    if serious:
        more = f" (and {len(serious) - 1} more: safeedit verify)" if len(serious) > 1 else ""
        raise IntegrityError(
            f"{path}: the run does not verify, so there is no report of it; {serious[0]}{more}"
        )
    if checked.status == "running":
        raise UsageError(f"{path}: a process is writing this run; report it when that has ended")
    if checked.record is None or checked.record.status not in _REPORTED:
        raise UsageError(f"{path}: the run is not finished; a report is made of one that is")
    folder = RunFolder.open(path)
    report = _report(path, checked.record, folder.log.entries(), folder)
    check_plain(_without_words(report.model_dump(mode="json")), "report")
    return report


def _report(path: Path, record: RunRecord, entries: Sequence[Entry], folder: RunFolder) -> Report:
    from importlib.metadata import version

    last = _last_start(entries)
    data = {entry.event: entry.data for entry in entries[last:]}
    measured = _read(path / PROBES) if PROBES in record.files else {}
    patch = _read(path / PATCH) if PATCH in record.files else {}
    verdict = record.verdict or "ERROR"
    following = measured.get("next") or {}
    try:
        return Report(
            safeedit=version("safeedit"),
            id=record.id,
            uuid=record.uuid,
            status=record.status,
            verdict=verdict,
            grade=record.grade,
            exit_code=EXIT_CODES[verdict] if record.exit_code is None else record.exit_code,
            started=record.started,
            finished=record.finished,
            model=record.model,
            parent=record.parent.uuid if record.parent else None,
            position=record.position,
            replaces=record.replaces,
            replaced_by=record.replaced_by,
            device=record.device,
            dtype=record.dtype,
            seed=record.seed,
            request=_request(path, data, measured),
            edit=_edit(record, data, patch),
            suite=measured.get("suite"),
            evidence=bool(measured.get("evidence", False)),
            next_grade=following.get("grade"),
            wanting=following.get("wanting", {}),
            not_tested=tuple(measured.get("not_tested", ())),
            prompts=data.get("probes.registered", {}).get("prompts", 0),
            probes=tuple(map(_probe, measured.get("results", ()))),
            sign_off=sign_off_of(path),
            repeats=tuple(_repeat(entry) for entry in entries[last:] if entry.event == "probes.repeated"),
            vault_shredded="vault.shredded" in data,
            digests=record.digests,
            versions=record.versions,
            seconds=record.seconds,
            peak_memory_bytes=record.peak_memory_bytes,
            files=len(record.files),
            log_length=len(entries),
            log_head=entries[-1].hash,
            history=tuple(EventPart(seq=e.seq, time=e.time, event=e.event) for e in entries),
        )
    except (ValidationError, KeyError, TypeError) as error:
        # The input is part of a validation error's text, and may be anything.
        raise IntegrityError(f"{path}: {PROBES} or the log is not as a run writes it") from (
            None if isinstance(error, ValidationError) else error
        )


def _last_start(entries: Sequence[Entry]) -> int:
    """Where the log of the present attempt begins; a log outlives attempts that did not come to their end."""
    starts = [i for i, entry in enumerate(entries) if entry.event in ("run.started", "run.restarted")]
    return starts[-1] if starts else 0


def _request(path: Path, data: dict[str, dict[str, Any]], measured: dict[str, Any]) -> RequestPart:
    asked, facts = data.get("policy.registered", {}), measured.get("facts", {})
    told = request_of(path)
    noted: dict[str, Any] = {}
    if told is not None:
        days = told.deadline
        noted = {
            "regime": told.regime,
            "received": told.received.isoformat(),
            "due": days.due and days.due.isoformat(),
            "due_last": days.last and days.last.isoformat(),
            "extended": days.extended,
            "steps": {step: day.isoformat() for step, day in told.steps.items()},
            "outcome": told.outcome,
            "ground": told.ground,
            "recipients": dict(told.recipients),
            "artefacts": tuple(ArtefactPart(**vars(one)) for one in told.artefacts),
        }
    return RequestPart(
        **noted,
        operations=tuple(asked.get("kinds", ())),
        subjects=asked.get("subjects", 0),
        subjects_known=measured.get("subjects", {}).get("known"),
        facts=facts.get("n", 0),
        known=facts.get("known", 0),
        behaviours=asked.get("behaviours", 0),
        lines=asked.get("lines", {}),
    )


def _edit(record: RunRecord, data: dict[str, dict[str, Any]], patch: dict[str, Any]) -> EditPart:
    if record.editor is None:
        return EditPart()
    made = data.get("edit.made", {})
    return EditPart(
        editor=record.editor.name,
        params=record.editor.params,
        tensors=len(patch.get("deltas", {})) or made.get("tensors", 0),
        figures=made.get("figures", {}),
    )


def _probe(content: dict[str, Any]) -> ProbePart:
    # A data set may name its parts itself; a name that is no identifier stays in probes.json.
    detail = {key: value for key, value in content["detail"].items() if _PART.fullmatch(key)}
    return ProbePart.model_validate({**content, "detail": detail})


def _repeat(entry: Entry) -> RepeatPart:
    data = entry.data
    return RepeatPart(
        time=entry.time,
        verdict=data["verdict"],
        grade=data["grade"] or "G0",
        as_registered=data["as_registered"],
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise IntegrityError(f"{path.name} is not a JSON object")
    return found


def _without_words(content: dict[str, Any]) -> dict[str, Any]:
    """A report without the words that a probe's code puts into it; what is left must be plain."""
    probes = [{k: v for k, v in one.items() if k not in _FIXED} for one in content["probes"]]
    return {**content, "probes": probes}
