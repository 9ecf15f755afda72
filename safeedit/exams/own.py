"""What a request brings of its own: facts and prose that must survive, more prompts, public data sets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safeedit.errors import UsageError
from safeedit.exams import DATASETS
from safeedit.exams.files import Row
from safeedit.exams.records import Record, Text, Texts, records
from safeedit.exams.sources import beside, open_source
from safeedit.policy.problems import Place, Problems
from safeedit.policy.rules import same, to_template
from safeedit.probes.controls import ControlFact
from safeedit.toxicity import beside as scorer_beside
from safeedit.triples.catalogue import SUBJECT
from safeedit.triples.facts import Fact

if TYPE_CHECKING:
    from safeedit.policy import Policy
    from safeedit.probes.suite import Suite


class _FactRow(Record):
    subject: Text
    relation: Text
    object: Text
    aliases: Texts = ()


class _TextRow(Record):
    text: Text


class _PromptRow(Record):
    prompt: Text
    relation: Text | None = None
    subject: Text | None = None


@dataclass(frozen=True, repr=False)
class Phrasing:
    """One more way to ask for a fact, for probes alone."""

    prompt: str
    relation: str | None
    """The facts that it asks for: of this relation, ..."""
    subject: str | None
    """... or of this subject, or both; neither means every fact."""
    place: Place


@dataclass(frozen=True, repr=False)
class OwnData:
    """Where a request's own data lies, every path whole: what is stored, to find it again."""

    controls: str | None = None
    retained: str | None = None
    prompts: str | None = None
    datasets: tuple[str, ...] = ()
    """Each ``NAME:PATH``."""
    scorers: tuple[str, ...] = ()
    """By what toxicity is judged, in place of what the suite says: the scorer, and a second one."""

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "controls": self.controls,
            "retained": self.retained,
            "prompts": self.prompts,
            "datasets": list(self.datasets),
            **({"scorers": list(self.scorers)} if self.scorers else {}),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any] | None) -> OwnData:
        """From what `to_json` gave; nothing, where a run has none."""
        given = dict(values or {})
        lists = {name: tuple(given.get(name, ())) for name in ("datasets", "scorers")}
        return cls(**{**given, **lists})


@dataclass(frozen=True, repr=False)
class Material:
    """What was read of it."""

    facts: tuple[ControlFact, ...] = ()
    texts: tuple[str, ...] = ()
    prompts: tuple[Phrasing, ...] = ()


def own_data(policy: Policy, folder: Path, datasets: Iterable[str] = ()) -> OwnData:
    """Where a policy's own data lies, and the data sets that the caller adds.

    Args:
        policy: its `probes` may name files, folders and hub ids, relative to it.
        folder: the policy's.
        datasets: ``NAME:PATH``, paths relative to where the caller stands.

    Raises:
        UsageError: an entry is not NAME:PATH, or no data set has that name.
    """
    choice = policy.probes
    found = (*placed(choice.datasets or (), folder), *placed(datasets))

    controls, retained, prompts = (
        path and beside(path, folder) for path in (choice.controls, choice.retained, choice.prompts)
    )
    scorers = tuple(scorer_beside(spec, folder) for spec in choice.scorers or ())
    return OwnData(controls, retained, prompts, tuple(dict.fromkeys(found)), scorers)


def placed(datasets: Iterable[str], folder: Path = Path()) -> tuple[str, ...]:
    """The same data sets, with whole paths for what lies in or below a folder.

    Raises:
        UsageError: an entry is not NAME:PATH, or no data set has that name.
    """
    return tuple(
        f"{name}:{beside(path, folder) if DATASETS.get(name).local else path}"
        for name, path in map(named, datasets)
    )


def named(entry: str) -> tuple[str, str]:
    """Name and path of ``NAME:PATH``.

    Raises:
        UsageError: it is not of that form, or no data set has that name.
    """
    name, colon, path = entry.partition(":")
    if not (name and colon and path):
        raise UsageError(
            f"a data set is given as NAME:PATH, for example counterfact:counterfact.json; NAME is one of: "
            f"{', '.join(DATASETS.names())}"
        )
    DATASETS.get(name)
    return name, path


def with_own_data(suite: Suite, own: OwnData) -> Suite:
    """The suite with what a request brings, read and checked; what the suite names gives way to it.

    Raises:
        PolicyError: a file holds what does not belong there, with its lines.
        UsageError: there is no such file.
    """
    material = Material(_facts(own.controls), _texts(own.retained), _prompts(own.prompts))
    paths: dict[str, list[str]] = {}
    for entry in own.datasets:
        name, path = named(entry)
        paths.setdefault(name, []).append(path)
    for name, given in paths.items():
        suite = _with_dataset(suite, name, given)
    if own.scorers:
        suite = _with_scorers(suite, own.scorers)
    for entry_of in suite.entries:
        _read_now(entry_of.probe)
    return replace(suite, own=material)


