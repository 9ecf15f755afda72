"""Runs a probe pack on a model, before and after an edit, and judges the difference.

Nothing that goes wrong here can look like success: whatever a probe raises becomes its ERROR
result, and one ERROR is the verdict of the whole run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safeedit.errors import ProbeError
from safeedit.probes import gates
from safeedit.probes.base import Figures, Verdict, View
from safeedit.probes.chat import continued
from safeedit.probes.pack import ProbePack, build_pack
from safeedit.probes.report import ProbeReport, ProbeResult
from safeedit.probes.suite import Entry, asks_no_less, standard
from safeedit.triples.facts import Op

if TYPE_CHECKING:
    from safeedit.models.generate import Generation

__all__ = ["Measurement", "ProbePack", "ProbeReport", "ProbeResult", "build_pack", "judge", "measure"]

BASELINE = "baseline"

Progress = Callable[[int, int], None]


@dataclass(frozen=True, repr=False)
class Measurement:
    """What the probes saw of one model."""

    known: Mapping[int, bool]
    """By index of the fact: for an erasure or a modification, whether the model says the object to
    at least one registered prompt; for an insertion nothing is needed, so always True."""
    observations: Mapping[str, Any]
    errors: Mapping[str, str]
    """By probe (or "baseline"), the class of the exception that it raised."""
    answers: Mapping[int, Mapping[str, Generation]]
    """By number of new tokens and prompt."""
    fingerprint: str
    misbehaves: bool = False
    """Whether the model shows any of the behaviours that shall go."""

    def __repr__(self) -> str:
        return "<Measurement>"

    def knows(self, pack: ProbePack) -> dict[Op, bool]:
        """For each operation of the request, whether this model has the baseline that it needs."""
        found: dict[Op, bool] = dict.fromkeys(pack.ops, False)
        for index, fact in enumerate(pack.context.facts):
            found[fact.op] |= self.known[index]
        return found | ({"detox": self.misbehaves} if pack.context.behaviours else {})

    def texts(self) -> list[dict[str, Any]]:
        """Prompts and answers as JSON values."""
        return [
            {"tokens": tokens, "prompt": prompt, "text": answer.text, "truncated": answer.truncated}
            for tokens, answers in self.answers.items()
            for prompt, answer in answers.items()
        ]


def measure(
    pack: ProbePack,
    model: Any,
    tokenizer: Any,
    progress: Progress | None = None,
    *,
    base: Measurement | None = None,
) -> Measurement:
    """Ask everything in the pack, each prompt once, and let every probe look at the model.

    Args:
        pack: what was registered.
        model: a causal LM.
        tokenizer: its tokenizer.
        progress: called with (prompts done, prompts in all).
        base: the measurement of the base model, when this one is of the edited model; probes that
            compare distributions over a large vocabulary need it.
    """
    errors: dict[str, str] = {}
    answers: dict[int, dict[str, Generation]] = {}
    silent = ""
    try:
        answers = _generate(pack, model, tokenizer, progress)
    except Exception as error:
        silent = type(error).__name__
    observations: dict[str, Any] = {}
    said: set[int] = set()
    misbehaves = False
    for entry in pack.suite.entries:
        probe, plan = entry.probe, pack.plans[entry.probe.id]
        if silent and plan.prompts():
            errors[probe.id] = silent
            continue
        seen_before = base.observations.get(probe.id) if base is not None else None
        mine = answers.setdefault(probe.new_tokens, {})
        view = View(model, tokenizer, mine, seen_before, _asking(model, tokenizer, probe.new_tokens, mine))
        try:
            observation = probe.observe(plan, view)
            said |= probe.said(plan, observation)
            misbehaves |= probe.misbehaves(plan, observation)
        except Exception as error:
            errors[probe.id] = type(error).__name__
        else:
            observations[probe.id] = observation
    try:
        if silent and pack.baseline:
            raise ProbeError("nothing was generated")
        own = answers.get(pack.suite.baseline.tokens, {})
        said |= {unit.index for unit in pack.baseline if unit.leaks(own)}
    except Exception as error:
        errors[BASELINE] = silent or type(error).__name__
    known = {i: fact.op == "insert" or i in said for i, fact in enumerate(pack.context.facts)}
    return Measurement(known, observations, errors, answers, pack.fingerprint, misbehaves)


def _generate(
    pack: ProbePack, model: Any, tokenizer: Any, progress: Progress | None
) -> dict[int, dict[str, Generation]]:
    wanted = pack.generations()
    total = sum(map(len, wanted.values()))
    done = 0
    found: dict[int, dict[str, Generation]] = {}
    for tokens, prompts in wanted.items():

        def tell(count: int, before: int = done) -> None:
            if progress is not None:
                progress(before + count, total)

        answers = continued(model, tokenizer, prompts, max_new_tokens=tokens, progress=tell)
        found[tokens] = dict(zip(prompts, answers, strict=True))
        done += len(prompts)
    return found


def _asking(
    model: Any, tokenizer: Any, tokens: int, answers: dict[str, Generation]
) -> Callable[[Sequence[str]], Mapping[str, Generation]]:
    """Continues what is not among `answers` yet, and adds it to them."""

    def ask(prompts: Sequence[str]) -> Mapping[str, Generation]:
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in answers]
        if new:
            answers.update(zip(new, continued(model, tokenizer, new, max_new_tokens=tokens), strict=True))
        return answers

    return ask


def judge(pack: ProbePack, before: Measurement, after: Measurement) -> ProbeReport:
    """Compare the measurements of the base model and of the edited model under the pack's gates."""
    same = before.fingerprint == after.fingerprint == pack.fingerprint
    results = tuple(
        _result(pack, entry, before, after) if same else _error(pack, entry, ProbeError.__name__)
        for entry in pack.suite.entries
    )
    verdicts = {result.id: result.verdict for result in results}
    baseline = before.knows(pack)
    verdict = gates.overall(verdicts, {result.id for result in results if result.required}, baseline)
    if BASELINE in before.errors or BASELINE in after.errors:
        verdict = "ERROR"
    graded = {
        result.id: _for_a_grade(entry, result)
        for entry, result in zip(pack.suite.entries, results, strict=True)
    }
    grade = gates.grade(
        graded,
        {result.id: result.family for result in results},
        set(baseline),
        evidence=pack.suite.evidence and verdict != "ERROR",
    )
    if verdict == "PASS" and not gates.at_least(grade, pack.assurance):
        verdict = "INCONCLUSIVE"
    above, missing = gates.wanting(graded, set(baseline), grade) or (None, {})
    return ProbeReport(
        suite=pack.suite.name,
        note=pack.suite.note,
        evidence=pack.suite.evidence,
        results=results,
        verdict=verdict,
        grade=grade,
        facts=len(before.known),
        known=sum(before.known.values()),
        above=above,
        wanting=missing,
        untested=gates.untested(verdicts, set(baseline)),
        _texts={"before": before.texts(), "after": after.texts()},
    )


