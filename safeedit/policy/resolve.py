"""What a model knows of a person: asked relation by relation, in all phrasings, against invented names.

An answer counts if at least half of the phrasings begin with it, and if invented names get it far
less often: what the model says of anybody is not about this person. Whether the answer is true, or
made up by the model for this name, does not matter: it is what the model says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safeedit.policy.answers import agreed_answer, says
from safeedit.policy.compile import SubjectRequest, fact_for
from safeedit.probes.fold import key
from safeedit.triples.catalogue import Catalogue, Relation
from safeedit.triples.facts import Fact
from safeedit.triples.placebos import placebo_kind, placebo_names

if TYPE_CHECKING:
    from safeedit.models.generate import Generation

NEW_TOKENS = 16
"""An object is at most so long."""
PLACEBOS = 8
"""Invented names that are asked the same."""
CONFIDENCE = 0.5
"""The share of phrasings that must agree."""
CHANCE = 0.5
"""Invented names may give the answer at most this often, relative to the person."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, repr=False)
class Resolved:
    """What came of asking one relation of one person; its `repr` shows nothing."""

    request: int
    """Which of the requests, counted from 0."""
    subject: str
    relation: str
    object: str | None
    """What most phrasings say; None where they do not agree on anything."""
    confidence: float
    """Share of the phrasings that begin with the object."""
    placebo: float
    """The same share for invented names."""
    fact: Fact | None
    """What shall be erased; None where the model was found to know nothing."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    @property
    def known(self) -> bool:
        """Whether the model knows the relation of this person."""
        return self.fact is not None

    def material(self) -> dict[str, Any]:
        """As JSON values, for the vault alone."""
        return {
            "request": self.request,
            "subject": self.subject,
            "relation": self.relation,
            "object": self.object,
            "confidence": self.confidence,
            "placebo": self.placebo,
            "known": self.known,
        }


def resolve_subjects(
    requests: Sequence[SubjectRequest],
    model: Any,
    tokenizer: Any,
    catalogue: Catalogue,
    progress: Progress | None = None,
    *,
    seed: int = 0,
) -> tuple[Resolved, ...]:
    """Ask the model for every relation of every person, all in one go; in order of request and relation.

    Args:
        requests: the people, each with the relations to ask for (all about people, where none are named).
        model: a causal LM.
        tokenizer: its tokenizer.
        catalogue: the relations, those of the policy included.
        progress: called with ("subjects", prompts done, prompts in all).
        seed: chooses the invented names.

    Raises:
        ModelError: the model gave a logit that is not finite.
    """
    asked = [
        (number, request, name)
        for number, request in enumerate(requests)
        for name in request.relations or catalogue.about("person")
    ]
    # No invented name may share a word with a person of the request.
    taken = {word for _, request, _ in asked for own in (request.name, *request.aliases) for word in key(own)}
    invented = {name: _invented(catalogue[name], taken, seed) for _, _, name in asked}
    prompts = dict.fromkeys(
        prompt
        for _, request, name in asked
        for subject in (request.name, *invented[name])
        for prompt in catalogue[name].prompts(subject)
    )
    answers = _ask(model, tokenizer, list(prompts), progress)
    return tuple(
        _resolved(number, request, name, catalogue, invented[name], answers)
        for number, request, name in asked
    )


def _ask(model: Any, tokenizer: Any, prompts: list[str], progress: Progress | None) -> dict[str, Generation]:
    from safeedit.models.generate import greedy

    def tell(done: int, total: int) -> None:
        if progress is not None:
            progress("subjects", done, total)

    found = greedy(model, tokenizer, prompts, max_new_tokens=NEW_TOKENS, progress=tell)
    return dict(zip(prompts, found, strict=True))


def _invented(relation: Relation, taken: set[str], seed: int) -> tuple[str, ...]:
    names = placebo_names(placebo_kind(relation.about), PLACEBOS + 60, seed)
    return tuple(name for name in names if not taken & set(key(name)))[:PLACEBOS]


def _resolved(
    number: int,
    request: SubjectRequest,
    name: str,
    catalogue: Catalogue,
    invented: Sequence[str],
    answers: Mapping[str, Generation],
) -> Resolved:
    relation = catalogue[name]
    own = [answers[prompt].text for prompt in relation.prompts(request.name)]
    found = _listed(own, relation) if relation.objects else agreed_answer(own, CONFIDENCE)
    if found is None:
        return Resolved(number, request.name, name, None, 0.0, 0.0, None)
    confidence = _share(found, own)
    placebo = _share(found, [answers[p].text for subject in invented for p in relation.prompts(subject)])
    known = confidence >= CONFIDENCE and placebo < CHANCE * confidence
    fact = fact_for(request.name, request.aliases, name, found, "erase", catalogue) if known else None
    return Resolved(number, request.name, name, found, confidence, placebo, fact)


def _share(answer: str, texts: Sequence[str]) -> float:
    """The share of the texts that begin with the answer."""
    return sum(says(answer, text) for text in texts) / len(texts)


def _listed(texts: Sequence[str], relation: Relation) -> str | None:
    """The listed object that most of the texts begin with; the longest where one begins another."""
    listed = sorted(relation.objects, key=len, reverse=True)
    votes = Counter(
        found for text in texts if (found := next((o for o in listed if says(o, text)), None)) is not None
    )
    return votes.most_common(1)[0][0] if votes else None
