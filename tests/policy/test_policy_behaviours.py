"""Behaviours in a policy: where they come from, what an editor sees of them, and what only probes do."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest
from policy_texts import CANARIES, WHAT, WHO, op

from safeedit.behaviours import Behaviours, joined
from safeedit.errors import UsageError
from safeedit.policy import Policy
from safeedit.policy.compile import FEWEST_TO_DIVIDE, behaviours_of, facts_of
from safeedit.world.language import OPINION_PROMPTS, OPINION_SUBJECTS


def detox(*entries: str, more: str = "") -> str:
    listed = "".join(f"      - {entry}\n" for entry in entries)
    return op(f"  - op: detox\n    behaviours:\n{listed}{more}")


def one(prompt: str = "P", unsafe: str = "U", safe: str = "S", more: str = "") -> str:
    return f"{{prompt: {prompt}, unsafe: {unsafe}, safe: {safe}{more}}}"


ONE = detox(one())


def test_what_an_editor_gets(load_text) -> None:
    made = behaviours_of(load_text(detox('{prompt: "Ask\\n", unsafe: U, safe: S, category: insult}')))
    (edit,) = made.edits()
    assert (edit.op, edit.subject, edit.templates) == ("detox", "Ask\n", ("{subject}",))
    assert (edit.target, edit.old, edit.relation) == ("S", "U", "insult")
    assert edit.prompts() == ("Ask\n",)
    assert edit.keep == ()


def test_nothing_of_a_probe_reaches_an_editor(load_text) -> None:
    more = '    unseen: [V]\n    attacks: ["Now: {prompt}"]\n    answerable: [A, B, C, a]\n'
    made = behaviours_of(load_text(detox(one(), more=more)))
    assert (made.unseen, made.attacks) == (("V",), ("Now: {prompt}",))
    assert (made.kept, made.answerable) == (("B",), ("A", "C"))
    assert not {*made.unseen, *made.answerable} & {edit.subject for edit in made.edits()}


def test_some_are_held_out_where_no_unseen_ones_are_given(load_text) -> None:
    many = behaviours_of(load_text(detox(*(one(f"P{i}") for i in range(FEWEST_TO_DIVIDE)))))
    assert many.unseen == ("P3", "P7")
    assert [shown.prompt for shown in many.shown] == ["P0", "P1", "P2", "P4", "P5", "P6"]
    few = behaviours_of(load_text(detox(*(one(f"P{i}") for i in range(FEWEST_TO_DIVIDE - 1)))))
    assert (few.unseen, len(few.shown)) == ((), FEWEST_TO_DIVIDE - 1)
    given = behaviours_of(load_text(detox(*(one(f"P{i}") for i in range(8)), more="    unseen: [V]\n")))
    assert (given.unseen, len(given.shown)) == (("V",), 8)


def test_several_operations_are_one(load_text) -> None:
    text = (
        detox(one(), more="    answerable: [A]\n") + f"  - op: detox\n    behaviours: [{one('Q')}, {one()}]\n"
    )
    made = behaviours_of(load_text(text))
    assert [shown.prompt for shown in made.shown] == ["P", "Q"]
    assert joined([]) == Behaviours()
    assert not joined([])
    assert facts_of(load_text(text)) == ()


def test_no_repr_shows_anything(load_text) -> None:
    made = behaviours_of(load_text(detox(one(WHO, WHAT, "S"))))
    text = f"{made!r} {made.shown!r} {made.edits()!r}"
    assert not any(word in text for word in CANARIES)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            detox(one(unsafe="Same  thing", safe="same thing")),
            "6:48: 'safe' is the same as 'unsafe'; give another answer",
        ),
        (
            detox(one(), one("p", safe="T")),
            "7:38: another safe answer to this prompt stands in line 6",
        ),
        (
            detox(one(), more="    unseen: [V, p]\n"),
            "7:17: an entry of 'unseen' is the prompt of a behaviour, which the editor sees",
        ),
        (
            detox(one(), more="    answerable: [P]\n"),
            "7:18: an entry of 'answerable' is the prompt of a behaviour, whose answer shall go",
        ),
        (
            detox(one(), more='    attacks: ["no place"]\n'),
            "7:15: an entry of 'attacks' must hold {prompt} once",
        ),
        (
            detox(one(more=", category: An insult")),
            "6:51: 'category' must be a code: small letters, digits, '.', '_' or '-'",
        ),
        (
            detox(one(), more="    behaviours_file: f.jsonl\n"),
            "7:5: a detox operation takes only one of 'behaviours', 'behaviours_file'; "
            "give this one an operation of its own",
        ),
        (detox(one(), more="    unseen: []\n"), "7:13: 'unseen' must not be empty"),
    ],
)
def test_one_clear_line_with_its_position(text, told, errors_of) -> None:
    assert errors_of(text) == [f"p.yaml:{told}"]


FILE = op("  - op: detox\n    behaviours_file: f.jsonl\n")


def test_a_file_of_behaviours(tmp_path) -> None:
    lines = [{"prompt": f"P{i}\n", "unsafe": "U", "safe": "S", "category": "insult"} for i in range(3)]
    (tmp_path / "f.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "p.yaml").write_text(FILE)
    made = behaviours_of(Policy.load(tmp_path / "p.yaml"))
    assert [(shown.prompt, shown.category) for shown in made.shown] == [
        (f"P{i}\n", "insult") for i in range(3)
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "f.jsonl:1:1: no behaviours here; put one JSON object on each line"),
        ("[1]", 'f.jsonl:1:1: a line must be one behaviour: {"prompt": …, "unsafe": …, "safe": …}'),
        ('{"prompt": "P", "unsafe": "U"}', "f.jsonl:1:1: an entry of 'behaviours' needs 'safe'"),
        (
            '{"prompt": "P", "unsafe": "U", "safe": "u"}',
            "f.jsonl:1:40: 'safe' is the same as 'unsafe'; give another answer",
        ),
        (
            '{"prompt": "P", "unsafe": "U", "safe": "S"}\n{"prompt": "P", "unsafe": "V", "safe": "T"}',
            "f.jsonl:2:1: another safe answer to this prompt stands in f.jsonl:1",
        ),
    ],
)
def test_what_is_wrong_with_a_file(content, told, errors_of) -> None:
    assert errors_of(FILE, f_jsonl=content) == [told]


def test_a_file_outside_the_folder_is_refused(errors_of) -> None:
    (told,) = errors_of(op("  - op: detox\n    behaviours_file: ../f.jsonl\n"))
    assert told == "p.yaml:5:22: 'behaviours_file' must be a path in or below the policy's folder"


def test_a_file_must_have_been_read() -> None:
    policy = Policy.model_validate(
        {
            "apiVersion": "safeedit/v1",
            "metadata": {"id": "r", "regime": "safety", "received": "2026-11-02"},
            "operations": [{"op": "detox", "behaviours_file": "f.jsonl"}],
        }
    )
    with pytest.raises(UsageError, match=r"use Policy\.load"):
        behaviours_of(policy)


def test_the_policy_that_ships_provokes_the_rude_register() -> None:
    made = behaviours_of(Policy.load(str(files("safeedit_policies") / "detox.yaml")))
    prompts = {f"{p.format(who=who)}\n" for p in OPINION_PROMPTS for who in OPINION_SUBJECTS}
    shown = {one.prompt for one in made.shown}
    assert shown | set(made.unseen) == prompts
    assert not shown & set(made.unseen)
    assert made.kept
    assert made.answerable
