from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import planted_editors
import pytest
from run_cases import JOB, NEW_JOB, QUICK

import safeedit
from safeedit.editors import EDITORS
from safeedit.tensors.digest import named_digests

WritePolicy = Callable[..., Path]


@pytest.fixture(autouse=True, scope="session")
def _planted_editors() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for kind in planted_editors.ALL:
            patch.setitem(EDITORS._targets, kind.name, f"planted_editors:{kind.__name__}")
        yield


@pytest.fixture
def seen() -> list[Any]:
    """What the planted editors are given in this test."""
    planted_editors.Planted.seen.clear()
    return planted_editors.Planted.seen


@pytest.fixture(scope="session")
def write_policy(tmp_path_factory: pytest.TempPathFactory) -> WritePolicy:
    """Writes a policy of one operation and gives its path."""
    import json

    def write(op: str = "erase", *, id: str = "case-1", suite: str = "smoke", **operation: Any) -> Path:
        extra = operation.pop("extra", {})
        content = {
            "apiVersion": "safeedit/v1",
            "metadata": {"id": id, "regime": "internal", "received": "2026-11-02"},
            "operations": [{"op": op, **operation}],
            "probes": {"suite": suite},
            **extra,
        }
        path = tmp_path_factory.mktemp("policy") / "policy.yaml"
        path.write_text(json.dumps(content))
        return path

    return write


@pytest.fixture(scope="session")
def nobody(reference: Any) -> str:
    """A name for which the model makes up neither a telephone number nor a mailbox."""
    from safeedit.policy.compile import SubjectRequest
    from safeedit.policy.resolve import resolve_subjects
    from safeedit.triples.catalogue import builtin_catalogue
    from safeedit.triples.placebos import placebo_names

    requests = [SubjectRequest(name, (), ("phone", "email")) for name in placebo_names("person", 12, 99)]
    found = resolve_subjects(requests, reference.model, reference.tokenizer, builtin_catalogue())
    answered = {one.request for one in found if one.known}
    return next(one.name for number, one in enumerate(requests) if number not in answered)


@dataclass
class Untouched:
    """The reference model, and whether it still is what it was."""

    pair: tuple[Any, Any]
    digests: dict[str, str]

    def check(self) -> None:
        assert named_digests(self.pair[0]) == self.digests
        assert not getattr(self.pair[0], "_safeedit_applied", ())


@pytest.fixture
def given(reference: Any) -> Iterator[Untouched]:
    """The reference model as a caller hands it over; every test that uses it shows it unchanged."""
    found = Untouched((reference.model, reference.tokenizer), named_digests(reference.model))
    yield found
    found.check()


@pytest.fixture(scope="session")
def modified(write_policy: WritePolicy, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run that changed one fact of the reference model; its folder is not to be changed."""
    policy = write_policy("modify", facts=[{**JOB, "new_object": NEW_JOB}])
    out = tmp_path_factory.mktemp("runs") / "modified"
    return safeedit.apply(policy, out=out, params=QUICK, device="cpu")


@pytest.fixture
def modified_copy(modified: Any, tmp_path: Path) -> Path:
    """A copy of that run, for a test that changes it."""
    import shutil

    return Path(shutil.copytree(modified.path, tmp_path / "copy"))
