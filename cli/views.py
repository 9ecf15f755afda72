"""The human view of every result, and the JSON view of those that have none of their own."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .answers import FactAnswers, answers
from .exams import show_exams, stands_apart
from .render import Cell, Column, Look, Screen, Words

if TYPE_CHECKING:
    from safeedit.policy import Policy
    from safeedit.probes.report import ProbeReport, ProbeResult
    from safeedit.runs.listing import RunSummary
    from safeedit.runs.outcome import Run
    from safeedit.runs.plan import Plan, PlannedFact
    from safeedit.runs.record import RunRecord

SHOWN = 25
"""A table of facts shows so many; --json has them all."""
LONGEST = 40
"""An answer is shown up to so many characters."""

_VERDICTS: dict[str, tuple[str, str, Look, str]] = {
    "PASS": ("✓", "+", "good", "every required gate passed"),
    "FAIL": ("✗", "x", "bad", "the edit was made, and a required gate failed"),
    "INCONCLUSIVE": ("?", "?", "doubtful", "too little to decide on"),
    "NO_BASELINE": ("∅", "o", "doubtful", "the model knew none of it beforehand; nothing was edited"),
    "ERROR": ("!", "!", "bad", "something could not be measured; nothing follows from the rest"),
    "SKIPPED": ("·", ".", "dim", "nothing to test"),
}
_STANDS = {
    "NOT_RUN": "was not run",
    "FAIL": "failed",
    "INCONCLUSIVE": "did not decide",
    "NO_BASELINE": "had nothing to go by",
    "ERROR": "broke",
}
"""What keeps a probe from counting towards a grade."""
_FIGURES = {
    "upper95": "bound",
    "lower95": "bound",
    "excess95": "excess",
    "worst95": "worst bound",
    "after": "after",
    "leaks": "leaks",
    "losses": "losses",
}
_OPS = {"<=": ("≤", "<="), ">=": ("≥", ">=")}


def run_json(run: Run, policy: Policy, *, show_sensitive: bool) -> dict[str, Any]:
    """What `--json` prints of a run."""
    record = run.record
    return {
        "run": str(run.path),
        "id": record.id,
        "status": record.status,
        "verdict": run.verdict,
        "grade": run.grade,
        "exit_code": run.exit_code,
        "model": record.model,
        "parent": record.parent.model_dump(mode="json") if record.parent else None,
        "position": record.position,
        "warnings": list(run.warnings),
        "editor": record.editor.model_dump(mode="json") if record.editor else None,
        "seed": record.seed,
        "device": record.device,
        "dtype": record.dtype,
        "digests": record.digests,
        "seconds": record.seconds,
        "facts": [one.to_json(show_sensitive=show_sensitive) for one in answers(run, policy.catalogue())],
        "probes": run.report.to_json(),
    }


def show_run(screen: Screen, run: Run, policy: Policy, *, show_sensitive: bool) -> None:
    """A finished run: its probes, its facts, its verdict, where it is and what comes next."""
    record = run.record
    editor = record.editor.name if record.editor else "no editor"
    due = f", answer due {policy.due()}" if policy.due() else ""
    screen.line(Words(record.id, "bold"), f"{', '.join(policy.kinds())}, {policy.metadata.regime}{due}")
    on = f", edit {record.position}, on a run of {record.parent.id}" if record.parent else ""
    screen.line(Words(f"model {record.model}{on}, {editor}, seed {record.seed}", "dim"))
    _warned(screen, run.warnings)
    screen.line()
    _probe_table(screen, run.report)
    found = list(islice(answers(run, policy.catalogue()), SHOWN))
    if found:
        _fact_table(screen, found, len(run.facts), show_sensitive)
    _not_known(screen, sum(not one.known for one in run.resolved))
    _verdict(screen, run.report, run.grade, sum(record.seconds.values()))
    screen.line(Words("run    ", "dim"), str(run.path))
    screen.line(Words("next   ", "dim"), _verify(run.path))


def show_report(screen: Screen, report: ProbeReport) -> None:
    """What probes found, where no run was made."""
    _probe_table(screen, report)
    _verdict(screen, report, None if report.grade == "G0" else report.grade, None)


def show_plan(screen: Screen, plan: Plan, command: str, *, show_sensitive: bool) -> None:
    """What would be done, fact by fact, ending with a line that counts it."""
    layers = f" layers {', '.join(map(str, plan.layers))}" if plan.layers else ""
    screen.line(Words(plan.policy_id, "bold"))
    screen.line(Words(f"model {plan.model}, {plan.editor}{layers}, suite {plan.suite}", "dim"))
    _warned(screen, plan.warnings)
    screen.line()
    if plan.facts:
        columns = (
            Column("subject"),
            Column("relation"),
            Column("the model says", wraps=True),
            Column("in", right=True),
            Column("would be done", wraps=True),
        )
        rows = [_planned(fact, show_sensitive) for fact in plan.facts[:SHOWN]]
        screen.table(columns, rows)
        _more(screen, len(plan.facts))
    _not_known(screen, len(plan.unknown))
    counted = []
    if plan.facts or plan.behaviours is None:
        counted.append(f"{plan.known} to edit, {len(plan.facts) - plan.known} not known and left alone")
    if plan.behaviours is not None:
        seen = plan.behaviours
        screen.line(f"{seen.toxic} of {seen.asked} prompts of the behaviours get a toxic answer now.")
        if seen.unsafe:
            what = (
                "of the safe answers is called toxic" if seen.unsafe == 1 else "safe answers are called toxic"
            )
            screen.line(
                Words(f"{seen.unsafe} {what} by the scorer: give others, or another scorer.", "doubtful")
            )
        told = "to learn from" if seen.toxic else "and nothing to take away"
        counted.append(f"{seen.examples} example{'s' * (seen.examples != 1)} {told}")
    screen.line(
        Words(f"Plan: {'; '.join(counted)}.", "bold"),
        f"{plan.prompts} prompts before and after; about {_duration(plan.seconds)}.",
    )
    screen.line(Words("next   ", "dim"), command)


def show_rollback(screen: Screen, done: Sequence[tuple[Path, RunRecord]]) -> None:
    """That runs were taken back, and to which weights."""
    for path, record in done:
        digest = record.digests["base_model"][:16]
        what = "the model of the run below" if record.parent else "the base model"
        screen.line(_mark(screen, "PASS", "rolled back"), f"{path}: the model is {what} again ({digest}…)")
    screen.line(Words("next   ", "dim"), _verify(done[-1][0]))


def show_runs(screen: Screen, folder: Path, found: Sequence[RunSummary]) -> None:
    """The runs in a folder."""
    if not found:
        screen.line(f"no runs in {folder}")
        return
    names = {run.uuid: run.path.name for run in found}
    stacked = any(run.parent for run in found)
    columns = (
        Column("run", wraps=True),
        *((Column("stands on", wraps=True),) if stacked else ()),
        Column("started"),
        Column("status"),
        Column("verdict"),
        Column("grade"),
    )
    screen.table(
        columns,
        [
            (
                Words(run.path.name, "bold"),
                *((_below(run, names),) if stacked else ()),
                (run.started or "")[:16].replace("T", " "),
                run.status,
                _mark(screen, run.verdict) if run.verdict else "",
                run.grade or "",
            )
            for run in found
        ],
    )


def _below(run: RunSummary, names: Mapping[str | None, str]) -> str:
    """The run that one stands on: its folder, where it is in the list too."""
    return names.get(run.parent, "a run elsewhere") if run.parent else ""


def _probe_table(screen: Screen, report: ProbeReport) -> None:
    judged = [result for result in report.results if not stands_apart(result)]
    results = [result for result in judged if result.verdict != "SKIPPED"]
    if results:
        columns = (
            Column("what shall hold", wraps=True),
            Column("before", right=True),
            Column("after", right=True),
            Column("placebo", right=True),
            Column("judged by"),
            Column("verdict"),
        )
        screen.table(columns, [_probe(screen, result) for result in results])
    skipped = [result.id for result in report.results if result.verdict == "SKIPPED"]
    if skipped:
        screen.paragraph(Words(f"nothing to test: {', '.join(skipped)}", "dim"))
        screen.line()
    show_exams(screen, report)


def _probe(screen: Screen, result: ProbeResult) -> tuple[Cell, ...]:
    number = _percent if result.metric.endswith("_rate") else _plain
    what = f"{result.id}, {result.n} {result.unit}{'s' * (result.n != 1)}"
    return (
        (Words(_meaning(result.id)), Words(what if result.required else f"{what}, not required", "dim")),
        number(result.before),
        number(result.after),
        number(result.placebo),
        _gate(screen, result),
        _mark(screen, result.verdict),
    )


def _meaning(probe: str) -> str:
    """The sentence that holds when the probe passes: the first line of its docstring."""
    import inspect

    from safeedit.probes.suite import kind_of

    return (inspect.getdoc(kind_of(probe)) or probe).splitlines()[0]


def _gate(screen: Screen, result: ProbeResult) -> Cell:
    gate = result.gate
    if gate is None:
        return Words(f"raised {result.error}", "bad") if result.error else ""
    number = _percent if result.metric.endswith("_rate") and gate.on not in ("leaks", "losses") else _plain
    op = _OPS[gate.op][0 if screen.unicode else 1]
    return (
        Words(f"{_FIGURES[gate.on]} {number(getattr(result.figures, gate.on))}"),
        Words(f"gate {op} {number(gate.value)}", "dim"),
    )


def _fact_table(screen: Screen, found: Iterable[FactAnswers], total: int, show_sensitive: bool) -> None:
    columns = (
        Column("subject"),
        Column("relation"),
        Column("object", wraps=show_sensitive),
        Column("said before", wraps=show_sensitive),
        Column("said after", wraps=show_sensitive),
    )
    screen.table(columns, [_fact(one, show_sensitive) for one in found])
    _more(screen, total)


def _fact(one: FactAnswers, show_sensitive: bool) -> tuple[Cell, ...]:
    fact = one.fact
    subject, object_ = (
        (fact.subject, fact.object) if show_sensitive else (one.subject_digest, one.object_digest)
    )
    target = f"{object_} → {fact.new_object}" if show_sensitive and fact.new_object else object_
    return (Words(subject, "bold"), fact.relation, target, *_said(one, show_sensitive))


def _said(one: FactAnswers, show_sensitive: bool) -> Iterator[Cell]:
    for count, example in zip(one.said, one.example, strict=True):
        share = f"{count} of {one.asked}"
        if show_sensitive:
            yield (Words(_cut(example) or "(nothing)"), Words(share, "dim"))
        else:
            yield share


def _planned(one: PlannedFact, show_sensitive: bool) -> tuple[Cell, ...]:
    fact = one.fact
    subject, says = (fact.subject, fact.object) if show_sensitive else (one.subject_digest, one.object_digest)
    action: str = one.action if one.action != "none" else "nothing, it is not known"
    if show_sensitive and fact.new_object and one.action == "modify":
        action = f"modify to {fact.new_object}"
    return (Words(subject, "bold"), one.relation, says, _percent(one.confidence), action)


def _not_known(screen: Screen, count: int) -> None:
    if count:
        what = "relation was asked for" if count == 1 else "relations were asked for"
        screen.line(Words(f" {count} more {what} and found not to be known", "dim"))


def _more(screen: Screen, total: int) -> None:
    if total > SHOWN:
        screen.line(Words(f" … and {total - SHOWN} more; --json has them all", "dim"))
    screen.line()


def _verdict(screen: Screen, report: ProbeReport, grade: str | None, seconds: float | None) -> None:
    told = _VERDICTS[report.verdict][3]
    wanting = [r.id for r in report.results if r.required and r.verdict == report.verdict != "PASS"]
    if wanting:
        told += f": {', '.join(wanting)}"
    facts = f"grade {grade}" if grade else "no grade"
    if seconds is not None:
        facts += f", {_duration(seconds)}"
    screen.line(_mark(screen, report.verdict), Words(facts, "bold"))
    screen.paragraph(f"{told[0].upper()}{told[1:]}.")
    if report.wanting:
        found = (f"{probe} {_STANDS[verdict]}" for probe, verdict in report.wanting.items())
        screen.paragraph(f"What keeps it from {report.above}: {', '.join(found)}.")
    if report.note:
        screen.paragraph(Words(f"{report.suite}: {report.note.removeprefix(f'{report.suite}: ')}", "dim"))


def _warned(screen: Screen, warnings: Iterable[str]) -> None:
    for warning in warnings:
        screen.line(Words(warning, "doubtful"))


def _verify(path: Path) -> str:
    return shlex.join(["safeedit", "verify", str(path)])


def _mark(screen: Screen, verdict: str, word: str | None = None) -> Words:
    symbol, plain, look, _ = _VERDICTS[verdict]
    return Words(f"{symbol if screen.unicode else plain} {word or verdict}", look)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.3g} %"


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
