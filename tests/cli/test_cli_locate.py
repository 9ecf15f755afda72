"""`safeedit locate` on the reference model: a table, JSON, pictures, and nothing personal in any of them."""

from __future__ import annotations

import json
import xml.dom.minidom
from pathlib import Path
from typing import Any

import pytest
from command_types import Command, WritePolicy
from policies_in_text import CANARIES, ERASURE

from safeedit.models.load import reference_folder

KNOWN = [json.loads(line) for line in (reference_folder() / "controls.jsonl").read_text("utf-8").splitlines()]
PERSON = KNOWN[0]["subject"]
RELATIONS = ("instrument", "occupation")
FACTS = [
    {key: fact[key] for key in ("subject", "relation", "object")}
    for fact in KNOWN
    if fact["subject"] == PERSON and fact["relation"] in RELATIONS
]
PERSONAL = (PERSON, *PERSON.split(), *(fact["object"] for fact in FACTS))
STRANGER = {"subject": "Zebulon Quackenbush", "relation": "employer", "object": "Xylographic Marmalade Works"}
REQUEST = {
    "apiVersion": "safeedit/v1",
    "metadata": {"id": "where-1", "regime": "gdpr-17", "received": "2026-11-02"},
    "operations": [{"op": "erase", "facts": [*FACTS, STRANGER]}],
}
QUICK = ("--samples", 2, "--device", "cpu")


def clean(text: str) -> bool:
    return not any(canary in text for canary in (*PERSONAL, *CANARIES))


@pytest.fixture
def request_file(policy: WritePolicy) -> Path:
    return policy(json.dumps(REQUEST))


def test_a_table_by_role_and_layer(safeedit: Command, request_file: Path, here: Path) -> None:
    done = safeedit("locate", "--policy", request_file, *QUICK, "--mode", "fast")
    assert done.code == 0
    for words in (
        "2 facts",
        "hidden state",
        "MLP output, over 1 layer",
        "attention output",
        "last token (2)",
    ):
        assert words in done.out
    assert "not known: 1" in done.out
    assert "policy  editor: {params: {layers: [" in done.out
    assert "tracing …" in done.err
    assert clean(done.out + done.err)
    assert "\x1b" not in done.out
    assert list(here.iterdir()) == []


def test_json_has_all_of_it_and_what_a_policy_takes(safeedit: Command, request_file: Path) -> None:
    from safeedit.policy import Policy
    from safeedit.runs.options import chosen_editor, read_request

    words = ("locate", "--policy", request_file, *QUICK, "--kind", "mlp", "--json")
    done = safeedit(*words, "--mode", "exact")
    told = done.json()
    assert done.code == told["exit_code"] == 0
    assert (told["mode"], told["kinds"], told["samples"], told["known"], told["not_known"]) == (
        "exact",
        ["mlp"],
        2,
        2,
        1,
    )
    assert clean(done.out)
    assert safeedit(*words).json()["averages"] == told["averages"]
    for fact in told["facts"]:
        for one in fact["prompts"]:
            assert "tokens" not in one
            assert len(one["effects"]["mlp"]) == len(one["roles"])
            assert {len(row) for row in one["effects"]["mlp"]} == {told["layers"]}
    pasted: dict[str, Any] = {**REQUEST, "editor": {"name": "memit", "params": told["suggestion"]["params"]}}
    editor = chosen_editor(read_request(Policy.model_validate(pasted)), None, None)
    assert editor.params.layers == told["suggestion"]["layers"]  # type: ignore[attr-defined]


def test_names_are_shown_only_where_asked_for(safeedit: Command, request_file: Path) -> None:
    words = (
        "locate",
        "--policy",
        request_file,
        *QUICK,
        "--mode",
        "fast",
        "--kind",
        "mlp",
        "--show-sensitive",
    )
    told = safeedit(*words, "--json").json()
    shown = {"".join(one["tokens"]).strip() for fact in told["facts"] for one in fact["prompts"]}
    assert all(PERSON in prompt for prompt in shown)
    assert {fact["subject"] for fact in told["facts"]} == {PERSON}
    assert PERSON.split()[0][:2] in safeedit(*words).out


def test_pictures_hold_roles_alone(safeedit: Command, request_file: Path, here: Path) -> None:
    words = ("locate", "--policy", request_file, *QUICK, "--mode", "fast", "-q")
    assert safeedit(*words, "-o", "map.svg").out.endswith("picture map.svg\n")
    told = safeedit(*words, "-o", "maps", "--json").json()
    written = sorted((here / "maps").iterdir())
    prompts = sum(len(fact["prompts"]) for fact in told["facts"])
    assert sorted(map(Path, told["pictures"])) == [Path("maps") / path.name for path in written]
    assert len(written) == prompts + 1
    for path in [here / "map.svg", *written]:
        text = path.read_text("utf-8")
        xml.dom.minidom.parseString(text)
        assert "last token" in text
        assert clean(text)
        assert clean(path.name)
    safeedit(*words, "-o", "maps", "--show-sensitive")
    assert PERSON.split()[0][:2] in (here / "maps" / "fact-0001-1.svg").read_text("utf-8")


def test_what_the_model_never_knew_is_exit_code_3(safeedit: Command, policy: WritePolicy, here: Path) -> None:
    words = ("locate", "--policy", policy(ERASURE), *QUICK, "-o", "map.svg")
    done = safeedit(*words)
    assert (done.code, done.out.count("\n")) == (3, 1)
    assert done.out.startswith("not known: 1;")
    assert clean(done.out + done.err)
    assert (safeedit(*words, "--json").json()["exit_code"], list(here.iterdir())) == (3, [])


@pytest.mark.parametrize(
    "words",
    [("--mode", "slow"), ("--kind", "embedding"), ("--samples", "0"), ("--window", "0"), ("-o", "a/b.svg")],
)
def test_bad_input_is_one_line(words: tuple[str, str], safeedit: Command, request_file: Path) -> None:
    done = safeedit("locate", "--policy", request_file, *words)
    assert (done.code, done.out) == (2, "")
    assert "Nothing was done." in done.err
    assert "loading" not in done.err


def test_colour_is_for_terminals(safeedit: Command, request_file: Path, monkeypatch: Any) -> None:
    words = ("locate", "--policy", request_file, *QUICK, "--mode", "fast", "--kind", "mlp")
    plain = safeedit(*words).out
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLORTERM", "truecolor")
    coloured = safeedit(*words).out
    assert "48;2;" in coloured
    assert "48;2;" not in plain
    monkeypatch.setenv("COLUMNS", "60")
    assert "0 " in safeedit(*words).out