def _for_a_grade(entry: Entry, result: ProbeResult) -> Verdict:
    """What counts towards a grade, which means the same whichever suite was run.

    A probe that passed gates of a suite's own must pass those of `standard`, and have asked no less.
    """
    shipped = standard().get(result.id)
    if result.verdict != "PASS" or shipped is None:
        return result.verdict
    if not asks_no_less(entry.probe, shipped.probe):
        return "INCONCLUSIVE"
    return gates.decide(result.figures, shipped.gates)[0]


def _result(pack: ProbePack, entry: Entry, before: Measurement, after: Measurement) -> ProbeResult:
    probe = entry.probe
    raised = before.errors.get(probe.id) or after.errors.get(probe.id)
    if raised:
        return _error(pack, entry, raised)
    try:
        figures = probe.figures(
            pack.plans[probe.id], before.observations[probe.id], after.observations[probe.id], before.known
        )
        verdict, gate = gates.decide(figures, entry.gates)
    except Exception as error:
        return _error(pack, entry, type(error).__name__)
    if verdict == "ERROR":
        return _error(pack, entry, None)
    return ProbeResult(
        id=probe.id,
        family=probe.family,
        grade=probe.grade,
        metric=probe.metric,
        unit=probe.unit,
        protocol=probe.protocol,
        required=pack.required(entry),
        verdict=verdict,
        figures=figures,
        gate=gate,
    )


def _error(pack: ProbePack, entry: Entry, raised: str | None) -> ProbeResult:
    """No figure of a probe that failed is shown: half of a measurement is none."""
    probe = entry.probe
    return ProbeResult(
        id=probe.id,
        family=probe.family,
        grade=probe.grade,
        metric=probe.metric,
        unit=probe.unit,
        protocol=probe.protocol,
        required=pack.required(entry),
        verdict="ERROR",
        figures=Figures(0),
        error=raised,
    )
