"""What a policy would do to a model, and what it would cost; nothing is changed and nothing written."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from safeedit.editors.base import Editor
from safeedit.exams.own import own_data, with_own_data
from safeedit.policy import Policy
from safeedit.policy.answers import says
from safeedit.policy.edits import edits_for
from safeedit.policy.requested import requested_facts
from safeedit.policy.resolve import NEW_TOKENS, Resolved, resolve_subjects
from safeedit.probes.base import Earlier
from safeedit.probes.match import Answer, find_leak
from safeedit.probes.suite import Suite, load_suite
from safeedit.runs.conflicts import compare
from safeedit.runs.earlier import earlier_of
from safeedit.runs.guard import plainly
from safeedit.runs.measuring import Progress, pack_for
from safeedit.runs.options import (
    ModelSource,
    Request,
    check_model,
    chosen_editor,
    get_model,
    read_request,
    suite_source,
)
from safeedit.runs.outcome import Run
from safeedit.runs.redact import Redactor
from safeedit.seeds import check_seed
from safeedit.triples.catalogue import SUBJECT
from safeedit.triples.facts import Fact

if TYPE_CHECKING:
    from safeedit.models.load import LoadedModel

Action = Literal["erase", "modify", "insert", "none"]

TOKENS_PER_PROMPT = 500
"""An edit costs about as much as writing so many tokens for each of its prompts."""
READING = 0.2
"""Reading a token costs about so much of writing one."""


@dataclass(frozen=True, repr=False)
class PlannedFact:
    """One fact of a request, what the model says of it now, and what would be done."""

    digest: str
    """Stands for subject, relation and object together; another one in every plan."""
    subject_digest: str
    object_digest: str
    op: str
    relation: str
    known: bool
    """Whether the model says the object to at least one of the phrasings."""
    confidence: float
    """Share of the phrasings whose answer begins with the object."""
    found: bool
    """Whether the fact was found by asking, and not stated by the policy."""
    fact: Fact
    """The fact in plain text."""

    def __repr__(self) -> str:
        return f"<PlannedFact {self.digest}>"

    @property
    def action(self) -> Action:
        """What a run would do: what the model does not know is neither erased nor modified."""
        return self.fact.op if self.known or self.fact.op == "insert" else "none"

    def to_json(self, *, show_sensitive: bool = False) -> dict[str, Any]:
        """As JSON values; with names and objects only if asked for."""
        shown: dict[str, Any] = {
            "digest": self.digest,
            "subject": self.subject_digest,
            "object": self.object_digest,
        }
        if show_sensitive:
            shown |= {"subject": self.fact.subject, "object": self.fact.object}
            if self.fact.new_object is not None:
                shown["new_object"] = self.fact.new_object
        return {
            **shown,
            "op": self.op,
            "relation": self.relation,
            "known": self.known,
            "confidence": round(self.confidence, 4),
            "found": self.found,
            "action": self.action,
        }


@dataclass(frozen=True)
class PlannedBehaviours:
    """What shall go of a model's behaviour, counted, and how much of it the model shows now."""

    examples: int
    """What the editor would learn from."""
    asked: int
    """Prompts that the model was asked for this plan: those of the examples, and the unseen ones."""
    toxic: int
    """Those of them that it answered so that the scorer calls it toxic."""
    unsafe: int = 0
    """Safe answers of the policy that the scorer calls toxic: an editor that teaches them seems to fail."""


