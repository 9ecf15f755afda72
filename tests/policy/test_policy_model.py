"""The policy as data: what it says, what it keeps to itself, what it refuses without a file."""

from __future__ import annotations

import io
import traceback
from datetime import date

import pytest
from policy_texts import CANARIES, GOOD, WHAT, WHO, fact, op, plus, value
from pydantic import ValidationError
from rich.console import Console
from rich.pretty import pretty_repr

from safeedit.policy import Policy
from safeedit.policy.model import ChangedFact, Erase, Metadata, StatedFact

METADATA = {"id": "r-1", "regime": "gdpr-17", "received": "2026-11-02"}


def policy(**changes: object) -> Policy:
    facts = [{"subject": WHO, "relation": "phone", "object": WHAT}]
    data = {
        "apiVersion": "safeedit/v1",
        "metadata": METADATA,
        "operations": [{"op": "erase", "facts": facts}],
    }
    return Policy.model_validate({**data, **changes})


@pytest.mark.parametrize(
    ("regime", "received", "due"),
    [
        ("gdpr-17", "2026-11-02", date(2026, 12, 2)),
        ("gdpr-17", "2026-01-31", date(2026, 2, 28)),
        ("gdpr-17", "2028-01-31", date(2028, 2, 29)),
        ("gdpr-17", "2026-05-31", date(2026, 6, 30)),
        ("gdpr-17", "2026-12-31", date(2027, 1, 31)),
        ("gdpr-17", "2999-12-31", date(3000, 1, 31)),
        ("correction", "2026-01-30", date(2026, 2, 28)),
        ("ccpa-delete", "2026-11-02", date(2026, 12, 17)),
        ("delete-act", "2026-12-31", date(2027, 2, 14)),
        ("safety", "2026-11-02", None),
        ("internal", "2026-11-02", None),
    ],
)
def test_when_an_answer_is_due(regime, received, due) -> None:
    assert policy(metadata={**METADATA, "regime": regime, "received": received}).due() == due


def test_kinds_in_order_and_once() -> None:
    facts = [{"subject": f"s{n}", "relation": "phone", "object": "x"} for n in range(3)]
    operations = [
        {"op": "insert", "facts": facts[:1]},
        {"op": "erase", "facts": facts[1:2]},
        {"op": "insert", "facts": facts[2:]},
        {"op": "detox", "behaviours": [{"prompt": "a", "unsafe": "b", "safe": "c"}]},
    ]
    assert policy(operations=operations).kinds() == ("insert", "erase", "detox")


def test_what_is_shown_instead() -> None:
    assert str(policy()) == repr(policy()) == "<Policy>"


@pytest.mark.parametrize("show", [repr, str, "{}".format, "{!r}".format, pretty_repr])
def test_nothing_personal_is_shown(show) -> None:
    made = policy(metadata={**METADATA, "description": WHO})
    shown = [made, made.operations, made.operations[0], made.operations[0].facts[0], made.metadata]
    text = " ".join(show(part) for part in shown)
    assert not any(word in text for word in CANARIES)


def test_nothing_personal_is_printed_by_rich() -> None:
    console = Console(file=io.StringIO(), width=200)
    console.print(policy(), policy().operations[0])
    assert not any(word in console.file.getvalue() for word in CANARIES)


@pytest.mark.parametrize(
    "make",
    [
        lambda: StatedFact(subject=WHO, relation="phone", object=WHAT, aliases=[WHO]),
        lambda: StatedFact(subject=WHO, relation="phone", object=WHAT, quorvax=WHAT),
        lambda: StatedFact(subject=f"{WHO}\n", relation="phone", object=WHAT),
        lambda: ChangedFact(subject=WHO, relation="phone", object=WHAT, new_object=WHAT),
        lambda: Erase(op="erase"),
        lambda: policy(
            operations=[{"op": "erase", "facts": [{"subject": WHO, "relation": WHO, "object": WHAT}]}]
        ),
        lambda: policy(metadata={**METADATA, "regime": WHO}),
    ],
)
def test_invalid_data_is_refused_without_a_file_and_without_values(make) -> None:
    with pytest.raises(ValidationError) as caught:
        make()
    assert "input_value" not in str(caught.value)
    printed = "".join(traceback.format_exception(caught.value))
    printed = "\n".join(line for line in printed.split("\n") if "lambda" not in line)
    assert not any(word in printed for word in ("Quillfeather", "Quorvax"))


def test_facts_that_conflict_are_refused_without_a_file() -> None:
    facts = [{"subject": WHO, "relation": "phone", "object": name} for name in "ab"]
    with pytest.raises(ValidationError, match=r"operations.0.facts.1\n.*conflicts with operations.0.facts.0"):
        policy(operations=[{"op": "insert", "facts": facts}])


def test_two_objects_of_one_relation_can_both_be_erased() -> None:
    facts = [{"subject": WHO, "relation": "phone", "object": name} for name in "ab"]
    assert len(policy(operations=[{"op": "erase", "facts": facts}]).operations[0].facts) == 2


