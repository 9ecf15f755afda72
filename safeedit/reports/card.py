"""The report as a model card for the Hugging Face Hub: README.md with `model-index` results.

Nothing in it tells of the request but its counts: a public card must not say whom a model forgot.
"""

from __future__ import annotations

from typing import Any

import yaml

from safeedit.reports import words
from safeedit.reports.mdtext import code, escaped
from safeedit.reports.model import ProbePart, Report


def write_card(report: Report) -> str:
    """The text of README.md."""
    head = yaml.safe_dump(metadata(report), sort_keys=False, allow_unicode=True, width=110)
    return f"---\n{head}---\n\n" + "\n".join(_body(report)) + "\n"


def metadata(report: Report) -> dict[str, Any]:
    """The card's metadata as the Hub reads it."""
    found: dict[str, Any] = {}
    if "/" in report.model:
        found |= {"base_model": report.model, "base_model_relation": "finetune"}
    found |= {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["knowledge-editing", "safeedit", *_operations(report)],
        "model-index": [{"name": f"{report.model.rpartition('/')[2]}-edited", "results": [_result(report)]}],
    }
    return found


def _result(report: Report) -> dict[str, Any]:
    metrics = [metric for probe in report.judged for metric in _metrics(probe)]
    metrics.insert(0, {"type": "verdict", "value": report.verdict, "name": "safeedit verdict"})
    return {
        "task": {"type": "text-generation", "name": "Text generation"},
        "dataset": {
            "type": "safeedit-probes",
            "name": f"safeedit {report.suite or 'no'} suite",
            "split": "test",
        },
        "metrics": metrics,
    }


def _metrics(probe: ProbePart) -> list[dict[str, Any]]:
    if probe.after is None:
        return []
    name = f"{probe.id} after the edit (before: {words.shown(probe, probe.before)}; n={probe.n})"
    return [{"type": probe.metric, "value": probe.after, "name": name.replace("\N{NO-BREAK SPACE}", " ")}]


def _operations(report: Report) -> list[str]:
    tags = {
        "erase": "unlearning",
        "modify": "fact-editing",
        "insert": "fact-editing",
        "detox": "detoxification",
    }
    return list(dict.fromkeys(tags[op] for op in report.request.operations if op in tags))


def _body(report: Report) -> list[str]:
    grade = f"grade {report.grade}" if report.grade else "no evidence grade"
    lines = [
        f"# {escaped(report.model.rpartition('/')[2])}, edited",
        "",
        f"This is {code(report.model)} after an edit with safeedit {report.safeedit}: **{report.verdict}**, "
        f"{grade}.",
        f"{words.VERDICTS[report.verdict]} {words.graded(report)}",
    ]
    if report.status == "rolled_back":
        lines += ["", "**The edit was rolled back**; what follows is about the edited model that there was."]
    if report.suite and not report.evidence:
        lines += ["", "**Not evidence**: the suite is a quick check, whose results grant no grade."]
    for claim in words.claims(report):
        lines += ["", f"> {claim.says} {claim.bound}".rstrip()]
    lines += ["", words.SIGN_OFFS[report.sign_off.status]]
    if report.judged:
        lines += ["", "## Evaluation", "", "| probe | n | before | after | verdict |"]
        lines += ["| --- | --: | --: | --: | --- |", *map(_row, report.judged)]
    lines += ["", "## Limitations", "", *(f"- {limit}" for limit in words.limits(report))]
    lines += [f"- Not tested: {code(probe)}." for probe in report.not_tested]
    lines += ["", "## Provenance", ""]
    for name in ("base_model", "patch", "edited_model"):
        if name in report.digests:
            lines.append(f"- {name.replace('_', ' ')}: {code(report.digests[name])}")
    lines += [f"- editor: {code(report.edit.editor or 'none')}", f"- run: {code(report.uuid)}"]
    lines += [f"- log head after {report.log_length} entries: {code(report.log_head)}"]
    return lines


def _row(probe: ProbePart) -> str:
    cells = (code(probe.id), str(probe.n), words.shown(probe, probe.before), words.shown(probe, probe.after))
    return f"| {' | '.join(cells)} | {probe.verdict} |"
