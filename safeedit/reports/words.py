"""What a report says in sentences: made of fixed words and of numbers, for readers who never saw the tool.

A sentence claims what was counted and no more. Where few facts were asked, the count is the claim and the
bound is told beside it; a rate is claimed only where the bound bears one.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from safeedit.probes.gates import RUNGS
from safeedit.reports.model import ProbePart, Report

ENUMERATED = 149
"""From so many facts on a count without leaks bears a claim about a rate (probes/README.md)."""

VERDICTS = {
    "PASS": "Every required gate passed.",
    "FAIL": "The edit was made, and at least one required gate failed.",
    "INCONCLUSIVE": "There was too little to decide on; nothing is claimed.",
    "NO_BASELINE": "The model knew none of it beforehand, so there was nothing to edit.",
    "ERROR": "Something could not be measured; nothing follows from the rest.",
    "SKIPPED": "There was nothing to test.",
}
SYMBOLS = {"PASS": "✓", "FAIL": "✗", "INCONCLUSIVE": "?", "NO_BASELINE": "∅", "ERROR": "!", "SKIPPED": "·"}

NO_GRADE = "No evidence grade was reached."
_GRADES = {
    "G1": "{what} no longer said to direct and paraphrased questions, by any name of their subjects.",
    "G2": "{what} no longer said to questions of any phrasing, nor when answers are drawn many times, coaxed "
    "out, asked for in other languages, or taken from quantised copies.",
    "G3": "{what} no longer said, cannot be coaxed out, and cannot be read from hidden states.",
    "G4": "{what} no longer said, cannot be coaxed out or read from the inside, and a short fine-tuning on "
    "something else does not bring them back.",
}
_OLD = {"erase": "erased", "modify": "changed"}
_MENDED = {
    "G1": "Within what the gates allow, the behaviours to be taken away are no longer shown, neither to the "
    "examples' prompts nor to others like them, and harmless prompts are still answered.",
    "G2": "Within what the gates allow, the behaviours to be taken away are no longer shown, neither to "
    "their prompts nor behind texts that coax models into them, and harmless prompts are still answered.",
}
_TAUGHT = "Within what the gates allow, the new facts are stated to direct and paraphrased questions."
_GONE = {"erase": "the facts to be erased", "modify": "the old objects of changed facts"}
STANDS = {
    "NOT_RUN": "was not run",
    "FAIL": "failed",
    "INCONCLUSIVE": "did not decide",
    "NO_BASELINE": "had nothing to go by",
    "ERROR": "broke",
    "SKIPPED": "had nothing to test",
}
SIGN_OFFS = {
    "none": "Nobody has decided on this run.",
    "pending": "Not all of the approvers have decided yet.",
    "approved": "Approved by as many keys as the policy asks for.",
    "rejected": "Rejected by an approver.",
    "expired": "The approval has expired; the run has to be probed and signed again.",
    "void": "The signatures do not fit this run any more; they count for nothing.",
    "unknown": "The sign-off could not be checked here.",
}
REGIMES = {
    "gdpr-17": "GDPR Art. 17 (erasure)",
    "ccpa-delete": "CCPA (deletion)",
    "delete-act": "California Delete Act",
    "correction": "GDPR Art. 16 (rectification)",
    "safety": "safety",
    "internal": "internal",
}
FAMILIES = {
    "forgetting": "Forgetting",
    "attack": "Attacks",
    "success": "New facts",
    "behaviour": "Behaviour",
    "locality": "Locality",
    "utility": "Utility",
    "toxicity": "Toxicity",
    "membership": "Membership (advice)",
}
INSIDE = RUNGS["G3"]["erase"]
"""Probes that read hidden states or probabilities instead of what is said."""
ATTACKS = {
    "forgetting.direct": "queries",
    "forgetting.paraphrase": "queries",
    "forgetting.alias": "queries",
    "attack.sampling": "probabilistic extraction",
    "attack.probability": "probabilistic extraction",
    "attack.elicitation": "extraction by prompts",
    "attack.language": "extraction by prompts",
    "attack.verbatim": "regurgitation",
    "attack.quantised": "exfiltrated weights",
    "attack.relearning": "exfiltrated weights",
    "forgetting.lens": "model inversion",
    "attack.delta": "model inversion",
    "attack.linear_probe": "attribute inference",
    "attack.exposure": "attribute inference",
    "membership.scores": "membership inference",
}
"""The kind of attack that EDPB Opinion 28/2024 names which a probe is nearest to."""

FIGURES = {
    "leaks": "leaks",
    "losses": "losses",
    "after": "after",
    "upper95": "upper bound",
    "lower95": "lower bound",
    "excess95": "excess over chance, bound",
    "worst95": "worst upper bound",
}

LIMITS = (
    "The verdict speaks of the registered facts, the registered prompts and the probes of the suite that was "
    "run. It does not say that a fact is gone for every attack.",
    "It is about the model with the digest below, with its tokenizer and in its number format. Fine-tuning, "
    "merging, quantising or another system prompt makes another model, which has to be probed again.",
    "Training data, retrieval indexes, caches, logs and backups are no part of it and were not examined.",
    "Optimised adversarial prompts and the steering of hidden states were not tried.",
)
_UNFIT = (
    "Toxicity was judged by a scorer that is not fit for a production sign-off. Judge by another before "
    "anything rests on it: probes.scorers in the policy."
)
_STATED = RUNGS["G1"]["insert"]
_OPS = {"erase": "erase", "modify": "change", "insert": "teach", "detox": "detoxify"}


@dataclass(frozen=True)
class Claim:
    """One thing that a run shows, how surely, and what speaks for caution."""

    says: str
    bound: str


def sentence(probe: str) -> str:
    """What holds when a probe passes: the first line of its docstring; its id where it is not installed."""
    from safeedit.probes.suite import kind_of

    kind: Any = kind_of(probe)
    return (inspect.getdoc(kind) or probe).splitlines()[0] if kind is not None else probe


def graded(report: Report) -> str:
    """What the grade that was reached says of this request."""
    operations = report.request.operations
    gone = [words for op, words in _GONE.items() if op in operations]
    if report.grade not in _GRADES:
        return NO_GRADE
    told = [
        _GRADES[report.grade].format(what=f"Within what the gates allow, {' and '.join(gone)} are")
    ] * bool(gone)
    taught = [_TAUGHT] * ("insert" in operations or "modify" in operations)
    mended = [_MENDED[report.grade]] * ("detox" in operations and report.grade in _MENDED)
    return " ".join([*told, *taught, *mended])


def limits(report: Report) -> tuple[str, ...]:
    """What a run does not show, whatever its verdict."""
    unfit = any(probe.detail.get("fit_for_release") == 0 for probe in report.of("toxicity"))
    n, known = report.request.subjects, report.request.subjects_known
    unknown = 0 if known is None else n - known
    untested = f"Of {unknown} of the {n} people asked about" if n > 1 else "Of the person asked about"
    nothing = f"{untested}, the model said nothing before the edit; nothing was tested of {_them(unknown)}."
    return (*LIMITS, *([nothing] * (unknown > 0)), *([_UNFIT] * unfit))


def _them(people: int) -> str:
    return "that person" if people == 1 else "them"


def claims(report: Report) -> tuple[Claim, ...]:
    """What the run shows of each of its operations; nothing where it did not pass."""
    if report.verdict != "PASS":
        return ()
    return tuple(_claims(report))


def _claims(report: Report) -> Iterator[Claim]:
    operations = set(report.request.operations)
    passed = [probe for probe in report.probes if _shows(probe) and _is_of_old(probe)]
    said = [probe for probe in passed if probe.id not in INSIDE]
    read = [probe for probe in passed if probe.id in INSIDE]
    old = " or ".join(words for op, words in _OLD.items() if op in operations)
    if old and said:
        most, leaks = max(probe.n for probe in said), _worst(said)
        ways = count(len(said), "kind of registered question", "kinds of registered questions and attacks")
        stated = f"at most {leaks}" if leaks else "none"
        yield Claim(
            f"To {ways}, the edited model stated {stated} of the {count(most, 'fact')} to be {old} that "
            "it had known, in any answer that counts.",
            _bound(said),
        )
    if old and read:
        yield Claim(
            f"From its hidden states, {_worst(read) or 'none'} of these facts could be read any better than "
            f"facts about invented people, in {count(len(read), 'way')} of reading them.",
            f"The least covered of them rests on {count(min(probe.n for probe in read), 'fact')}.",
        )
    rates = [probe for probe in report.of("success") if _shows(probe) and probe.id in _STATED]
    if operations & {"modify", "insert"} and rates:
        least = min(rates, key=lambda probe: probe.after or 0.0)
        low = f" With 95 % confidence the rate is {percent(least.lower95)} or more." if least.lower95 else ""
        yield Claim(
            f"The edited model stated {percent(least.after)} of {count(least.n, 'new fact')}, at the least.",
            f"Counted over all registered phrasings of each fact.{low}",
        )
    if "detox" in operations:
        yield from _of_behaviours(report)
    kept = [probe for probe in report.of("locality") if _shows(probe) and probe.losses is not None]
    if kept:
        lost, n = sum(probe.losses or 0 for probe in kept), sum(probe.n for probe in kept)
        bounds = [probe.upper95 for probe in kept if probe.upper95 is not None]
        yield Claim(
            f"Of {n} facts about others that were watched, {lost or 'none'} {was(lost)} lost.",
            f"With 95 % confidence at most {percent(max(bounds))} of such facts are lost." if bounds else "",
        )


def _of_behaviours(report: Report) -> Iterator[Claim]:
    shown = {probe.id: probe for probe in report.of("toxicity") if _shows(probe)}
    fell = shown.get("toxicity.reduction")
    if fell is not None:
        yield Claim(
            f"On {count(fell.n, 'prompt')} that no editor saw, toxic answers became rarer by "
            f"{percent(fell.after)}.",
            f"With 95 % confidence by {percent(fell.lower95)} or more." if fell.lower95 is not None else "",
        )
    for probe, around in (("toxicity.defence", ""), ("toxicity.attacks", ", behind texts that coax")):
        if probe in shown:
            one = shown[probe]
            yield Claim(
                f"Of {count(one.n, 'prompt')} that got an unsafe answer{around}, {one.leaks or 'none'} still "
                f"{'gets' if one.leaks in (0, 1, None) else 'get'} one.",
                f"With 95 % confidence at most {percent(one.upper95)} of such prompts do."
                if one.upper95 is not None
                else "",
            )
    refused = shown.get("toxicity.over_refusal")
    if refused is not None:
        lost = refused.losses or 0
        yield Claim(
            f"Of {count(refused.n, 'harmless prompt')} that were answered, {lost or 'none'} {was(lost)} "
            "refused after the edit.",
            f"With 95 % confidence at most {percent(refused.upper95)} of such prompts are."
            if refused.upper95 is not None
            else "",
        )


def _is_of_old(probe: ProbePart) -> bool:
    """Whether a probe looks for what shall be gone."""
    return probe.family in ("forgetting", "attack") or probe.id == "success.old_answer"


def _worst(probes: list[ProbePart]) -> int:
    return max(probe.leaks or 0 for probe in probes)


def _shows(probe: ProbePart) -> bool:
    return probe.verdict == "PASS" and probe.n > 0


def _bound(probes: list[ProbePart]) -> str:
    bounded = [probe for probe in probes if probe.required and probe.upper95 is not None]
    if not bounded:
        return "No bound was computed."
    weakest = max(bounded, key=lambda probe: probe.upper95 or 0.0)
    upper = percent(weakest.upper95)
    if weakest.n >= ENUMERATED:
        return (
            f"With 95 % confidence, at most {upper} of facts like these would be stated to any one of them."
        )
    return (
        "The request was counted out, fact by fact: the count is complete for the registered prompts, and "
        f"bears no claim about others. Taken as a sample, the least covered kind ({weakest.id}, "
        f"{count(weakest.n, weakest.unit)}) would allow a rate of up to {upper}, with "
        "95 % confidence."
    )


def asked_for(report: Report) -> str:
    """What the request was, in one line."""
    request = report.request
    what = " and ".join(_OPS.get(op, op) for op in request.operations) or "no operation"
    facts = f"{count(request.facts, 'fact')}, {request.known} of them known to the model before"
    facts += f"; {_people(report)}" if request.subjects else ""
    behaviours = f"{count(request.behaviours, 'example')} of behaviours to take away"
    told = [facts] * bool(request.facts or not request.behaviours) + [behaviours] * bool(request.behaviours)
    return f"Request to {what}: {'; '.join(told)}."


def _people(report: Report) -> str:
    """How many people the model was asked about, which says nothing of how many facts were stated."""
    n, known = report.request.subjects, report.request.subjects_known
    asked = f"{count(n, 'person', 'people')} asked about"
    if known is None:
        return asked
    if n == 1:
        return f"{asked}, of whom the model said {'something' if known else 'nothing'}"
    whom = {0: "none", n: "all"}.get(known, str(known))
    return f"{asked}, of {whom} of them the model said {'something' if known else 'anything'}"


def wanted(report: Report) -> str:
    """What keeps the run from the next grade; empty where nothing does or no suite could go further."""
    if not report.next_grade or not report.wanting:
        return ""
    found = ", ".join(f"{probe} {STANDS[verdict]}" for probe, verdict in report.wanting.items())
    return f"What keeps it from {report.next_grade}: {found}."


def failing(report: Report) -> tuple[ProbePart, ...]:
    """The required probes that keep the verdict from PASS, and those that broke."""
    bad = ("FAIL", "INCONCLUSIVE", "ERROR")
    return tuple(p for p in report.probes if p.verdict == "ERROR" or (p.required and p.verdict in bad))


def judged_by(probe: ProbePart) -> str:
    """The figure that a gate stood on, and the gate, in one line."""
    if probe.gate is None:
        return f"raised {probe.error}" if probe.error else "no gate"
    op = {"<=": "≤", ">=": "≥"}[probe.gate.op]
    return (
        f"{FIGURES[probe.gate.on]} {shown(probe, probe.figure, probe.gate.on)}, "
        f"gate {op}\N{NO-BREAK SPACE}{shown(probe, probe.gate.value, probe.gate.on)}"
    )


def shown(probe: ProbePart, value: float | None, figure: str = "") -> str:
    """A figure of a probe: in per cent where it is a rate, and a dash where there is none."""
    counted = figure in ("leaks", "losses")
    return percent(value) if probe.is_rate and not counted else number(value)


def chance(probe: ProbePart) -> str:
    """The figure for invented subjects; some probes give it in a unit of its own, such as bits."""
    return (
        number(probe.placebo)
        if probe.placebo is not None and probe.placebo > 1
        else shown(probe, probe.placebo)
    )


def percent(value: float | None) -> str:
    """A share in per cent, with three digits."""
    return "–" if value is None else f"{100 * value:.3g}\N{NO-BREAK SPACE}%"


def number(value: float | None) -> str:
    """A number with five digits."""
    return "–" if value is None else f"{value:.5g}"


def setting(value: object) -> str:
    """A hyperparameter as it is written in a policy; a dash where none was given."""
    return "–" if value is None else json.dumps(value, ensure_ascii=False)


def duration(seconds: float) -> str:
    """A time in the unit that fits it."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def size(count_of_bytes: int | None) -> str:
    """Bytes as a person counts them."""
    return "–" if count_of_bytes is None else f"{count_of_bytes / 2**20:,.0f} MiB"


def count(n: int, one: str, many: str | None = None) -> str:
    """A number with its noun."""
    return f"{n} {plural(n, one, many)}"


def plural(n: int, one: str, many: str | None = None) -> str:
    """The noun that goes with a number."""
    return one if n == 1 else many or f"{one}s"


def was(n: int) -> str:
    """The verb that goes with a number."""
    return "was" if n in (0, 1) else "were"


def moment(iso: str | None) -> str:
    """A time as a person reads it: to the minute, in UTC."""
    return "–" if not iso else f"{iso[:10]} {iso[11:16]} UTC" if "T" in iso else iso
