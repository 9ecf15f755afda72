"""Whatever is in a policy: a valid one survives being written and read, anything else is a PolicyError."""

from __future__ import annotations

import re
from datetime import date

import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from policy_texts import GOOD, fact

from safeedit.policy import Policy, tree
from safeedit.policy.rules import same, to_template

RELAXED = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

TEXT = st.text(
    st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=20
).filter(lambda text: text == text.strip())  # fmt: skip
TRAP_WORDS = r"""
    no on 0612 12:30 1e5 1_0 ~ null true 2026-11-02 = << !x &a *a - #a ' " \ {a} [a] %a @a `a .inf 0x1f : ? |
"""
TRAPS = st.sampled_from([*TRAP_WORDS.split(), "- a", "a: b", "a #b", "? a"])
WORDS = TEXT | TRAPS
# `1e5` without quotes is a number among parameters, and PyYAML writes that text without quotes.
PARAMETERS = WORDS.filter(lambda text: not re.fullmatch(r"[-+.0-9]+[eE][-+0-9]+", text))
RELATIONS = st.sampled_from(["phone", "email", "employer", "instrument", "own"])


@st.composite
def facts(draw: st.DrawFn, kind: str, subject: str) -> dict[str, object]:
    old, new = draw(st.lists(WORDS, min_size=2, max_size=2, unique_by=same))
    made: dict[str, object] = {"subject": subject, "relation": draw(RELATIONS), "object": old}
    if kind == "modify":
        made["new_object"] = new
    if draw(st.booleans()):
        made["aliases"] = [f"{subject} {n}" for n in range(draw(st.integers(0, 3)))]
    if draw(st.booleans()):
        first, second = draw(st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=2, unique=True))
        made["prompts"] = {"edit": [f"{first} {{subject}}"], "paraphrases": [f"{second} {{subject}} has"]}
    return made


@st.composite
def policies(draw: st.DrawFn) -> dict[str, object]:
    subjects = draw(st.lists(WORDS, min_size=1, max_size=6, unique_by=same))
    operations: list[dict[str, object]] = []
    for subject in subjects:
        kind = draw(st.sampled_from(["erase", "modify", "insert", "subjects", "detox"]))
        if kind == "subjects":
            operations.append({"op": "erase", "subjects": [{"name": subject}]})
        elif kind == "detox":
            behaviour = {"prompt": draw(WORDS), "unsafe": draw(WORDS), "safe": "a\n\tb"}
            operations.append({"op": "detox", "behaviours": [behaviour]})
        else:
            operations.append({"op": kind, "facts": [draw(facts(kind, subject))]})
    parameters = st.recursive(
        st.none() | st.booleans() | st.integers(-(10**12), 10**12) | PARAMETERS | st.floats(-1e9, 1e9),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
        ),
        max_leaves=8,
    )
    made: dict[str, object] = {
        "apiVersion": "safeedit/v1",
        "metadata": {
            "id": draw(st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True)),
            "regime": draw(st.sampled_from(["gdpr-17", "ccpa-delete", "correction", "internal"])),
            "received": draw(st.dates(date(2000, 1, 1), date(2999, 12, 31))).isoformat(),
            "description": draw(WORDS),
        },
        "relations": {
            "own": {"cloze": ["{subject} owns", "Owned by {subject} is"], "objects": [draw(WORDS)]}
        },
        "operations": operations,
    }
    if draw(st.booleans()):
        made["editor"] = {"name": "memit", "params": {"p": draw(parameters)}}
    if draw(st.booleans()):
        made |= {"assurance": "G3", "sign_off": {"approvers": draw(st.integers(1, 100))}}
    return made


@RELAXED
@given(data=policies(), flow=st.booleans(), letters=st.booleans())
def test_what_is_written_is_read(data, flow, letters, load_text) -> None:
    policy = Policy.model_validate(data)
    plain = policy.model_dump(mode="json", exclude_none=True)
    text = yaml.safe_dump(plain, default_flow_style=flow, allow_unicode=letters, sort_keys=False)
    assert load_text(text) == policy
    assert Policy.model_validate_json(policy.canonical_bytes()) == policy
    assert load_text(policy.canonical_bytes()) == policy
    assert policy.due() is None or policy.due() > policy.metadata.received


