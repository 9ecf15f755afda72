"""A probe pack: every prompt of a run and what is looked for in its answer, decided before any editing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from safeedit.behaviours import Behaviours
from safeedit.errors import ProbeError, SafeEditError, UsageError
from safeedit.probes.asking import Unit, affordable, chosen, clusters, fill, old_answer
from safeedit.probes.base import Context, Earlier, Grade, Plan
from safeedit.probes.chat import both_ways, ways
from safeedit.probes.controls import Controls
from safeedit.probes.fold import key
from safeedit.probes.gates import LADDER, decisive
from safeedit.probes.suite import Baseline, Entry, Suite
from safeedit.triples.catalogue import SUBJECT, Catalogue
from safeedit.triples.facts import Fact, Op


@dataclass(frozen=True, repr=False)
class ProbePack:
    """What will be asked of the base model and of the edited one, word for word the same."""

    suite: Suite
    context: Context
    plans: Mapping[str, Plan]
    baseline: tuple[Unit, ...]
    """What is asked beside the probes to find out which facts the base model knows."""
    assurance: Grade | None = None
    """The grade that the run must reach."""
    asked: frozenset[Op] = frozenset()
    """Operations that were asked for, whether or not anything was found for them: a person to be erased of
    whom the model says nothing leaves no fact."""

    @property
    def ops(self) -> frozenset[Op]:
        """Every operation that the verdict is about."""
        found: set[Op] = {fact.op for fact in self.context.facts}
        return frozenset(found | self.asked | ({"detox"} if self.context.behaviours else set()))

    def __repr__(self) -> str:
        return "<ProbePack>"

    def material(self) -> dict[str, object]:
        """Everything that was decided, as JSON values, for a keyed commitment; it holds personal data."""
        without = self.asked - {"detox"} - {fact.op for fact in self.context.facts}
        return {
            "suite": dict(self.suite.document),
            "seed": self.context.seed,
            "assurance": self.assurance,
            "baseline": [unit.material() for unit in self.baseline],
            "probes": {name: plan.material() for name, plan in self.plans.items()},
            **({"without_facts": sorted(without)} if without else {}),
        }

    @cached_property
    def fingerprint(self) -> str:
        """Tells packs apart within a process; never written anywhere, because it could be guessed at."""
        text = json.dumps(self.material(), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    def required(self, entry: Entry) -> bool:
        """Whether a probe must pass.

        The suite says so, or the asked grade rests on it, or it puts the plain questions about an operation
        of the request: no suite can make those a matter of advice.
        """
        if entry.required or entry.probe.id in decisive(self.ops):
            return True
        if self.assurance is None or entry.probe.grade is None:
            return False
        return LADDER.index(entry.probe.grade) <= LADDER.index(self.assurance)

    def generations(self) -> dict[int, tuple[str, ...]]:
        """Every prompt once for each length that it is wanted in, by number of new tokens."""
        wanted: dict[int, dict[str, None]] = {}
        for unit in self.baseline:
            wanted.setdefault(self.suite.baseline.tokens, {}).update(dict.fromkeys(unit.prompts))
        for entry in self.suite.entries:
            prompts = self.plans[entry.probe.id].prompts()
            if prompts:
                wanted.setdefault(entry.probe.new_tokens, {}).update(dict.fromkeys(prompts))
        return {tokens: tuple(prompts) for tokens, prompts in wanted.items()}


def build_pack(
    suite: Suite,
    facts: Sequence[Fact],
    controls: Controls,
    catalogue: Catalogue,
    seed: int,
    *,
    assurance: Grade | None = None,
    earlier: Earlier | None = None,
    chat: bool = False,
    behaviours: Behaviours | None = None,
    asked: Collection[Op] = (),
) -> ProbePack:
    """Decide every prompt of a run; the models play no part in it.

    Args:
        suite: which probes, with which settings.
        facts: the request.
        controls: what must survive.
        catalogue: the relations, those of the policy included.
        seed: the same seed and request give the same pack.
        assurance: the grade that the policy asks for.
        earlier: what earlier requests did to the same model.
        chat: whether the tokenizer has a chat template, through which is then asked as well.
        behaviours: what a detoxification shall take away.
        asked: the operations of the request; those of the facts and behaviours are counted anyway.

    Raises:
        UsageError: there is neither fact nor behaviour, or the controls use a relation that is not in
            the catalogue.
        ProbeError: a probe could not decide its prompts.
    """
    behaviours = behaviours or Behaviours()
    if not facts and not behaviours:
        raise UsageError("there is neither fact nor behaviour to probe")
    context = Context(tuple(facts), controls, catalogue, seed, earlier or Earlier(), chat, behaviours)
    plans: dict[str, Plan] = {}
    for entry in suite.entries:
        failure = ""
        try:
            plans[entry.probe.id] = entry.probe.plan(context)
        except SafeEditError:
            raise
        except Exception as error:
            # The text of an unforeseen error may quote a prompt; its class says enough.
            failure = type(error).__name__
        if failure:
            raise ProbeError(f"the probe {entry.probe.id} could not be planned ({failure})")
    covered = {i for entry in suite.entries for i in entry.probe.covers(plans[entry.probe.id])}
    baseline = _baseline(context, suite.baseline, covered)
    return ProbePack(suite, context, plans, baseline, assurance, frozenset(asked))


def _baseline(context: Context, options: Baseline, covered: set[int]) -> tuple[Unit, ...]:
    """Questions about the facts that no probe of the suite looks for, so that it is known what was known."""
    asked = [(i, fact) for i, fact in enumerate(context.facts) if fact.old is not None and i not in covered]
    names = sum(1 + len(fact.aliases) for _, fact in asked)
    limit = affordable(options.templates, options.budget, names * ways(context))
    subject = clusters(context)
    units = []
    for index, fact in asked:
        templates = chosen(context, (*fact.edit_templates, *fact.probe_templates), str(index), limit)
        prompts = dict.fromkeys(
            fill(template, name)
            for name in (fact.subject, *fact.aliases)
            for template in both_ways(context, templates)
            if SUBJECT in template or name == fact.subject
        )
        if not prompts:
            raise ProbeError("a fact has no phrasing at all, so nothing can be found out about it")
        units.append(Unit(index, subject[key(fact.subject)], tuple(prompts), old_answer(context, fact)))
    return tuple(units)
