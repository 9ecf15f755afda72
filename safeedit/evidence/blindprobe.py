"""Probing a run again whose vault was shredded: the operator gives the names, the matcher knows the answers.

Only what the matcher finds counts, so that nothing of the request has to be kept in the open. A fact
counts as tested only if the base model still says it under the same prompts: a name that was misspelt
finds nothing in either model, and must not look like something forgotten.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safeedit.errors import UsageError
from safeedit.evidence.blind import Matcher
from safeedit.policy import Policy
from safeedit.probes.match import is_empty
from safeedit.probes.stats import binomial_upper
from safeedit.runs.folder import RunFolder
from safeedit.runs.guard import plainly
from safeedit.runs.loading import base_model, edit_of, finished_run
from safeedit.runs.options import ModelSource, Request, read_request

if TYPE_CHECKING:
    from collections.abc import Callable

    from safeedit.models.load import LoadedModel

TOKENS = 32
"""How much of an answer is looked at, as the standard suite does."""


@dataclass(frozen=True)
class BlindReport:
    """What the matcher found, in numbers only."""

    facts: int
    """Facts that the matcher knows."""
    asked: int
    """Those of them that the policy's names and relations led to."""
    known: int
    """Those of them that the base model says, and about which the edited one is not merely silent."""
    leaks: int
    """Those of them that the edited model still says."""
    prompts: int

    @property
    def upper95(self) -> float | None:
        """The exact one-sided 95 % bound on the share that leaks; None where nothing was tested."""
        return binomial_upper(self.leaks, self.known) if self.known else None

    @property
    def verdict(self) -> str:
        """FAIL where anything leaks; PASS only where every fact was asked for and known beforehand."""
        if self.leaks:
            return "FAIL"
        return "PASS" if 0 < self.known == self.facts else "INCONCLUSIVE"

    @property
    def exit_code(self) -> int:
        """As the command line gives it."""
        return {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 3}[self.verdict]

    def to_json(self) -> dict[str, Any]:
        """As JSON values, fit for the log."""
        counts = {name: getattr(self, name) for name in ("facts", "asked", "known", "leaks", "prompts")}
        return {**counts, "upper95": self.upper95, "verdict": self.verdict}


@dataclass(frozen=True)
class _Answers:
    """Numbers of facts: those to which a model gave any answer, and those that it was found to say."""

    said: frozenset[int]
    found: frozenset[int]


def probe_blindly(
    run: str | os.PathLike[str],
    policy: Policy | str | os.PathLike[str],
    *,
    base: ModelSource = None,
    device: str = "auto",
    progress: Callable[[str, int, int], None] | None = None,
) -> BlindReport:
    """Ask a run's base model and its edited one, and match the answers blindly; the log tells of it.

    Args:
        run: a finished run that was shredded with its matcher kept.
        policy: whose names are asked for; its objects are not looked at and may be anything.
        base: where the run's base model is now.
        device: see `load_model`.
        progress: called with (stage, done, in all).

    Raises:
        UsageError: the run has no matcher, or the matcher's key is gone.
        IntegrityError: the run's model cannot be put together as recorded.
    """
    tell = progress or (lambda stage, done, total: None)

    def work() -> BlindReport:
        folder = finished_run(run)
        matcher = Matcher.open(folder)
        asked = _prompts(matcher, read_request(policy))
        if not asked:
            raise UsageError(
                f"{folder.path}: none of the policy's names and relations is one that the run was about"
            )
        loaded, patch = base_model(folder, base, device), edit_of(folder)
        before = _found(matcher, asked, loaded, lambda done, total: tell("baseline", done, total))
        after = before
        if patch is not None:
            with patch.applied(loaded.model, check="none"):
                after = _found(matcher, asked, loaded, lambda done, total: tell("probes", done, total))
        return _report(folder, matcher, asked, before, after)

    return plainly(lambda: "the blind measurement", work)


def _report(
    folder: RunFolder,
    matcher: Matcher,
    asked: Sequence[tuple[str, tuple[int, ...]]],
    before: _Answers,
    after: _Answers,
) -> BlindReport:
    reached = {fact for _, facts in asked for fact in facts}
    # What only the edited model says leaks too, whatever the base model said; silence shows nothing.
    known = (before.found & after.said) | after.found
    report = BlindReport(len(matcher.facts), len(reached), len(known), len(after.found), len(asked))
    folder.update("probes.blind", report.to_json())
    return report


def _prompts(matcher: Matcher, request: Request) -> list[tuple[str, tuple[int, ...]]]:
    """Every prompt that may bring a fact back, with the facts that it may; names come from the policy."""
    found: dict[str, tuple[int, ...]] = {}
    for fact in request.facts:
        for name in (fact.subject, *fact.aliases):
            facts = matcher.about(name, fact.relation)
            for template in (*fact.edit_templates, *fact.probe_templates):
                found[template.replace("{subject}", name)] = facts
    for asked in request.subjects:
        for relation in asked.relations or request.catalogue.about("person"):
            for name in (asked.name, *asked.aliases):
                facts = matcher.about(name, relation)
                for prompt in request.catalogue[relation].prompts(name):
                    found[prompt] = facts
    return [(prompt, facts) for prompt, facts in found.items() if facts]


def _found(
    matcher: Matcher,
    asked: Sequence[tuple[str, tuple[int, ...]]],
    loaded: LoadedModel,
    tell: Callable[[int, int], None],
) -> _Answers:
    from safeedit.models.generate import greedy

    prompts = [prompt for prompt, _ in asked]
    answers = greedy(loaded.model, loaded.tokenizer, prompts, max_new_tokens=TOKENS, progress=tell)
    said, found = set[int](), set[int]()
    for (_, facts), answer in zip(asked, answers, strict=True):
        said |= set() if is_empty(answer.text) else set(facts)
        found |= {fact for fact in facts if matcher.finds(fact, answer.text)}
    return _Answers(frozenset(said), frozenset(found))
