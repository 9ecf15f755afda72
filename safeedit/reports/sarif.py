"""The report as SARIF 2.1.0: what did not pass, at the lines of the policy that asked for it.

Only what needs somebody's attention is a result; a run that passed, and is signed where that is asked for,
has none. GitHub tells by the fingerprints whether a result is one that it has seen before.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator, Mapping
from typing import Any

from safeedit.reports import words
from safeedit.reports.model import ProbePart, Report

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
FINGERPRINT = "safeeditCase/v1"
DEFAULT_URI = "policy.yaml"
_SIGN_OFF, _VERDICT = "run.sign_off", "run.verdict"
_RULES = {
    _SIGN_OFF: "The run is signed off as the policy asks.",
    _VERDICT: "The run ended in a verdict.",
}
_KINDS = {
    "forgetting": ("erase", "modify"),
    "attack": ("erase", "modify"),
    "success": ("insert", "modify"),
    "toxicity": ("detox",),
}


def write_sarif(
    report: Report, key: bytes, uri: str = DEFAULT_URI, lines: Mapping[str, int] | None = None
) -> str:
    """The JSON text of the log.

    Args:
        report: what to tell.
        key: makes the fingerprints; the same key gives a case the same ones in every run.
        uri: the policy file as a path from the root of the repository, with `/`.
        lines: where the policy's parts stand; as the run's log has them by default.
    """
    return json.dumps(sarif(report, key, uri, lines), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def sarif(
    report: Report, key: bytes, uri: str = DEFAULT_URI, lines: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """The log as JSON values."""
    place = _Places(uri, report.request.lines if lines is None else lines)
    results = list(_results(report, key, place))
    order = [*dict.fromkeys(p.id for p in report.probes), *_RULES]
    for result in results:
        result["ruleIndex"] = order.index(result["ruleId"])
    run: dict[str, Any] = {
        "tool": {
            "driver": {
                "name": "safeedit",
                "version": report.safeedit,
                "semanticVersion": report.safeedit,
                "rules": [_rule(report, name) for name in order],
            }
        },
        "automationDetails": {"id": f"safeedit/{report.id}/", "guid": report.uuid},
        "columnKind": "unicodeCodePoints",
        "invocations": [{"executionSuccessful": report.verdict != "ERROR", "exitCode": report.exit_code}],
        "results": results,
        "properties": {
            "verdict": report.verdict,
            "grade": report.grade or "G0",
            "suite": report.suite,
            "logHead": report.log_head,
            "signOff": report.sign_off.status,
        },
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


class _Places:
    """Where in the policy a result belongs."""

    def __init__(self, uri: str, lines: Mapping[str, int]) -> None:
        self._uri, self._lines = uri, lines

    def of(self, *parts: str) -> list[dict[str, Any]]:
        """The location of the first of `parts` that the policy has, or of the file."""
        physical: dict[str, Any] = {"artifactLocation": {"uri": self._uri}}
        line = next((self._lines[part] for part in parts if part in self._lines), None)
        if line is not None:
            physical["region"] = {"startLine": line}
        return [{"physicalLocation": physical}]

    def of_probe(self, probe: ProbePart) -> list[dict[str, Any]]:
        """The operation that a probe is about; what is about everything else is at the suite."""
        wanted = _KINDS.get(probe.family, ("probes",))
        return self.of(*wanted, "operations")


def _results(report: Report, key: bytes, place: _Places) -> Iterator[dict[str, Any]]:
    for probe in report.probes:
        if probe.verdict not in ("FAIL", "ERROR", "INCONCLUSIVE"):
            continue
        if not probe.required and probe.verdict == "INCONCLUSIVE":
            continue
        serious = probe.verdict == "ERROR" or (probe.required and probe.verdict == "FAIL")
        level = "error" if serious else "warning" if probe.required else "note"
        text = f"{probe.id} {words.STANDS[probe.verdict]}: {words.count(probe.n, probe.unit)}; "
        yield _result(report, key, probe.id, level, text + words.judged_by(probe), place.of_probe(probe))
    if report.verdict in ("ERROR", "NO_BASELINE", "INCONCLUSIVE") and not words.failing(report):
        level = "error" if report.verdict == "ERROR" else "warning"
        where = place.of("assurance", "operations")
        yield _result(report, key, _VERDICT, level, words.VERDICTS[report.verdict], where)
    status = report.sign_off.status
    if status != "approved" and (status != "none" or report.sign_off.needed):
        level = "note" if status in ("none", "pending") else "error"
        where = place.of("sign_off", "metadata", "operations")
        yield _result(report, key, _SIGN_OFF, level, words.SIGN_OFFS[status], where)


def _result(
    report: Report, key: bytes, rule: str, level: str, text: str, locations: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "ruleId": rule,
        "level": level,
        "kind": "fail",
        "message": {"text": text},
        "locations": locations,
        "partialFingerprints": {FINGERPRINT: _fingerprint(key, rule, report.id)},
    }


def _fingerprint(key: bytes, rule: str, case: str) -> str:
    """The same for a rule and a case in every run; without the key nobody can make it from the case's id."""
    return hmac.new(key, f"safeedit:sarif:1\0{rule}\0{case}".encode(), hashlib.sha256).hexdigest()


def _rule(report: Report, name: str) -> dict[str, Any]:
    text = _RULES.get(name) or words.sentence(name)
    probe = next((p for p in report.probes if p.id == name), None)
    tags = ["safeedit", *([probe.family, *([probe.grade] if probe.grade else [])] if probe else [])]
    return {
        "id": name,
        "name": "".join(part.capitalize() for part in name.replace(".", "_").split("_")),
        "shortDescription": {"text": text},
        "fullDescription": {"text": text},
        "help": {"text": "safeedit verify RUN and safeedit report RUN show the figures behind it."},
        "defaultConfiguration": {"level": "error"},
        "properties": {"tags": tags},
    }