@RELAXED
@given(data=st.binary(max_size=300), before=st.sampled_from([b"", fact(GOOD).encode()]))
def test_random_bytes_give_a_policy_error_or_a_policy(data, before, errors_of) -> None:
    check(before + data, errors_of)


KEYS = """
    apiVersion metadata operations op facts facts_file subjects subject relation object new_object aliases
    object_aliases prompts edit paraphrases neighbours behaviours prompt unsafe safe name params cloze
    questions objects about approvers suite id regime received relations editor probes sign_off
"""
NAMES = KEYS.split()
MARKS = r"""
    safeedit/v1 erase phone ~ no 0612 1.5 é 𝒳 p.yaml . : - { } [ ] , ' " | >
    &a *a !!str !x ? # \ << "\ud800" "\U00110000"
"""
BREAKS = [" ", "  ", ": ", "- ", ", ", "\n", "\n  ", "\n    ", "\n---\n", "\n...\n", "%YAML 1.2\n"]
ODD = ["\t", "\ufeff", "\x85", "\u2028", "\0", "\x1b"]
PIECES = st.sampled_from([*NAMES, *MARKS.split(), *BREAKS, *BREAKS, *ODD])


@RELAXED
@given(data=st.lists(PIECES, max_size=40).map("".join), before=st.sampled_from(["", fact(GOOD)]))
def test_random_yaml_gives_a_policy_error_or_a_policy(data, before, errors_of) -> None:
    check((before + data).encode(), errors_of)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.sampled_from([1.5, "a", "", "phone", "{subject} a", "x" * 600]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(NAMES),
            inner,
            max_size=5,
        )
    ),
    max_leaves=15,
)
TOP = st.fixed_dictionaries(
    {"apiVersion": VALUES, "metadata": VALUES},
    optional={
        "operations": st.lists(
            VALUES
            | st.fixed_dictionaries(
                {"op": st.sampled_from(["erase", "modify", "insert", "detox"])},
                optional={"facts": st.lists(VALUES, max_size=3), "subjects": VALUES, "behaviours": VALUES},
            ),
            max_size=3,
        ),
        **{key: VALUES for key in ("relations", "editor", "assurance", "probes", "sign_off")},
    },
)


@RELAXED
@given(data=TOP)
def test_random_structure_is_explained_in_known_words(data, errors_of) -> None:
    lines = check(yaml.safe_dump(data).encode(), errors_of)
    assert not any("is not valid here" in line for line in lines), "an error without words of its own"


@RELAXED
@given(data=st.lists(PIECES, max_size=30).map("".join), line=st.binary(max_size=100))
def test_random_facts_files(data, line, errors_of) -> None:
    text = fact(GOOD) + "  - op: insert\n    facts_file: f.jsonl\n"
    for content in (data.encode(), line):
        for told in errors_of(text, f_jsonl=content):
            place(told)


@RELAXED
@given(data=st.lists(PIECES, max_size=40).map("".join))
def test_both_parsers_agree_on_what_is_a_policy(data, errors_of) -> None:
    text = fact(GOOD) + data
    kept = tree._LOADER
    try:
        tree._LOADER = yaml.SafeLoader
        slow = errors_of(text)
        tree._LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        assert bool(errors_of(text)) == bool(slow)
    finally:
        tree._LOADER = kept


@RELAXED
@given(subject=WORDS, before=TEXT, after=TEXT)
def test_a_template_gives_back_its_prompt(subject, before, after) -> None:
    prompt = f"{before} {subject} {after}"
    try:
        template = to_template(prompt, subject)
    except ValueError:
        assume(False)
    assert template.count("{subject}") == 1
    assert template.replace("{subject}", subject) == prompt.replace("{subject}", subject)


def check(data: bytes, errors_of) -> list[str]:
    lines = errors_of(data)
    for line in lines:
        place(line)
    return lines


def place(line: str) -> tuple[int, int]:
    """The position that an error line begins with; fails if it has none."""
    file, number, column, words = line.split(":", 3)
    assert file in ("p.yaml", "f.jsonl")
    assert words.strip()
    assert int(number) >= 1
    assert int(column) >= 1
    return int(number), int(column)


@pytest.mark.parametrize("line", ["p.yaml: x", "p.yaml:0:1: x", "p.yaml:1:1: ", "Traceback"])
def test_a_line_without_a_position_fails(line) -> None:
    with pytest.raises((AssertionError, ValueError)):
        place(line)
