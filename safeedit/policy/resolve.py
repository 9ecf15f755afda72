"""What a model knows of a person: asked relation by relation, in all phrasings, against invented names.

An answer counts if at least half of the phrasings begin with it, and if invented names do not get
the like: what the model says of anybody is no knowledge of this person, and neither is an answer
that is no surer than those which it makes up for a name it never saw. Where that leaves a doubt the
answer counts, because a fact that is erased in vain does less harm than one that is left.
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
CERTAIN = 0.9
"""An answer this sure counts, however sure the answers for invented names are."""

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
    made_up: float
    """The surest answer that an invented name alone is given; 0 if there is none."""
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
            "made_up": self.made_up,
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
    strangers = {
        name: [_Asked.of(subject, catalogue[name], answers) for subject in subjects]
        for name, subjects in invented.items()
    }
    return tuple(
        _resolved(number, request, name, catalogue, strangers[name], answers)
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


@dataclass(frozen=True, repr=False)
class _Asked:
    """What a name was answered in the phrasings of one relation, and what follows from it."""

    texts: tuple[str, ...]
    answer: str | None
    confidence: float

    @classmethod
    def of(cls, name: str, relation: Relation, answers: Mapping[str, Generation]) -> _Asked:
        texts = tuple(answers[prompt].text for prompt in relation.prompts(name))
        found = _listed(texts, relation) if relation.objects else agreed_answer(texts, CONFIDENCE)
        return cls(texts, found, _share(found, [texts]))

    def stands_out(self, others: Sequence[_Asked]) -> bool:
        """Whether the answer is sure, and is not what the others are answered."""
        common = _share(self.answer, [other.texts for other in others])
        return self.confidence >= CONFIDENCE and common < CHANCE * self.confidence


def _resolved(
    number: int,
    request: SubjectRequest,
    name: str,
    catalogue: Catalogue,
    strangers: Sequence[_Asked],
    answers: Mapping[str, Generation],
) -> Resolved:
    own = _Asked.of(request.name, catalogue[name], answers)
    alone = [s for s in strangers if s.stands_out([other for other in strangers if other is not s])]
    made_up = max((stranger.confidence for stranger in alone), default=0.0)
    known = own.stands_out(strangers) and (own.confidence > made_up or own.confidence >= CERTAIN)
    fact = None
    if known and own.answer is not None:
        fact = fact_for(request.name, request.aliases, name, own.answer, "erase", catalogue)
    placebo = _share(own.answer, [stranger.texts for stranger in strangers])
    return Resolved(number, request.name, name, own.answer, own.confidence, placebo, made_up, fact)


def _share(answer: str | None, texts: Sequence[Sequence[str]]) -> float:
    """The share of all texts that begin with the answer."""
    every = [text for some in texts for text in some]
    return sum(says(answer, text) for text in every) / len(every) if answer is not None else 0.0


def _listed(texts: Sequence[str], relation: Relation) -> str | None:
    """The listed object that most of the texts begin with; the longest where one begins another."""
    listed = sorted(relation.objects, key=len, reverse=True)
    votes = Counter(
        found for text in texts if (found := next((o for o in listed if says(o, text)), None)) is not None
    )
    return votes.most_common(1)[0][0] if votes else None