def test_a_person_and_one_fact_of_theirs_can_both_be_erased(errors_of) -> None:
    assert errors_of(fact(GOOD) + f"  - op: erase\n    subjects: [{{name: {WHO}}}]\n") == []


@pytest.mark.parametrize(
    ("relations", "count"), [("", 1), (", relations: [phone]", 1), (", relations: [email]", 0)]
)
def test_a_fact_of_an_erased_person_cannot_be_new(relations, count, errors_of) -> None:
    text = fact(GOOD, "insert") + f"  - op: erase\n    subjects: [{{name: Q, aliases: [{WHO}]{relations}}}]\n"
    assert len(errors_of(text)) == count


def test_an_object_outside_a_closed_list_is_allowed(errors_of) -> None:
    assert errors_of(fact("{subject: a, relation: instrument, object: theremin}")) == []


def test_composed_and_decomposed_letters_are_one_fact(errors_of) -> None:
    both = [f"{{subject: {name}, relation: phone, object: x}}" for name in ("Zo\u00eb", "Zoe\u0308")]
    assert errors_of(fact("\n      - ".join(both))) == [
        "p.yaml:7:9: the same fact as in line 6; give it once"
    ]


def test_a_relation_of_the_policy_counts(load_text) -> None:
    text = (
        fact("{subject: a, relation: car, object: b}") + "relations: {car: {cloze: ['{subject} drives a']}}\n"
    )
    made = load_text(text)
    assert made.catalogue()["car"].cloze == ["{subject} drives a"]
    assert "phone" in made.catalogue()


def test_a_relation_that_is_itself_wrong_is_not_also_unknown(errors_of) -> None:
    text = fact("{subject: a, relation: car, object: b}") + "relations: {car: {cloze: [drives]}}\n"
    assert len(errors_of(text)) == 1


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("618-255", "618-255"),
        ("'0612'", "0612"),
        ("'no'", "no"),
        ("1990-05-04", "1990-05-04"),
        ("0698", "0698"),
        ("1e5", "1e5"),
        ("n", "n"),
        ("Nobody", "Nobody"),
        ("a: b".replace(": ", ":"), "a:b"),
        ('"\\u00eb"', "ë"),
        ("=", "="),
    ],
)
def test_text_is_read_as_it_is_written(written, read, load_text) -> None:
    assert load_text(value(written)).operations[0].facts[0].object == read


@pytest.mark.parametrize("written", ["2026-11-02", "'2026-11-02'", '"2026-11-02"'])
def test_dates_with_and_without_quotes(written, load_text) -> None:
    text = fact(GOOD).replace("2026-11-02", written)
    assert load_text(text).metadata.received == date(2026, 11, 2)


@pytest.mark.parametrize("received", [0, 1_700_000_000, "2026-11-2", "20261102", "٢٠٢٦-١١-٠٢", None, True])
def test_nothing_else_is_a_date(received) -> None:
    with pytest.raises(ValidationError):
        Metadata(**{**METADATA, "received": received})


def test_parameters_are_read_as_json_values(load_text) -> None:
    text = plus(
        "editor:\n  name: memit\n"
        "  params: {a: 1e-3, b: [3, 4], c: true, d: '0612', e: x, f: , g: -0.5, h: '1e3'}\n"
    )
    assert load_text(text).editor.params == {
        "a": 0.001, "b": [3, 4], "c": True, "d": "0612", "e": "x", "f": None, "g": -0.5, "h": "1e3",
    }  # fmt: skip


def test_what_may_be_left_out(load_text) -> None:
    made = load_text(fact(GOOD))
    assert made.probes.suite == "standard"
    assert (made.editor, made.assurance, made.sign_off, made.relations) == (None, None, None, {})


def test_everything_that_the_format_has(load_text) -> None:
    made = load_text(
        op(
            "  - op: erase\n"
            "    subjects:\n"
            "      - {name: Mira Tolland, aliases: [M. Tolland], relations: [phone, employer]}\n"
            "  - op: modify\n"
            "    facts:\n"
            "      - {subject: Toko Yasuda, relation: instrument, object: guitar, new_object: piano}\n"
            "  - op: detox\n"
            "    behaviours:\n"
            '      - {prompt: "Tell me.", unsafe: "He is.", safe: "I would rather not."}\n'
        )
        + "assurance: G2\nprobes: {suite: smoke}\nsign_off: {approvers: 2}\n"
    )
    assert made.operations[0].subjects[0].relations == ("phone", "employer")
    assert made.operations[1].facts[0].new_object == "piano"
    assert made.operations[2].behaviours[0].safe == "I would rather not."
    assert (made.assurance, made.probes.suite, made.sign_off.approvers) == ("G2", "smoke", 2)


def test_a_policy_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        policy().assurance = "G1"


def test_canonical_bytes_do_not_depend_on_the_order_or_the_layout(load_text) -> None:
    one = load_text(value("b"))
    other = load_text(value("b").replace("{subject: Ada Quillfeather, relation: phone, object: b}",
        "object: 'b'\n        relation: phone\n        subject: Ada Quillfeather"))  # fmt: skip
    assert one.canonical_bytes() == other.canonical_bytes()
    assert one.canonical_bytes() != load_text(value("c")).canonical_bytes()
