"""Every malformed policy gives one clear line with its position, and nothing personal."""

from __future__ import annotations

import pytest
import yaml
from malformed_texts import TEXT_AND_KEYS
from malformed_values import VALUES_AND_RULES
from policy_texts import CANARIES, GOOD, WHO, fact, op

from safeedit.policy import tree

CASES = {**TEXT_AND_KEYS, **VALUES_AND_RULES}


class Pointed(str):
    """The rest of a line from the column that is told; equal to what it begins with."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and self.startswith(other)


def pointed_at(text: str, told: str) -> tuple[int, str]:
    _, line, column, _ = told.split(":", 3)
    return int(line), Pointed(text.split("\n")[int(line) - 1][int(column) - 1 :])


def test_there_are_enough_cases() -> None:
    assert len(CASES) == len(TEXT_AND_KEYS) + len(VALUES_AND_RULES) >= 140


def test_the_canaries_stand_in_the_policies() -> None:
    assert sum(any(word in str(text) for word in CANARIES) for text, _ in CASES.values()) > 100


def test_the_good_policy_is_good(errors_of) -> None:
    assert errors_of(fact(GOOD)) == []


@pytest.mark.parametrize("name", CASES)
def test_one_clear_line_with_its_position(name, errors_of, monkeypatch) -> None:
    monkeypatch.setattr(tree, "_LOADER", getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    text, told = CASES[name]
    assert errors_of(text) == [f"p.yaml:{told}"]


@pytest.mark.parametrize("name", CASES)
def test_the_same_line_without_the_c_parser(name, errors_of, monkeypatch) -> None:
    monkeypatch.setattr(tree, "_LOADER", yaml.SafeLoader)
    text, told = CASES[name]
    (line,) = errors_of(text)
    assert line.split(":")[1] == told.split(":")[0]
    assert line.split(": ", 1)[1] == told.split(": ", 1)[1]


@pytest.mark.parametrize("name", CASES)
def test_no_value_is_repeated(name, errors_of) -> None:
    told = "\n".join(errors_of(CASES[name][0]))
    assert not any(word in told for word in CANARIES)


def test_everything_is_told_at_once(errors_of) -> None:
    text = f"""apiVersion: safeedit/v1
metadata:
  id: r-1
  regime: gdpr17
  recieved: 2026-11-02
colour: red
operations:
  - op: erase
    facts:
      - {{subject: 0612, relation: mothertongue, obejct: {WHO}}}
      - {{subject: {WHO}, relation: phone, object: no, new_object: x}}
      - subject: {WHO}
        relation: phone
        aliases: ['']
        prompts: {{edit: ["{WHO} is", "Somebody is"], paraphrases: ["{{subject}} is"]}}
    facts_file: x.jsonl
  - op: modify
    facts:
      - {{subject: {WHO}, relation: employer, object: a, new_object: a}}
      - {{subject: {WHO}, relation: employer, object: a, new_object: b}}
      - {{subject: {WHO}, relation: employer, object: a, new_object: c}}
  - op: eraze
  - {WHO}
sign_off: {{approvers: 0}}
probes:
probes: {{suite: smoke}}
"""
    assert [pointed_at(text, line) for line in errors_of(text)] == [
        (4, "gdpr17"),
        (5, "recieved: 2026"),
        (6, "colour"),
        (10, "0612"),
        (10, "mothertongue"),
        (10, "obejct"),
        (11, "no, new"),
        (11, "new_object"),
        (12, "subject"),
        (14, "''"),
        (15, '"Somebody is"'),
        (15, '"{subject} is"'),
        (16, "facts_file"),
        (19, "a}"),
        (20, "{subject"),
        (21, "{subject"),
        (22, "eraze"),
        (23, WHO),
        (24, "0}"),
        (25, "probes:"),
        (26, "probes: {"),
    ]
    assert not any(word in line for line in errors_of(text) for word in CANARIES)


def test_two_errors_on_one_fact_that_depend_on_nothing(errors_of) -> None:
    text = fact(f"{{subject: {WHO}, relation: phnoe, object: x, aliases: [{WHO}], colour: red}}")
    told = errors_of(text)
    assert [pointed_at(text, line) for line in told] == [(6, "phnoe"), (6, WHO), (6, "colour")]


def test_a_misspelt_key_is_not_a_missing_one_as_well(errors_of) -> None:
    told = errors_of(fact("{subjekt: a, relation: phone, objekt: b}"))
    assert len(told) == 2
    assert all("did you mean" in line for line in told)


def test_too_many_errors_are_counted(errors_of) -> None:
    told = errors_of(op("  - op: erase\n    facts: [" + "7, " * 500 + "]\n"))
    assert len(told) == 101
    assert told[-1].endswith("… and at least 400 more")


def test_an_unused_anchor_and_a_thousand_aliases_make_one_line(errors_of) -> None:
    facts = "".join(f"      - {{subject: s{n}, relation: phone, object: *o}}\n" for n in range(1000))
    told = errors_of(
        op(f"  - op: erase\n    facts:\n      - {GOOD.replace('Quorvax', '&o Quorvax')}\n{facts}")
    )
    assert told == ["p.yaml:6:62: anchors (&) and aliases (*) are not read; write values out"]
