"""The report in Markdown, for the summary of a CI step, a pull request or a ticket.

GitHub drops a step's summary that is larger than 1 MiB; where a suite had that many probes, those that
passed are counted instead of listed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from safeedit.reports import words
from safeedit.reports.mdtext import code, escaped
from safeedit.reports.model import ProbePart, Report

LARGEST = 1_000_000
"""Bytes; a little less than 1 MiB."""


def write_markdown(report: Report) -> str:
    """The whole report, or, where that would be too long, one that lists only what did not pass."""
    text = "\n".join(_lines(report, report.judged)) + "\n"
    if len(text.encode()) <= LARGEST:
        return text
    left = [probe for probe in report.judged if probe.verdict != "PASS"]
    text = "\n".join(_lines(report, left)) + "\n"
    return text if len(text.encode()) <= LARGEST else "\n".join(_lines(report, ())) + "\n"


def _lines(report: Report, probes: Iterable[ProbePart]) -> Iterator[str]:
    r, listed = report, list(probes)
    grade = f"grade {r.grade}" if r.grade else "no evidence grade"
    yield f"# {words.SYMBOLS[r.verdict]} {r.verdict.replace('_', ' ')}, {grade}: {escaped(r.id)}"
    yield ""
    yield f"{words.VERDICTS[r.verdict]} {words.graded(r)}"
    if r.status == "rolled_back":
        yield "\n**This run was rolled back.** The model is what it was before."
    if r.suite and not r.evidence:
        yield f"\n**Not evidence.** The suite {escaped(r.suite)} is a quick check, which grants no grade."
    yield f"\n{words.asked_for(r)}"
    for claim in words.claims(r):
        yield f"\n> {claim.says}\n>\n> {claim.bound}"
    failing = words.failing(r)
    if failing:
        yield "\nWhat stands in the way:\n"
        for probe in failing:
            yield f"- {escaped(probe.id)} {words.STANDS[probe.verdict]} ({escaped(words.judged_by(probe))})"
    if words.wanted(r):
        yield f"\n{escaped(words.wanted(r))}"
    yield f"\n{words.SIGN_OFFS[r.sign_off.status]}"
    yield from _noted(report)
    yield from _table(report, listed)
    yield "\n## Not tested\n"
    if r.not_tested:
        yield f"- {', '.join(map(escaped, r.not_tested))}"
    for limit in words.limits(r):
        yield f"- {limit}"
    yield "\n## Run\n\n| | |\n| --- | --- |"
    for name, value in _facts(r):
        yield f"| {escaped(name)} | {value} |"
    yield "\nCheck it with `safeedit verify RUN`. This text holds no name, no prompt and no answer."


def _noted(report: Report) -> Iterator[str]:
    request = report.request
    told = [f"{step} {day}" for step, day in request.steps.items()]
    told += [f"{who} {how}" for who, how in request.recipients.items()]
    told += [f"{one.role} at {one.place} {one.state}" for one in request.artefacts]
    if told:
        yield f"\nNoted of the request: {escaped(', '.join(told))}."


def _table(report: Report, probes: list[ProbePart]) -> Iterator[str]:
    if probes:
        yield "\n## Probes\n"
        yield "| what shall hold | units | before | after | chance | judged by | verdict |"
        yield "| --- | --: | --: | --: | --: | --- | --- |"
    for p in probes:
        cells = (
            f"{escaped(words.sentence(p.id))} <sub>{escaped(p.id)}</sub>",
            str(p.n),
            words.shown(p, p.before),
            words.shown(p, p.after),
            words.chance(p),
            escaped(words.judged_by(p)),
            f"{words.SYMBOLS[p.verdict]} {p.verdict.replace('_', ' ')}" + ("" if p.required else " (advice)"),
        )
        yield f"| {' | '.join(cells)} |"
    missing = len(report.judged) - len(probes)
    if missing:
        yield f"\n{missing} more are in the JSON report."


def _facts(r: Report) -> Iterator[tuple[str, str]]:
    if r.request.regime:
        due = f", answer due {r.request.due}" if r.request.due else ""
        yield "regime", escaped(words.REGIMES.get(r.request.regime, r.request.regime)) + due
    yield "model", code(r.model)
    yield "editor", code(r.edit.editor) if r.edit.editor else "nothing was edited"
    yield "suite", code(r.suite) if r.suite else "none"
    yield "time", f"{words.moment(r.started)} to {words.moment(r.finished)}"
    yield "run", code(r.uuid)
    for name, digest in r.digests.items():
        yield name, code(digest)
    yield f"log, {r.log_length} entries", code(r.log_head)