def _with_dataset(suite: Suite, name: str, paths: Sequence[str]) -> Suite:
    from safeedit.probes.suite import Entry

    kind = DATASETS.get(name)
    there = next((entry for entry in suite.entries if entry.probe.id == kind.id), None)
    options = {} if there is None else there.probe.options.model_dump(mode="json")
    probe = kind({**options, "paths": [*options.get("paths", ()), *paths]})
    entry = Entry(probe, False, ()) if there is None else replace(there, probe=probe)
    kept = tuple(entry if one is there else one for one in suite.entries)
    listed = [*suite.document["probes"]]
    if there is None:
        kept = (*kept, entry)
        # Where the data lay is not hashed: what is in it is, with the plan.
        listed.append({"id": probe.id, "required": False, "options": dict(probe.settings()), "gates": []})
    return replace(suite, entries=kept, document={**suite.document, "probes": listed})


def _with_scorers(suite: Suite, specs: Sequence[str]) -> Suite:
    """The suite with these scorers in every probe that takes one.

    Raises:
        UsageError: there is no such scorer, or it cannot be loaded.
    """
    from safeedit.toxicity import scorer

    for spec in specs:
        scorer(spec)
    given = dict(zip(("scorer", "second"), (*specs, None), strict=False))

    def judged_by(probe: Any) -> Any:
        known = {name: value for name, value in given.items() if name in type(probe.options).model_fields}
        return type(probe)({**probe.options.model_dump(mode="json"), **known}) if known else probe

    entries = tuple(replace(entry, probe=judged_by(entry.probe)) for entry in suite.entries)
    return replace(suite, entries=entries)


def _read_now(probe: object) -> None:
    """Data are read before anything is loaded or written, so that a bad file costs nothing."""
    from safeedit.exams.exam import Exam

    if isinstance(probe, Exam):
        probe.read()


def with_prompts(facts: Sequence[Fact], prompts: Sequence[Phrasing]) -> tuple[Fact, ...]:
    """The facts, each with the phrasings that ask for it; the editor has got its facts without them.

    A file may hold phrasings for many requests: those that fit no fact of this one are let be.

    Raises:
        PolicyError: a phrasing names its subject twice, or is one that the editor sees; or none fits.
    """
    problems, added = Problems(), dict[int, list[str]]()
    for one in prompts:
        for index in (index for index, fact in enumerate(facts) if _fits(one, fact)):
            fact = facts[index]
            try:
                template = to_template(one.prompt.strip(), fact.subject)
            except ValueError as error:
                problems.add(one.place, f"'prompt' {error}")
                continue
            if same(template) in map(same, fact.edit_templates):
                problems.add(one.place, "an editor sees this phrasing, so it cannot be a probe")
            added.setdefault(index, []).append(template)
    problems.raise_if_any()
    if prompts and not added:
        problems.stop(prompts[0].place, "none of these phrasings asks for a fact of the request")
    return tuple(
        replace(fact, probe_templates=tuple(dict.fromkeys((*fact.probe_templates, *added.get(index, ())))))
        for index, fact in enumerate(facts)
    )


def _fits(phrasing: Phrasing, fact: Fact) -> bool:
    of_subject = phrasing.subject is None or same(phrasing.subject) in map(
        same, (fact.subject, *fact.aliases)
    )
    named = SUBJECT in phrasing.prompt or fact.subject in phrasing.prompt
    return of_subject and named and phrasing.relation in (None, fact.relation)


def _rows(given: str) -> tuple[str, list[Row]]:
    source = open_source(given)
    return source.name, [row for part in source.parts for row in source.rows(part)]


def _facts(given: str | None) -> tuple[ControlFact, ...]:
    if given is None:
        return ()
    name, rows = _rows(given)
    found, places = records(rows, _FactRow, name, '{"subject": …, "relation": …, "object": …}')
    return tuple(
        ControlFact(row.subject, row.relation, row.object, row.aliases, place)
        for row, place in zip(found, places, strict=True)
    )


def _texts(given: str | None) -> tuple[str, ...]:
    if given is None:
        return ()
    name, rows = _rows(given)
    return tuple(row.text for row in records(rows, _TextRow, name, '{"text": …}')[0])


def _prompts(given: str | None) -> tuple[Phrasing, ...]:
    if given is None:
        return ()
    name, rows = _rows(given)
    shape = '{"prompt": "… {subject} …", "relation": …}'
    found, places = records(rows, _PromptRow, name, shape)
    return tuple(Phrasing(r.prompt, r.relation, r.subject, p) for r, p in zip(found, places, strict=True))