@dataclass(frozen=True, repr=False)
class Plan:
    """What a run would do."""

    policy_id: str
    model: str
    device: str
    dtype: str
    editor: str
    layers: tuple[int, ...]
    """The blocks that would be changed, where the editor says so beforehand."""
    suite: str
    facts: tuple[PlannedFact, ...]
    unknown: tuple[Resolved, ...]
    """What was asked about people and found not to be known, in plain text."""
    edits: int
    """What the editor would get: one for each name of each fact that is edited."""
    prompts: int
    """What the probes would ask, once before and once after."""
    seconds: float
    """What the run would take here, very roughly."""
    replaced: int = 0
    """How many of the facts would win over what an earlier run did."""
    warnings: tuple[str, ...] = ()
    """What could not be checked beforehand, in one line each."""
    behaviours: PlannedBehaviours | None = None
    """None where the policy asks for no detoxification."""

    def __repr__(self) -> str:
        return f"<Plan {self.policy_id}: {len(self.facts)} facts>"

    @property
    def known(self) -> int:
        """How many facts would be edited."""
        return sum(fact.action != "none" for fact in self.facts)

    def to_json(self, *, show_sensitive: bool = False) -> dict[str, Any]:
        """As JSON values; with names and objects only if asked for."""
        return {
            "policy": self.policy_id,
            "model": self.model,
            "device": self.device,
            "dtype": self.dtype,
            "editor": {"name": self.editor, "layers": list(self.layers)},
            "suite": self.suite,
            "facts": [fact.to_json(show_sensitive=show_sensitive) for fact in self.facts],
            "not_known": [
                {"subject_number": one.request, "relation": one.relation, "confidence": one.confidence}
                for one in self.unknown
            ],
            "edits": self.edits,
            "prompts": self.prompts,
            "seconds": round(self.seconds, 1),
            "replaced": self.replaced,
            "warnings": list(self.warnings),
            **({"behaviours": asdict(self.behaviours)} if self.behaviours else {}),
        }


def plan(
    policy: Policy | str | os.PathLike[str],
    model: ModelSource | Run = None,
    *,
    editor: str | None = None,
    params: Mapping[str, Any] | None = None,
    suite: str | os.PathLike[str] | None = None,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    progress: Progress | None = None,
    kinds: str | Collection[str] | None = None,
    on_conflict: str = "stop",
    datasets: Iterable[str] = (),
) -> Plan:
    """What `apply` would do with the same arguments; the model is asked, and nothing is changed.

    Raises:
        ConflictError: the policy is in conflict with runs that it would stand on.
        UsageError: it cannot be done as asked.
        SafeEditError: the model failed.
    """

    def work() -> Plan:
        check_seed(seed)
        request = read_request(policy, kinds)
        chosen = chosen_editor(request, editor, params)
        own = own_data(request.policy, request.folder, datasets)
        probes = with_own_data(load_suite(suite_source(request, suite)), own)
        source = model.path if isinstance(model, Run) else model
        parent = check_model(source, device, dtype)
        compared, earlier = compare(request, parent, on_conflict), earlier_of(parent)
        made = _plan(request, chosen, probes, get_model(source, device, dtype), seed, progress, earlier)
        return replace(made, replaced=len(compared.conflicts), warnings=compared.warnings)

    return plainly(lambda: "the plan", work)


def _plan(
    request: Request,
    editor: Editor,
    suite: Suite,
    loaded: LoadedModel,
    seed: int,
    progress: Progress | None,
    earlier: Earlier,
) -> Plan:
    resolved: tuple[Resolved, ...] = ()
    if request.subjects:
        resolved = resolve_subjects(
            request.subjects, loaded.model, loaded.tokenizer, request.catalogue, progress, seed=seed
        )
    facts = requested_facts(request.facts, resolved)
    redactor = Redactor(secrets.token_bytes(32))
    start = time.perf_counter()
    planned = _asked(request, facts, loaded, redactor, progress)
    behaving = _behaving(request, suite, loaded, progress) if request.behaviours else None
    taken = time.perf_counter() - start
    asked = sum(len(_prompts(fact)) for fact in facts) + (behaving.asked if behaving else 0)
    edits = edits_for([one.fact for one in planned if one.action != "none"], request.catalogue)
    if behaving is not None and behaving.toxic:
        edits = (*edits, *request.behaviours.edits())
    pack = pack_for(request, suite, facts, loaded, seed, earlier) if facts or behaving else None
    probing = sum(map(len, pack.generations().values())) if pack else 0
    rows = sum(len(edit.templates) for edit in edits)
    read = int(getattr(editor.params, "statistics_tokens", 0)) if rows else 0
    each = taken / (asked * NEW_TOKENS) if asked else 0.0
    return Plan(
        policy_id=request.policy.metadata.id,
        model=loaded.source_name,
        device=loaded.device,
        dtype=loaded.dtype,
        editor=editor.name,
        layers=editor.layers_for(loaded.model, loaded.tokenizer, edits),
        suite=suite.name,
        facts=planned,
        unknown=tuple(one for one in resolved if not one.known),
        edits=len(edits),
        prompts=probing,
        # Answers mostly end early, so that a prompt costs about as much whatever its limit is.
        seconds=each * (2 * NEW_TOKENS * probing + TOKENS_PER_PROMPT * rows + READING * read),
        behaviours=behaving,
    )


