"""From a policy to facts with words: what an editor may see, and what only probes may.

The two never share a phrasing. A probe that the editor was trained on would measure the
editor's memory and not the model's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from safeedit.behaviours import Behaviour, Behaviours, joined
from safeedit.errors import UsageError
from safeedit.policy.model import ChangedFact, Detox, Erase, Policy, Prompts, StatedFact
from safeedit.policy.rules import same, to_template
from safeedit.triples.catalogue import Catalogue, Relation, render_question
from safeedit.triples.facts import Fact, FactOp

EDIT_CLOZES = 4
"""An editor sees at most so many of a relation's sentences."""
HELD_OUT = 4
"""Every so many-th prompt of a behaviour is kept from the editor where a policy gives no unseen ones ..."""
FEWEST_TO_DIVIDE = 8
"""... and there are at least so many."""


@dataclass(frozen=True, repr=False)
class SubjectRequest:
    """A person whose facts are yet to be found by asking the model."""

    name: str
    aliases: tuple[str, ...] = ()
    relations: tuple[str, ...] | None = None
    """The relations to ask for; None means every relation of the catalogue about people."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


@dataclass(frozen=True)
class Wording:
    """Templates with `{subject}`, in two sets without a common phrasing."""

    edit: tuple[str, ...]
    probe: tuple[str, ...]


def wording(relation: Relation) -> Wording:
    """How a relation's phrasings are divided, the same way every time.

    The editor sees the first two fifths of the sentences (at least one, at most `EDIT_CLOZES`) and,
    where there are several questions, the first one; probes get the rest.
    """
    clozes = _distinct(relation.cloze, ())
    questions = _distinct(map(render_question, relation.questions), clozes)
    seen = min(EDIT_CLOZES, max(1, 2 * len(clozes) // 5))
    asked = 1 if len(questions) > 1 else 0
    return Wording(clozes[:seen] + questions[:asked], clozes[seen:] + questions[asked:])


def facts_of(policy: Policy, catalogue: Catalogue | None = None) -> tuple[Fact, ...]:
    """The facts that a policy states, in its order; those of `subjects` are not among them.

    Args:
        policy: as loaded.
        catalogue: instead of the built-in one; the policy's own relations are added to it.

    Raises:
        UsageError: a `facts_file` was not read, a relation is not in the catalogue, or a fact's own
            paraphrases leave no phrasing for an editor.
    """
    known = policy.catalogue(catalogue)
    found: list[Fact] = []
    for index, operation in enumerate(policy.operations):
        if isinstance(operation, Detox):
            continue
        if operation.facts_file is not None:
            raise UsageError(f"operations[{index}]: its facts_file was not read; use Policy.load")
        for at, stated in enumerate(operation.facts or ()):
            where = f"operations[{index}].facts[{at}]"
            found.append(_fact(stated, operation.op, _relation(stated.relation, known, where), where))
    return tuple(found)


def fact_for(
    subject: str,
    aliases: Iterable[str],
    relation: str,
    object: str,
    op: Literal["erase", "insert"],
    catalogue: Catalogue,
) -> Fact:
    """A fact that no policy states but asking the model has found, in the catalogue's words.

    Raises:
        UsageError: the relation is not in the catalogue.
    """
    entry = _relation(relation, catalogue, "a fact")
    words = wording(entry)
    return Fact(
        op,
        subject,
        relation,
        object,
        aliases=tuple(aliases),
        edit_templates=words.edit,
        probe_templates=words.probe,
        about=entry.about,
    )


def behaviours_of(policy: Policy) -> Behaviours:
    """What a policy says of behaviours, divided into what an editor may see and what only probes may.

    Raises:
        UsageError: a `behaviours_file` was not read.
    """
    return joined(
        _behaviours(operation, f"operations[{index}]")
        for index, operation in enumerate(policy.operations)
        if isinstance(operation, Detox)
    )


def _behaviours(operation: Detox, where: str) -> Behaviours:
    if operation.behaviours is None:
        raise UsageError(f"{where}: its behaviours_file was not read; use Policy.load")
    shown = tuple(Behaviour(one.prompt, one.unsafe, one.safe, one.category) for one in operation.behaviours)
    unseen = operation.unseen or ()
    prompts = tuple(dict.fromkeys(one.prompt for one in shown))
    if not unseen and len(prompts) >= FEWEST_TO_DIVIDE:
        unseen = prompts[HELD_OUT - 1 :: HELD_OUT]
        shown = tuple(one for one in shown if one.prompt not in unseen)
    harmless = _distinct(operation.answerable or (), ())
    return Behaviours(shown, unseen, operation.attacks or (), harmless[1::2], harmless[::2])


def subjects_of(policy: Policy) -> tuple[SubjectRequest, ...]:
    """The people whom a policy asks to be erased by name, in its order."""
    return tuple(
        SubjectRequest(subject.name, subject.aliases, subject.relations)
        for operation in policy.operations
        if isinstance(operation, Erase)
        for subject in operation.subjects or ()
    )


def _fact(stated: StatedFact, op: FactOp, relation: Relation, where: str) -> Fact:
    prompts = stated.prompts or Prompts()
    words = _own_wording(stated.subject, prompts, relation)
    if not words.edit:
        raise UsageError(
            f"{where}: its paraphrases are all that there is to say of its relation; "
            "give prompts.edit too, which an editor may see"
        )
    return Fact(
        op,
        stated.subject,
        stated.relation,
        stated.object,
        new_object=stated.new_object if isinstance(stated, ChangedFact) else None,
        aliases=stated.aliases,
        object_aliases=stated.object_aliases,
        edit_templates=words.edit,
        probe_templates=words.probe,
        neighbour_prompts=prompts.neighbours or (),
        about=relation.about,
    )


def _own_wording(subject: str, prompts: Prompts, relation: Relation) -> Wording:
    standard = wording(relation)
    if prompts.edit is None and prompts.paraphrases is None:
        return standard
    edit = tuple(to_template(prompt, subject) for prompt in prompts.edit or ())
    probe = tuple(to_template(prompt, subject) for prompt in prompts.paraphrases or ())
    if prompts.paraphrases is None:
        return Wording(edit, _distinct(standard.edit + standard.probe, edit))
    if prompts.edit is None:
        first = _distinct(standard.edit, probe)
        return Wording(first or _distinct(standard.probe, probe)[:1], probe)
    return Wording(edit, probe)


def _relation(name: str, catalogue: Catalogue, where: str) -> Relation:
    if name not in catalogue:
        raise UsageError(f"{where}: its relation is not in the catalogue")
    return catalogue[name]


def _distinct(phrasings: Iterable[str], taken: Iterable[str]) -> tuple[str, ...]:
    seen = {same(phrasing) for phrasing in taken}
    kept = []
    for phrasing in phrasings:
        if same(phrasing) not in seen:
            seen.add(same(phrasing))
            kept.append(phrasing)
    return tuple(kept)
