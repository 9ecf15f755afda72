"""The report as JSON for programs, and the JSON Schema of it that ships with the package."""

from __future__ import annotations

import json
from typing import Any

from safeedit.reports import words
from safeedit.reports.model import Report

SCHEMA_FILE = "report.schema.json"
_ID = "urn:safeedit:report:1"


def write_json(report: Report) -> str:
    """All that the report says, and in `summary` the sentences that the other formats have."""
    return json.dumps(as_json(report), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def as_json(report: Report) -> dict[str, Any]:
    """The report as JSON values."""
    return {**report.model_dump(mode="json"), "summary": _summary(report)}


def _summary(report: Report) -> dict[str, Any]:
    return {
        "verdict": words.VERDICTS[report.verdict],
        "grade": words.graded(report),
        "request": words.asked_for(report),
        "claims": [{"says": claim.says, "bound": claim.bound} for claim in words.claims(report)],
        "wanting": words.wanted(report),
        "sign_off": words.SIGN_OFFS[report.sign_off.status],
        "limits": list(words.limits(report)),
    }


def report_schema() -> dict[str, Any]:
    """The schema (draft 2020-12) of `write_json`."""
    schema = Report.model_json_schema(mode="serialization")
    text = {"type": "string"}
    claim = {
        "type": "object",
        "properties": {"says": text, "bound": text},
        "required": ["says", "bound"],
        "additionalProperties": False,
    }
    parts: dict[str, Any] = {name: text for name in ("verdict", "grade", "request", "wanting", "sign_off")}
    parts |= {"claims": {"type": "array", "items": claim}, "limits": {"type": "array", "items": text}}
    schema["properties"]["summary"] = {
        "description": "What the figures mean, in sentences.",
        "type": "object",
        "properties": parts,
        "required": list(parts),
        "additionalProperties": False,
    }
    schema["required"] = [*schema["required"], "summary"]
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": _ID, "title": "safeedit report"}
    return {**schema, **head}


def schema_text() -> str:
    """The schema as the text of the file that ships."""
    return json.dumps(report_schema(), indent=2, ensure_ascii=False) + "\n"
