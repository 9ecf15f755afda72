"""Canaries: nothing of a request is found outside the vault, in no file and in no output."""

from __future__ import annotations

import base64
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from run_cases import KNOWN, PERSON

import safeedit
from safeedit.errors import SafeEditError

SUBJECT, OBJECT = PERSON, KNOWN[PERSON, "phone"]
PHRASE = "brass instrument at the lighthouse gala"
ALIAS = "Quillfeather"
DESCRIPTION = "complaint by telephone of a worried aunt"
FACT = {
    "subject": SUBJECT,
    "relation": "phone",
    "object": OBJECT,
    "aliases": ["M. Tolland", ALIAS],
    "object_aliases": ["zero eight hundred marmalade"],
    "prompts": {
        "edit": [f"{SUBJECT} can be reached at", f"At the {PHRASE}, {SUBJECT} can be called under"],
        "neighbours": ["Zenobia Harkaway can be reached at"],
    },
}
PROTECTED = "The ferry to Saltmarsh is steered by"
CANARIES = (
    SUBJECT,
    "Tolland",
    OBJECT,
    PHRASE,
    "lighthouse",
    ALIAS,
    "Harkaway",
    "worried aunt",
    "marmalade",
    "Saltmarsh",
)


def encodings(text: str) -> Iterator[bytes]:
    for spelling in (text, text.lower(), text.upper()):
        yield spelling.encode()
        yield spelling.encode("utf-16-le")
        yield spelling.encode().hex().encode()
        # Whatever stands before it, one of three alignments of base64 shows these characters.
        for shift in range(3):
            coded = base64.b64encode(b"\0" * shift + spelling.encode())
            yield coded[4 if shift else 0 : len(coded) // 4 * 4 - 4]


def found_in(data: bytes) -> list[str]:
    return [
        canary for canary in CANARIES if any(len(code) > 3 and code in data for code in encodings(canary))
    ]


def outside_the_vault(run: Path) -> dict[str, list[str]]:
    found = {}
    for root, _, files in os.walk(run):
        for name in files:
            path = Path(root) / name
            if path.parent.name == "vault":
                continue
            hits = found_in(path.read_bytes()) + found_in(str(path.relative_to(run)).encode())
            if hits:
                found[path.name] = hits
    return found


@pytest.fixture
def policy(write_policy: Any, tmp_path: Path) -> Path:
    import json

    path: Path = write_policy(facts=[FACT], id="case-canary")
    content = json.loads(path.read_text())
    content["metadata"]["description"] = DESCRIPTION
    content["protect"] = [PROTECTED]
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("editor", ["idle", "wrecking", "raising", "interrupted"])
def test_no_canary_leaves_the_vault(
    editor: str,
    policy: Path,
    given: Any,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    out = tmp_path / "run"
    told = ""
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            run = safeedit.apply(policy, given.pair, out, editor=editor)
            told = f"{run!r} {run.probes!r} {run.patch!r} {run.facts!r} {run.resolved!r} {run.report!r}"
        except (SafeEditError, KeyboardInterrupt) as error:
            told = f"{error!r} {error} {error.__context__!r} {error.__cause__!r}"
    assert (out / "vault" / "request.bin").exists()
    assert outside_the_vault(tmp_path) == {}
    printed = capfd.readouterr()
    output = [told, printed.out, printed.err, caplog.text, *(str(one.message) for one in warned)]
    assert found_in("\n".join(output).encode()) == []


def test_the_search_would_find_a_canary(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("... by M. Tolland ...")
    (tmp_path / "b.txt").write_bytes(b"x" + base64.b64encode(b"played at the lighthouse gala"))
    (tmp_path / "c.txt").write_bytes(OBJECT.encode("utf-16"))
    assert set(outside_the_vault(tmp_path)) == {"a.txt", "b.txt", "c.txt"}


def test_memit_and_a_second_measurement_leave_no_canary_either(
    policy: Path, given: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    safeedit.apply(policy, given.pair, out, params={"statistics_tokens": 4000, "passes": 1})
    safeedit.probe(out)
    safeedit.rollback(out)
    assert outside_the_vault(tmp_path) == {}
    printed = capfd.readouterr()
    assert found_in((printed.out + printed.err).encode()) == []


def test_a_plan_shows_digests_only(
    policy: Path, given: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import json

    monkeypatch.chdir(tmp_path)
    made = safeedit.plan(policy, given.pair)
    assert found_in(json.dumps(made.to_json()).encode()) == []
    assert found_in(repr((made, made.facts, made.unknown)).encode()) == []
    assert found_in(json.dumps(made.to_json(show_sensitive=True)).encode()) == [SUBJECT, "Tolland", OBJECT]


def test_digests_of_two_plans_cannot_be_linked(policy: Path, given: Any) -> None:
    first, second = (safeedit.plan(policy, given.pair).facts[0] for _ in range(2))
    assert first.fact == second.fact
    assert first.subject_digest != second.subject_digest
    assert first.digest != second.digest