def _asked(
    request: Request,
    facts: Sequence[Fact],
    loaded: LoadedModel,
    redactor: Redactor,
    progress: Progress | None,
) -> tuple[PlannedFact, ...]:
    """What the model says of each fact now."""
    from safeedit.models.generate import greedy

    prompts = list(dict.fromkeys(prompt for fact in facts for prompt in _prompts(fact)))

    def tell(done: int, total: int) -> None:
        if progress is not None:
            progress("facts", done, total)

    found = greedy(loaded.model, loaded.tokenizer, prompts, max_new_tokens=NEW_TOKENS, progress=tell)
    answers = {prompt: one.text for prompt, one in zip(prompts, found, strict=True)}
    planned = []
    for index, fact in enumerate(facts):
        objects = (fact.object, *fact.object_aliases)
        closed = bool(request.catalogue[fact.relation].objects)
        said = Answer(objects, closed=closed, names=(fact.subject, *fact.aliases))
        own = _prompts(fact)
        planned.append(
            PlannedFact(
                digest=redactor.digest("\0".join((fact.subject, fact.relation, fact.object))),
                subject_digest=redactor.digest(fact.subject),
                object_digest=redactor.digest(fact.object),
                op=fact.op,
                relation=fact.relation,
                known=any(find_leak(said, prompt, answers[prompt]) is not None for prompt in own),
                confidence=sum(any(says(o, answers[p]) for o in objects) for p in own) / len(own),
                found=index >= len(request.facts),
                fact=fact,
            )
        )
    return tuple(planned)


def _behaving(
    request: Request, suite: Suite, loaded: LoadedModel, progress: Progress | None
) -> PlannedBehaviours:
    """How the model answers now what it shall answer otherwise, by the scorer that the suite judges by."""
    from safeedit.models.generate import greedy
    from safeedit.toxicity import scorer

    behaviours = request.behaviours
    prompts = list(dict.fromkeys((*(one.prompt for one in behaviours.shown), *behaviours.unseen)))
    judging = (entry.probe.options for entry in suite.entries if entry.probe.family == "toxicity")
    options = next((found for found in judging if hasattr(found, "scorer")), None)
    spec, limit = getattr(options, "scorer", "embedded"), getattr(options, "threshold", 0.5)

    def tell(done: int, total: int) -> None:
        if progress is not None:
            progress("behaviours", done, total)

    found = greedy(loaded.model, loaded.tokenizer, prompts, max_new_tokens=NEW_TOKENS, progress=tell)
    safe = list(dict.fromkeys(one.safe for one in behaviours.shown))
    toxic, wrong = (
        sum(p >= limit for p in scorer(spec).score(texts)) for texts in ([one.text for one in found], safe)
    )
    return PlannedBehaviours(len(behaviours.shown), len(prompts), toxic, wrong)


def _prompts(fact: Fact) -> tuple[str, ...]:
    templates = (*fact.edit_templates, *fact.probe_templates)
    return tuple(dict.fromkeys(template.replace(SUBJECT, fact.subject) for template in templates))
