"""Which probes are run, with which settings and gates: suites as YAML, read with positions in every error."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from safeedit.errors import UsageError
from safeedit.exams import DATASETS, PREFIX
from safeedit.exams.own import Material
from safeedit.policy.files import read_bounded, shown_path
from safeedit.policy.positions import Positions, note, validated
from safeedit.policy.problems import Place, Problems, one_of
from safeedit.policy.rules import Loc
from safeedit.policy.scalars import plain_data
from safeedit.policy.tree import read_tree
from safeedit.policy.words import findings_of
from safeedit.probes import PROBES
from safeedit.probes.base import Probe
from safeedit.probes.gates import Gate

MAX_BYTES = 2**20

_PATTERNS = {"name": "1 to 64 letters, digits, '.', '_' or '-'", "when": "such as n<149"}


class Baseline(BaseModel):
    """How it is found out what the base model knows of the facts that no leak probe asks about."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    templates: int = Field(default=20, ge=1)
    """Phrasings for each name of each fact, at most."""
    budget: int = Field(default=8000, ge=1)
    """Prompts in all, at most; every name of every fact keeps at least two."""
    tokens: int = Field(default=64, ge=1, le=4096)
    """New tokens for each prompt, at most."""


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    id: str
    required: bool = True
    options: dict[str, Any] = Field(default_factory=dict)
    gates: list[Gate] = Field(default_factory=list)


class _Broken(_Entry):
    """An entry of which only `id` and `options` could be read."""


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    note: str = ""
    evidence: bool = True
    controls: Annotated[str, Field(min_length=1)] | None = None
    retained: Annotated[str, Field(min_length=1)] | None = None
    baseline: Baseline = Baseline()
    probes: Annotated[list[_Entry], Field(min_length=1)]


@dataclass(frozen=True)
class Entry:
    """One probe of a suite, ready to be run."""

    probe: Probe[Any, Any]
    required: bool
    gates: tuple[Gate, ...]


@dataclass(frozen=True)
class Suite:
    """A suite, checked."""

    name: str
    note: str
    """What a reader of the figures should know of the suite."""
    evidence: bool
    """Whether a grade may rest on it; False for a suite that only smokes out what is broken."""
    entries: tuple[Entry, ...]
    baseline: Baseline
    controls: Path | None
    """Controls of the suite's own."""
    retained: Path | None
    document: Mapping[str, Any]
    """The suite as JSON values, defaults filled in, for a commitment."""
    own: Material = field(default_factory=Material)
    """What a request brings of its own; it comes before what the suite and the model bring."""


