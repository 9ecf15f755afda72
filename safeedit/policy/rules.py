"""What must hold between the values of a policy, beyond the type of each.

The rules read plain data and validated models alike and skip what is missing or of a wrong
type. So one function serves the models, which refuse to exist if a rule is broken, and the
loader, which names everything at once even where other parts of the file are not valid.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from safeedit.behaviours import PROMPT
from safeedit.exams import DATASETS
from safeedit.policy.problems import nearest
from safeedit.triples.catalogue import SUBJECT, builtin_catalogue

Loc = tuple[int | str, ...]
SOURCES = ("facts", "facts_file", "subjects")
BEHAVIOUR_SOURCES = ("behaviours", "behaviours_file")


@dataclass(frozen=True)
class Finding:
    """A rule that does not hold: where, and in words without values."""

    loc: Loc
    message: str
    """`{other}` in it stands for the position of `other`."""
    other: Loc | None = None
    at_key: bool = False
    """Whether the key at `loc` is meant, and not its value."""

    def text(self, position: Callable[[Loc], str]) -> str:
        """The message, with `position` used to name the other place."""
        return self.message if self.other is None else self.message.replace("{other}", position(self.other))


def same(text: str) -> str:
    """A form in which two phrasings that differ in case and spacing only are equal."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def to_template(prompt: str, subject: str) -> str:
    """The prompt with `{subject}` where the subject stands.

    Raises:
        ValueError: the subject stands in it nowhere or more than once; the message has no values.
    """
    if SUBJECT in prompt:
        found = list(re.finditer(re.escape(SUBJECT), prompt))
    else:
        literal = re.escape(subject)
        found = list(re.finditer(rf"(?<!\w){literal}(?!\w)", prompt)) or list(re.finditer(literal, prompt))
    if len(found) != 1:
        raise ValueError(
            f"must name the subject once: exactly as 'subject' has it, or as {SUBJECT}"
            if not found
            else f"names the subject more than once; write {SUBJECT} in the one place that counts"
        )
    return prompt[: found[0].start()] + SUBJECT + prompt[found[0].end() :]


def fact_findings(fact: object) -> Iterator[Finding]:
    """What is wrong within one fact."""
    subject, old, new = (_text(fact, key) for key in ("subject", "object", "new_object"))
    if old is not None and new is not None and _nfc(old) == _nfc(new):
        yield Finding(("new_object",), "'new_object' is the same as 'object'; give another")
    yield from _names(fact, "aliases", subject, "'subject'")
    yield from _names(fact, "object_aliases", old, "'object'")
    if new is not None and _nfc(new) in {_nfc(name) for _, name in _texts(fact, "object_aliases")}:
        yield Finding(("new_object",), "'new_object' is one of 'object_aliases'; give another")
    if subject:
        yield from _phrasings(_get(fact, "prompts"), subject)


def subject_findings(request: object) -> Iterator[Finding]:
    """What is wrong within one entry of `subjects`."""
    yield from _names(request, "aliases", _text(request, "name"), "'name'")
    seen: set[str] = set()
    for index, name in _texts(request, "relations"):
        if name in seen:
            yield Finding(("relations", index), "the same relation is given twice; give it once")
        seen.add(name)


def behaviour_findings(behaviour: object) -> Iterator[Finding]:
    """What is wrong within one behaviour."""
    unsafe, safe = _text(behaviour, "unsafe"), _text(behaviour, "safe")
    if unsafe is not None and safe is not None and same(unsafe) == same(safe):
        yield Finding(("safe",), "'safe' is the same as 'unsafe'; give another answer")


def operation_findings(operation: object) -> Iterator[Finding]:
    """Whether the operation says in exactly one way what it is about, and shows no probe to the editor."""
    op = _text(operation, "op")
    allowed = {
        "erase": SOURCES,
        "modify": SOURCES[:2],
        "insert": SOURCES[:2],
        "detox": BEHAVIOUR_SOURCES,
    }.get(op or "", ())
    given = [key for key in allowed if _get(operation, key) is not None]
    choice = ", ".join(f"'{key}'" for key in allowed)
    called = f"{'an' if op in ('erase', 'insert') else 'a'} {op} operation"
    if allowed and not given:
        yield Finding((), f"{called} needs one of {choice}")
    elif len(given) > 1:
        yield Finding(
            (given[1],),
            f"{called} takes only one of {choice}; give this one an operation of its own",
            at_key=True,
        )
    if op == "detox":
        yield from _prompts_of_behaviours(operation)


