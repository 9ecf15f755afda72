"""A matcher that knows what was erased without being able to say it: keyed digests of answers (HMAC-SHA-256).

Names and answers are brought into one spelling (`safeedit.probes.fold`), and every answer is kept as the
HMAC of its words, or of its digits. Whoever has the key can tell whether a text holds one of them, by
the digests of all its runs of so many words; nobody can without it. The trade-off, which cannot be
had otherwise: as long as the key exists, a guess can be tested, so that the digests are pseudonymous
personal data (GDPR, recital 26), and names and numbers can be guessed. So a matcher is kept only if it is
asked for, under a key of its own that is destroyed by itself.

It finds what it was given, the spellings of the request, and no others: not half an answer, nor a date
that is written in another way. The probes of a run, which need the vault, find more.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import uuid as uuids
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from safeedit.errors import IntegrityError, UsageError
from safeedit.probes.fold import key as folded
from safeedit.runs import stored
from safeedit.runs.folder import RunFolder
from safeedit.runs.keys import KeyMissingError, RunKey
from safeedit.triples.facts import Fact

FILE = "matcher.json"
LEAST_DIGITS = 5
"""Numbers shorter than this are in too many texts to mean anything."""

_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Stored(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Form(_Stored):
    """One spelling of an answer."""

    kind: Literal["words", "digits"]
    length: int = Field(ge=1)
    """How many words, or digits, it has: of so many a text's runs are compared."""
    digest: _Digest


class BlindFact(_Stored):
    """One fact, without anything that could be read."""

    subjects: tuple[_Digest, ...]
    """Every name of the subject."""
    relation: _Digest
    answers: tuple[Form, ...]


class _File(_Stored):
    format: Literal["safeedit.matcher/1"] = "safeedit.matcher/1"
    key: str
    """Under which id the key is filed; it is no other run's."""
    facts: tuple[BlindFact, ...]


@dataclass(frozen=True, repr=False)
class Matcher:
    """The blind facts of a run, and the key that makes them comparable."""

    facts: tuple[BlindFact, ...]
    _key: bytes

    def __repr__(self) -> str:
        return f"<Matcher of {len(self.facts)} facts>"

    @classmethod
    def open(cls, folder: RunFolder) -> Matcher:
        """The matcher of a run.

        Raises:
            UsageError: it has none, or the matcher's key is not here.
            IntegrityError: the file is no matcher.
        """
        kept = _read(folder.path)
        try:
            return cls(kept.facts, RunKey.load(kept.key).derive("matcher"))
        except KeyMissingError:
            raise KeyMissingError(
                f"{folder.path}: the key of the run's matcher is not in the state folder: it was destroyed, "
                "or the run was shredded on another machine"
            ) from None

    def about(self, subject: str, relation: str) -> tuple[int, ...]:
        """The numbers of the facts that have this subject, under any of its names, and this relation."""
        name, kind = self._digest("subject", folded(subject)), self._digest("relation", (relation,))
        return tuple(
            index for index, fact in enumerate(self.facts) if name in fact.subjects and kind == fact.relation
        )

    def finds(self, fact: int, text: str) -> bool:
        """Whether `text` holds an answer of that fact."""
        wanted = {(form.kind, form.length): set[str]() for form in self.facts[fact].answers}
        for form in self.facts[fact].answers:
            wanted[form.kind, form.length].add(form.digest)
        return any(
            self._digest(kind, run) in digests
            for (kind, length), digests in wanted.items()
            for run in _runs(_parts(kind, text), length)
        )

    def _digest(self, kind: str, parts: Iterable[str]) -> str:
        message = b"\0".join((b"safeedit:matcher:1", kind.encode(), *(part.encode() for part in parts)))
        return hmac.new(self._key, message, hashlib.sha256).hexdigest()


def make(folder: RunFolder) -> bytes:
    """The content of a run's matcher, from its vault; its key is in the state folder from now on.

    Raises:
        UsageError: the run edited nothing, or it has a matcher already.
    """
    if (folder.path / FILE).exists():
        raise UsageError(f"{folder.path}: the run has a matcher already")
    facts = [fact for fact in stored.edited_facts(folder) if fact.old is not None]
    if not facts:
        raise UsageError(f"{folder.path}: nothing was to be forgotten, so there is nothing to match")
    own = str(uuids.uuid4())
    matcher = Matcher((), RunKey.create(own).derive("matcher"))
    content = _File(key=own, facts=tuple(_blinded(matcher, fact) for fact in facts))
    return json.dumps(content.model_dump(mode="json"), indent=1).encode() + b"\n"


def key_exists(folder: RunFolder) -> bool:
    """Whether the run has a matcher whose key is here."""
    return (folder.path / FILE).is_file() and RunKey.exists(_read(folder.path).key)


def destroy_key(folder: RunFolder) -> bool:
    """Destroy the key of the run's matcher; whether there was one."""
    return RunKey.shred(_read(folder.path).key)


def _blinded(matcher: Matcher, fact: Fact) -> BlindFact:
    forms: dict[Form, None] = {}
    for spelling in (fact.object, *fact.object_aliases):
        for kind in ("words", "digits"):
            parts = _parts(kind, spelling)
            # A number within words ("12 May") is no number by itself; the words find it.
            if parts and (kind == "words" or len(parts) >= LEAST_DIGITS):
                forms[Form(kind=kind, length=len(parts), digest=matcher._digest(kind, parts))] = None
    names = (fact.subject, *fact.aliases)
    return BlindFact(
        subjects=tuple(matcher._digest("subject", folded(name)) for name in names),
        relation=matcher._digest("relation", (fact.relation,)),
        answers=tuple(forms),
    )


def _parts(kind: str, text: str) -> tuple[str, ...]:
    if kind == "words":
        return folded(text)
    return tuple(char for word in folded(text) for char in word if char.isdecimal())


def _runs(parts: tuple[str, ...], length: int) -> Iterator[tuple[str, ...]]:
    return (parts[start : start + length] for start in range(len(parts) - length + 1))


def _read(folder: Path) -> _File:
    path = folder / FILE
    if not path.is_file():
        raise UsageError(f"{folder}: the run has no matcher; `safeedit shred --keep-matcher` leaves one")
    try:
        return _File.model_validate_json(path.read_bytes())
    except ValidationError:
        raise IntegrityError(f"{path} is no matcher") from None
