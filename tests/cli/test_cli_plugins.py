"""`safeedit editors` and `safeedit probes` with packages of other people, broken ones too."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_types import Command, WritePolicy
from policies_in_text import ERASURE

from safeedit.editors import EDITORS
from safeedit.exams import DATASETS
from safeedit.probes import PROBES

MODULE = """\
from safeedit.editors.base import Editor
from safeedit.editors.settings import Params

class Bare(Editor):
    "An editor that says nothing of itself."
"""
POINTS = """\
[safeedit.editors]
broken = acme_missing:X
bare = acme_edit:Bare
foreign = builtins:dict
memit = acme_edit:Bare

[safeedit.probes]
forgetting.mine = acme_edit:Nope
forgetting.direct = acme_edit:Other

[safeedit.datasets]
mine = acme_edit:Nope
"""


@pytest.fixture(autouse=True)
def _plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package is installed that registers what POINTS says."""
    site = tmp_path / "site"
    about = site / "acme_edit-0.1.dist-info"
    about.mkdir(parents=True)
    (site / "acme_edit.py").write_text(MODULE)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-edit\nVersion: 0.1\n")
    (about / "entry_points.txt").write_text(POINTS)
    monkeypatch.syspath_prepend(site)
    kept = {one: one.__dict__.copy() for one in (EDITORS, PROBES, DATASETS)}
    for one in kept:
        one.__dict__.pop("_targets", None)
        one.__dict__.pop("ignored", None)
    yield
    for one, attributes in kept.items():
        one.__dict__.clear()
        one.__dict__.update(attributes)
    sys.modules.pop("acme_edit", None)


def line_of(text: str, name: str) -> str:
    (line,) = (line for line in text.splitlines() if line.split()[:1] == [name])
    return " ".join(line.split())


def test_the_editors_are_listed_beside_a_broken_one(
    safeedit: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    done = safeedit("editors")
    assert done.code == 0
    assert "rome" in done.out
    assert line_of(done.out, "broken") == "broken cannot be imported (ModuleNotFoundError): acme_missing:X"
    assert line_of(done.out, "foreign").startswith("foreign is not a safeedit.editors.base:Editor")
    assert line_of(done.out, "bare").startswith("bare cannot be listed (AttributeError): acme_edit:Bare")
    assert "memit of a package (acme_edit:Bare) is ignored: the name is one of safeedit's own" in done.out


def test_the_editors_as_json(safeedit: Command) -> None:
    told = safeedit("editors", "--json").json()
    assert {"memit", "rome"} <= {row["name"] for row in told["editors"]}
    assert "broken" not in {row["name"] for row in told["editors"]}
    assert {row["name"]: row["error"] for row in told["broken"]} == {
        "broken": "cannot be imported (ModuleNotFoundError): acme_missing:X",
        "bare": "cannot be listed (AttributeError): acme_edit:Bare",
        "foreign": "is not a safeedit.editors.base:Editor: builtins:dict",
    }
    assert told["ignored"] == [{"name": "memit", "target": "acme_edit:Bare"}]


def test_the_probes_are_listed_beside_a_broken_one(
    safeedit: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    done = safeedit("probes")
    assert done.code == 0
    assert line_of(done.out, "forgetting.mine").endswith(
        "cannot be imported (AttributeError): acme_edit:Nope"
    )
    assert (
        "forgetting.direct of a package (acme_edit:Other) is ignored: the name is one of safeedit's own"
        in done.out
    )
    told = safeedit("probes", "--json").json()
    assert [row["name"] for row in told["broken"]] == ["forgetting.mine", "mine"]
    assert told["ignored"] == [{"name": "forgetting.direct", "target": "acme_edit:Other"}]
    assert "lm-eval" in {row["name"] for row in told["datasets"]}


def test_a_broken_editor_that_is_asked_for(safeedit: Command, policy: WritePolicy) -> None:
    done = safeedit("erase", "--policy", policy(ERASURE), "--editor", "broken", "-q")
    assert (done.code, done.out) == (2, "")
    assert (
        "editor 'broken' (acme_missing:X) cannot be imported (ModuleNotFoundError); mend or remove the "
        "package that registers it" in done.err
    )