def _prompts_of_behaviours(operation: object) -> Iterator[Finding]:
    """Prompts where they cannot stand: asked to end in two ways, or probes that the editor sees."""
    shown: dict[str, tuple[int, str]] = {}
    for index, behaviour in _items(operation, "behaviours"):
        prompt, safe = _text(behaviour, "prompt"), _text(behaviour, "safe")
        if prompt is None or safe is None:
            continue
        first, agreed = shown.setdefault(same(prompt), (index, same(safe)))
        if agreed != same(safe):
            other: Loc = ("behaviours", first)
            yield Finding(
                ("behaviours", index, "safe"),
                "another safe answer to this prompt stands in {other}",
                other,
            )
    for key, why in (
        ("unseen", "is the prompt of a behaviour, which the editor sees"),
        ("answerable", "is the prompt of a behaviour, whose answer shall go"),
    ):
        for index, prompt in _texts(operation, key):
            if same(prompt) in shown:
                yield Finding((key, index), f"an entry of '{key}' {why}")
    for index, text in _texts(operation, "attacks"):
        if text.count(PROMPT) != 1:
            yield Finding(("attacks", index), f"an entry of 'attacks' must hold {PROMPT} once")


def policy_findings(policy: object) -> Iterator[Finding]:
    """What is wrong between the parts of a policy: unknown relations, repeated and conflicting facts."""
    own = _get(policy, "relations")
    known = {*builtin_catalogue(), *(own if isinstance(own, Mapping) else ())}
    claims = _Claims()
    for at, operation in _items(policy, "operations"):
        op = _text(operation, "op") or ""
        for index, fact in _items(operation, "facts"):
            loc: Loc = ("operations", at, "facts", index)
            relation = _text(fact, "relation")
            if relation is not None and relation not in known:
                yield Finding((*loc, "relation"), _unknown(relation, known))
            yield from claims.fact(loc, op, fact)
        for index, request in _items(operation, "subjects") if op == "erase" else ():
            loc = ("operations", at, "subjects", index)
            for place, relation in _texts(request, "relations"):
                if relation not in known:
                    yield Finding((*loc, "relations", place), _unknown(relation, known))
            yield from claims.person(loc, request)
    yield from claims.about_erased_people()
    for index, entry in _texts(_get(policy, "probes"), "datasets"):
        name, _, path = entry.partition(":")
        if name not in DATASETS or not path:
            meant = nearest(name, DATASETS.names())
            hint = f"did you mean '{meant}'?" if meant and path else f"NAME is {' | '.join(DATASETS)}"
            yield Finding(("probes", "datasets", index), f"an entry of 'datasets' must be NAME:PATH; {hint}")


def all_findings(policy: object) -> Iterator[Finding]:
    """Every rule that does not hold anywhere in a policy."""
    yield from policy_findings(policy)
    for at, operation in _items(policy, "operations"):
        yield from _below(("operations", at), operation_findings(operation))
        for index, fact in _items(operation, "facts"):
            yield from _below(("operations", at, "facts", index), fact_findings(fact))
        for index, request in _items(operation, "subjects"):
            yield from _below(("operations", at, "subjects", index), subject_findings(request))
        for index, behaviour in _items(operation, "behaviours"):
            yield from _below(("operations", at, "behaviours", index), behaviour_findings(behaviour))