def suite_names() -> tuple[str, ...]:
    """The suites that ship with safeedit."""
    folder = files("safeedit_probes") / "suites"
    return tuple(sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml")))


@cache
def standard() -> Mapping[str, Entry]:
    """The probes of the suite `standard`, by id: what a grade means, whichever suite was run."""
    return {entry.probe.id: entry for entry in load_suite("standard").entries}


def asks_no_less(probe: Probe[Any, Any], than: Probe[Any, Any]) -> bool:
    """Whether a probe's settings ask at least as much as another's: no number smaller, nothing left out."""
    mine = probe.options.model_dump()
    for option, value in than.options.model_dump().items():
        if isinstance(value, int | float):
            enough = mine[option] >= value
        else:
            enough = mine[option] == value or set(mine[option]) >= set(value)
        if not enough:
            return False
    return True


def load_suite(name_or_path: str | os.PathLike[str]) -> Suite:
    """The suite of that name, or in that file.

    Raises:
        PolicyError: the file is not a valid suite; everything that is wrong, with positions.
        UsageError: there is neither a suite of that name nor such a file.
    """
    given = os.fspath(name_or_path)
    if given in suite_names():
        with as_file(files("safeedit_probes") / "suites" / f"{given}.yaml") as path:
            return _read(path, ours=True)
    path = Path(given)
    if not path.suffix and not path.exists():
        raise UsageError(f"the suite {one_of(given, suite_names())}; or give a file (.yaml)")
    return _read(path)


def _read(path: Path, *, ours: bool = False) -> Suite:
    file, problems = shown_path(path), Problems()
    root = read_tree(read_bounded(path, MAX_BYTES, problems), file, problems)
    problems.raise_if_any()
    if root is None:
        problems.stop(Place(file, 1, 1), "the file is empty; a suite needs 'name' and 'probes'")
    positions = Positions(file, root)
    data = plain_data(root)
    document, errors = validated(_Document, data)
    if not ours and document is not None and document.name in suite_names():
        told = "this is the name of a suite that ships with safeedit; give yours another"
        problems.add(positions.value(("name",)), told)
    note(findings_of(errors, data, _Document, whole="a suite", patterns=_PATTERNS), positions, problems)
    probes = dict(enumerate(document.probes)) if document is not None else _readable(data)
    entries = _entries(probes, path.parent, positions, problems)
    problems.raise_if_any()
    assert document is not None
    return Suite(
        name=document.name,
        note=document.note.strip(),
        evidence=document.evidence,
        entries=entries,
        baseline=document.baseline,
        controls=path.parent / document.controls if document.controls else None,
        retained=path.parent / document.retained if document.retained else None,
        document={
            **document.model_dump(mode="json", exclude={"controls", "retained"}),
            "probes": [
                {
                    "id": entry.probe.id,
                    "required": entry.required,
                    "options": dict(entry.probe.settings()),
                    "gates": [gate.model_dump(mode="json") for gate in entry.gates],
                }
                for entry in entries
            ],
        },
    )


def _readable(data: object) -> dict[int, _Entry]:
    """The entries of a suite that is wrong somewhere, by index; of one that is wrong, what there is."""
    listed = data.get("probes") if isinstance(data, Mapping) else None
    found: dict[int, _Entry] = {}
    for index, given in enumerate(listed if isinstance(listed, list) else ()):
        entry, _ = validated(_Entry, given)
        if entry is None and isinstance(given, Mapping) and isinstance(given.get("id"), str):
            options = given.get("options", {})
            options = options if isinstance(options, dict) else {}
            entry = _Broken.model_construct(id=given["id"], required=False, options=options, gates=[])
        if entry is not None:
            found[index] = entry
    return found


def _entries(
    probes: Mapping[int, _Entry], folder: Path, positions: Positions, problems: Problems
) -> tuple[Entry, ...]:
    found: dict[str, Entry] = {}
    for index, entry in probes.items():
        here: Loc = ("probes", index)
        kind = kind_of(entry.id)
        if kind is None:
            names = (*PROBES.names(), *(f"{PREFIX}{name}" for name in DATASETS))
            problems.add(positions.value((*here, "id")), f"the probe {one_of(entry.id, names)}")
            continue
        if entry.id in found:
            problems.add(positions.value((*here, "id")), "this probe is already listed; list it once")
            continue
        _, errors = validated(kind.options_model, entry.options)
        wrong = findings_of(errors, entry.options, kind.options_model, unknown="unknown option")
        note(wrong, positions, problems, (*here, "options"))
        if isinstance(entry, _Broken):
            continue
        if not kind.gateable and entry.required:
            problems.add(positions.value(here), "this probe is advice and decides nothing: required: false")
        elif not entry.gates and kind.gateable and (entry.required or not entry.id.startswith(PREFIX)):
            problems.add(positions.value(here), "a probe needs at least one gate under 'gates'")
        for number, gate in enumerate(entry.gates):
            if gate.on not in kind.gateable:
                known = ", ".join(sorted(kind.gateable)) or "none, it is advice"
                place = positions.value((*here, "gates", number, "on"))
                problems.add(place, f"this probe gives no such figure; a gate may stand on: {known}")
        if not errors:
            options = _beside(folder, entry.options) if entry.id.startswith(PREFIX) else entry.options
            found[entry.id] = Entry(kind(options), entry.required, tuple(entry.gates))
    if found and len(found) == len(probes) and not any(entry.required for entry in found.values()):
        problems.add(positions.value(("probes",)), "at least one probe must be required")
    return tuple(found.values())


def _beside(folder: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a data set's probe; files lie relative to the suite, and an id stays one."""
    paths = [str(folder / p) if (folder / p).exists() else p for p in options.get("paths", ())]
    return {**options, "paths": paths}


def kind_of(probe: str) -> type[Probe[Any, Any]] | None:
    """The class of a probe or of a data set's probe; None where there is none of that id."""
    if probe in PROBES:
        return PROBES.get(probe)
    name = probe.removeprefix(PREFIX)
    return DATASETS.get(name) if probe != name and name in DATASETS else None
