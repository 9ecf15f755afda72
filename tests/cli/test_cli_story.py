"""The story of docs/evidence.md, command by command, with real keys, files and a real edit."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from command_types import Command

PAGE = Path(__file__).parents[2] / "docs" / "evidence.md"
PERSON = ("Mira", "Tolland")
_FENCE = re.compile(r"```(yaml|console)\n(.*?)```", re.DOTALL)
_EXIT = re.compile(r"\s+# exit (\d)$")


@dataclass
class Step:
    """A command of the page, the exit code that it names, and what it says is printed."""

    words: list[str]
    code: int
    expected: list[str] = field(default_factory=list)


def story() -> list[str | Step]:
    """The page's policies and commands, in their order."""
    found: list[str | Step] = []
    for kind, body in _FENCE.findall(PAGE.read_text(encoding="utf-8")):
        if kind == "yaml":
            found.append(body)
            continue
        for line in body.splitlines():
            if line.startswith("$ "):
                code = _EXIT.search(line)
                words = shlex.split(_EXIT.sub("", line[2:]))
                found.append(Step(words, int(code[1]) if code else 0))
            else:
                step = found[-1]
                assert isinstance(step, Step)
                step.expected.append(line)
    return found


def test_the_story_happens_as_it_is_told(
    safeedit: Command, here: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SAFEEDIT_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("SAFEEDIT_KEY_PASSPHRASE", "correct horse battery staple")
    monkeypatch.setenv("COLUMNS", "300")
    steps = story()
    assert sum(isinstance(step, Step) for step in steps) > 25
    for step in steps:
        if isinstance(step, str):
            Path("request.yaml").write_text(step, encoding="utf-8")
            continue
        assert step.words[0] == "safeedit"
        done = safeedit(*step.words[1:])
        told = " ".join((done.out + done.err).replace("│", " ").split())
        assert done.code == step.code, f"{step.words}: {told}"
        for line in step.expected:
            pattern = ".*?".join(re.escape(part.strip()) for part in line.split("…"))
            assert re.search(pattern, told), f"{step.words}: {line!r} is not in {told!r}"
        assert not any(name in told for name in PERSON), step.words
    # Nothing of the request is left in the open, anywhere that was written to.
    for path in here.rglob("*"):
        if path.is_file() and path.parts[-2] != "model" and path.name != "request.yaml":
            content = path.read_bytes()
            assert not any(name.encode() in content for name in PERSON), path