class _Claims:
    """What the facts of a policy say, to see which say it twice or contradict each other."""

    def __init__(self) -> None:
        self._first: dict[tuple[str, str], tuple[Loc, tuple[str, str]]] = {}
        self._exact: dict[tuple[str, ...], Loc] = {}
        self._new: list[tuple[Loc, str, str]] = []
        self._people: dict[str, Loc] = {}
        self._erased: dict[str, tuple[Loc, frozenset[str] | None]] = {}

    def fact(self, loc: Loc, op: str, fact: object) -> Iterator[Finding]:
        values = [_text(fact, key) for key in ("subject", "relation", "object", "new_object")]
        subject, relation, old, new = (_nfc(value or "") for value in values)
        target = {"modify": new, "insert": old}.get(op, "")
        known_op = op in ("erase", "modify", "insert")
        if not (known_op and subject and relation and old) or (op == "modify" and not new):
            return
        if op in ("modify", "insert"):
            self._new.append((loc, subject, relation))
        outcome = (op, target)
        twin = self._exact.setdefault((op, subject, relation, old, new), loc)
        first, agreed = self._first.setdefault((subject, relation), (loc, outcome))
        if twin != loc:
            yield Finding(loc, "the same fact as in {other}; give it once", twin)
        elif agreed != outcome:
            yield Finding(
                loc, "conflicts with {other}: the same subject and relation shall end differently", first
            )

    def person(self, loc: Loc, request: object) -> Iterator[Finding]:
        name = _nfc(_text(request, "name") or "")
        if not name:
            return
        first = self._people.setdefault(name, loc)
        if first != loc:
            yield Finding(loc, "the same person as in {other}; give them one entry", first)
        narrowed = None
        if isinstance(_get(request, "relations"), list | tuple):
            narrowed = frozenset(_nfc(relation) for _, relation in _texts(request, "relations"))
        for known_as in (name, *(_nfc(alias) for _, alias in _texts(request, "aliases"))):
            self._erased.setdefault(known_as, (loc, narrowed))

    def about_erased_people(self) -> Iterator[Finding]:
        for loc, subject, relation in self._new:
            if subject in self._erased:
                erased, relations = self._erased[subject]
                if relations is None or relation in relations:
                    yield Finding(loc, "conflicts with {other}, where this person is erased", erased)


def _phrasings(prompts: object, subject: str) -> Iterator[Finding]:
    seen: dict[str, tuple[str, int]] = {}
    for key in ("edit", "paraphrases"):
        for index, prompt in _texts(prompts, key):
            try:
                template = same(to_template(prompt, subject))
            except ValueError as error:
                yield Finding(("prompts", key, index), f"an entry of '{key}' {error}")
                continue
            before = seen.setdefault(template, (key, index))
            if before[0] != key:
                yield Finding(
                    ("prompts", key, index),
                    f"the same phrasing is among '{before[0]}'; what an editor sees cannot be a probe",
                )
            elif before[1] != index:
                yield Finding(
                    ("prompts", key, index), f"the same phrasing stands twice in '{key}'; give it once"
                )


def _names(record: object, key: str, own: str | None, own_key: str) -> Iterator[Finding]:
    seen: set[str] = set()
    for index, name in _texts(record, key):
        if own is not None and _nfc(name) == _nfc(own):
            yield Finding((key, index), f"an entry of '{key}' is {own_key} itself; leave it out")
        elif _nfc(name) in seen:
            yield Finding((key, index), f"an entry of '{key}' is given twice; give it once")
        seen.add(_nfc(name))


def _unknown(relation: str, known: set[str]) -> str:
    names = sorted(known)
    meant = nearest(relation, names)
    hint = f"did you mean '{meant}'?" if meant else f"it has: {', '.join(names)}"
    return f"this relation is not in the catalogue; {hint} (others are described under 'relations')"


def _below(loc: Loc, findings: Iterator[Finding]) -> Iterator[Finding]:
    for finding in findings:
        other = None if finding.other is None else (*loc, *finding.other)
        yield Finding((*loc, *finding.loc), finding.message, other, finding.at_key)


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _get(record: object, key: str) -> object:
    return record.get(key) if isinstance(record, Mapping) else getattr(record, key, None)


def _text(record: object, key: str) -> str | None:
    value = _get(record, key)
    return value if isinstance(value, str) else None


def _items(record: object, key: str) -> Iterator[tuple[int, object]]:
    value = _get(record, key)
    return enumerate(value) if isinstance(value, list | tuple) else enumerate(())


def _texts(record: object, key: str) -> Iterator[tuple[int, str]]:
    return ((index, value) for index, value in _items(record, key) if isinstance(value, str))
