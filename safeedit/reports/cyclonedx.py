"""The report as a CycloneDX 1.6 ML-BOM: the edited model with its model card, and the claims on it.

`modelCard` holds the figures with their bounds; `declarations` what is claimed, on which evidence, and who
has signed. CycloneDX writes every figure as text.
"""

from __future__ import annotations

import json
from typing import Any

from safeedit.reports import words
from safeedit.reports.model import ProbePart, Report

_MODEL, _BASE, _TOOL, _ASSESSOR = "model:edited", "model:base", "tool:safeedit", "assessor:safeedit"


def write_cyclonedx(report: Report) -> str:
    """The JSON text of the bill of materials."""
    return json.dumps(bom(report), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def bom(report: Report) -> dict[str, Any]:
    """The bill of materials as JSON values; its serial number is the run's uuid."""
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{report.uuid}",
        "version": 1,
        "metadata": {
            "timestamp": report.finished or report.started,
            "tools": {"components": [_tool(report)]},
            "component": _model(report),
            "properties": _properties(report),
        },
        "components": [_base(report)],
        "dependencies": [{"ref": _MODEL, "dependsOn": [_BASE]}, {"ref": _BASE, "dependsOn": []}],
        "declarations": _declarations(report),
    }


def _tool(report: Report) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "application", "bom-ref": _TOOL, "name": "safeedit"}
    return {**found, "version": report.versions.get("safeedit", report.safeedit)}


def _base(report: Report) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "machine-learning-model", "bom-ref": _BASE, "name": report.model}
    return found | _digest(report, "base_model")


def _model(report: Report) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": _MODEL,
        "name": f"{report.model}-{report.id}",
        "version": report.uuid,
        "description": f"Edited by {report.edit.editor or 'nothing'}. {words.asked_for(report)}",
        "modelCard": _card(report),
    }
    digest = "base_model" if report.status == "rolled_back" else "edited_model"
    return found | _digest(report, digest)


def _digest(report: Report, name: str) -> dict[str, Any]:
    """A digest as a property: it is over tensors, and not the hash of a file, which `hashes` would mean."""
    found = report.digests.get(name)
    return {"properties": [{"name": "safeedit:model-digest", "value": found}]} if found else {}


def _card(report: Report) -> dict[str, Any]:
    limits = [*words.limits(report), *(f"Not tested: {probe}." for probe in report.not_tested)]
    return {
        "modelParameters": {"task": "text-generation"},
        "quantitativeAnalysis": {
            "performanceMetrics": [
                metric for probe in report.judged for metric in _metrics(probe) if metric["value"] is not None
            ]
        },
        "considerations": {"technicalLimitations": limits},
    }


def _metrics(probe: ProbePart) -> list[dict[str, Any]]:
    name = f"{probe.id}:{probe.metric}"
    before: dict[str, Any] = {"type": name, "value": _text(probe.before), "slice": "before the edit"}
    after: dict[str, Any] = {
        "type": name,
        "value": _text(probe.after),
        "slice": f"after the edit, n={probe.n} ({probe.unit})",
    }
    bounds = {"lowerBound": _text(probe.lower95), "upperBound": _text(probe.upper95)}
    found = {key: value for key, value in bounds.items() if value is not None}
    return [before, {**after, "confidenceInterval": found} if found else after]


def _declarations(report: Report) -> dict[str, Any]:
    """What is claimed of the edited model: one claim a probe, for or against, on the log as evidence."""
    claims = [_claim(probe) for probe in report.judged]
    required = [probe for probe in report.judged if probe.required]
    attestation = {
        "summary": words.VERDICTS[report.verdict],
        "assessor": _ASSESSOR,
        "map": [_mapped(probe) for probe in required],
    }
    found: dict[str, Any] = {
        "assessors": [{"bom-ref": _ASSESSOR, "thirdParty": False}],
        "attestations": [attestation],
        "claims": claims,
        "evidence": [_evidence(report)],
        "targets": {"components": [{**_model_ref(report)}]},
    }
    approved = [
        one for one in report.sign_off.decisions if one.decision == "approve" and one.state == "valid"
    ]
    if approved:
        found["affirmation"] = {
            "statement": words.SIGN_OFFS[report.sign_off.status],
            "signatories": [_signatory(one.key_id or "") for one in approved],
        }
    return found


def _model_ref(report: Report) -> dict[str, Any]:
    found = {"type": "machine-learning-model", "bom-ref": "target:edited"}
    return {**found, "name": f"{report.model}-{report.id}", "version": report.uuid}


def _claim(probe: ProbePart) -> dict[str, Any]:
    return {
        "bom-ref": f"claim:{probe.id}",
        "target": "target:edited",
        "predicate": words.sentence(probe.id),
        "reasoning": f"{words.count(probe.n, probe.unit)}; {words.judged_by(probe)}; verdict {probe.verdict}",
        "evidence": ["evidence:log"],
    }


def _mapped(probe: ProbePart) -> dict[str, Any]:
    passed = probe.verdict == "PASS"
    ref = [f"claim:{probe.id}"]
    return {
        "requirement": probe.id,
        "claims": ref if passed else [],
        "counterClaims": [] if passed else ref,
        "conformance": {"score": 1.0 if passed else 0.0, "rationale": words.judged_by(probe)},
    }


def _evidence(report: Report) -> dict[str, Any]:
    values = {"log_head": report.log_head, "log_length": str(report.log_length), **report.digests}
    attached = {"contentType": "application/json", "content": json.dumps(values)}
    return {
        "bom-ref": "evidence:log",
        "propertyName": "safeedit run",
        "description": "The run's hash-chained log, and what it tells of; check with: safeedit verify",
        "data": [
            {
                "name": "digests",
                "contents": {"attachment": attached},
            }
        ],
        "created": report.finished or report.started,
    }


def _signatory(key_id: str) -> dict[str, Any]:
    return {
        "role": "approver",
        "organization": {"name": key_id},
        "externalReference": {
            "type": "attestation",
            "url": "attestation.json",
            "comment": "DSSE envelopes with in-toto statements, in the run folder",
        },
    }


def _properties(report: Report) -> list[dict[str, str]]:
    values = {
        "verdict": report.verdict,
        "grade": report.grade or "G0",
        "policy": report.id,
        "suite": report.suite,
        "editor": report.edit.editor,
        "sign-off": report.sign_off.status,
        "status": report.status,
    }
    return [{"name": f"safeedit:{name}", "value": value} for name, value in values.items() if value]


def _text(value: float | None) -> str | None:
    return None if value is None else f"{value:.6g}"
