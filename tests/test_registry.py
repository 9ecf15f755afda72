"""What is found by name: plug-ins that are broken, and those that take one of our names."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

import safeedit.registry as module
from safeedit.errors import UsageError
from safeedit.registry import Registry

GROUP = "tests.things"
BASE = "collections.abc:Sized"


@pytest.fixture
def things(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A registry with one name of its own and the plug-ins that are given."""
    (tmp_path / "acme_broken.py").write_text("raise RuntimeError('about Zebulon Quackenbush')\n")
    (tmp_path / "acme_things.py").write_text("class Thing(dict): pass\nclass Other: pass\n")
    monkeypatch.syspath_prepend(tmp_path)

    def made(**plugins: str) -> Registry[Any]:
        points = [EntryPoint(name, value, GROUP) for name, value in plugins.items()]
        monkeypatch.setattr(module, "entry_points", lambda group: points if group == GROUP else [])
        return Registry("thing", GROUP, BASE, {"ours": "builtins:dict"})

    yield made
    for name in ("acme_broken", "acme_things"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("acme_missing:X", "ModuleNotFoundError"),
        ("acme_things:Missing", "AttributeError"),
        ("acme_things", "AttributeError"),
        ("acme_broken:X", "RuntimeError"),
    ],
)
def test_a_plug_in_that_cannot_be_imported_is_told_with_its_name(
    things: Any, target: str, error: str
) -> None:
    found = things(broken=target, fine="acme_things:Thing")
    with pytest.raises(UsageError) as caught:
        found.get("broken")
    assert str(caught.value) == (
        f"thing 'broken' ({target}) cannot be imported ({error}); "
        "mend or remove the package that registers it"
    )
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    assert found.get("fine").__name__ == "Thing"
    assert found.names() == ("broken", "fine", "ours")


def test_what_is_nothing_of_the_kind(things: Any) -> None:
    with pytest.raises(UsageError, match=r"thing 'other' \(acme_things:Other\) is not a collections"):
        things(other="acme_things:Other").get("other")


def test_a_defect_of_ours_is_not_blamed_on_a_package(things: Any) -> None:
    things()
    found = Registry[Any]("thing", GROUP, BASE, {"ours": "acme_missing:X"})
    with pytest.raises(ModuleNotFoundError):
        found.get("ours")


def test_ours_wins_and_the_other_is_told(things: Any) -> None:
    found = things(ours="acme_things:Thing", fine="acme_things:Thing")
    assert found.get("ours") is dict
    assert found.ignored == {"ours": "acme_things:Thing"}
    assert things(fine="acme_things:Thing", ours="builtins:dict").ignored == {}
