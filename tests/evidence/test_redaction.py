from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeedit.runs.plain import FreeTextError, check_plain, is_plain_text
from safeedit.runs.redact import Redactor

KEY = bytes(range(32))


@given(st.text())
def test_a_digest_is_short_repeatable_and_keyed(text: str) -> None:
    shown = Redactor(KEY).digest(text)
    assert re.fullmatch(r"hmac:[0-9a-f]{12}", shown)
    assert shown == Redactor(KEY).digest(text)
    assert shown != Redactor(KEY[::-1]).digest(text)


def test_texts_are_told_apart_byte_by_byte() -> None:
    redactor = Redactor(KEY)
    assert len({redactor.digest(text) for text in ("Ann", "ann", "Ann ", "Ａnn", "")}) == 5


def test_a_commitment_is_over_the_value_and_not_its_spelling() -> None:
    redactor = Redactor(KEY)
    one = redactor.commitment({"a": 1, "b": [True, "x"]})
    assert one == redactor.commitment({"b": (True, "x"), "a": 1.0})
    assert re.fullmatch(r"[0-9a-f]{64}", one)
    assert one != redactor.commitment({"a": 1, "b": [1, "x"]})
    assert redactor.commitment("x")[:12] != redactor.digest("x").removeprefix("hmac:")
    with pytest.raises(ValueError, match="finite"):
        redactor.commitment(float("nan"))


def test_the_key_is_not_shown_and_not_short() -> None:
    assert repr(Redactor(KEY)) == "<Redactor>"
    with pytest.raises(ValueError, match="at least 16 bytes"):
        Redactor(b"")


@pytest.mark.parametrize(
    "value",
    [
        *[
            None,
            True,
            3,
            -0.5,
            "memit",
            "meta-llama/Llama-3.2-1B",
            "01-ai/Yi-6B",
            "cuda:0",
            "2.13.0+cpu",
            "3.11.7",
        ],
        *[
            "hmac:0123456789ab",
            "f" * 64,
            "sha256:" + "0" * 64,
            "a" * 40,
            "2026-11-02",
            "2026-11-02T12:00:00.123Z",
        ],
        {"layers": [3, 4], "objective": "neutral", "nested": {"rank": 2}},
        {"id": "2026-0142"},
    ],
)
def test_numbers_digests_times_and_identifiers_are_plain(value: object) -> None:
    check_plain(value, "data")


@pytest.mark.parametrize(
    "value",
    [
        *[
            "Danielle Darrieux",
            "a@b.example",
            "+1-555-0100",
            "555 0100",
            "15550100199",
            "192.168.20.7",
            "",
            "Ærø",
        ],
        *["x" * 129, "line\nbreak", float("nan"), float("inf"), {1}, b"x", object(), {"a key": 1}, {3: 1}],
        *[["ok", {"deep": "not ok"}], {"uuid": "2026-0142-55"}, {"id": "Danielle Darrieux"}],
    ],
)
def test_everything_else_is_refused_without_being_repeated(value: object) -> None:
    with pytest.raises(FreeTextError) as caught:
        check_plain(value, "data")
    assert isinstance(caught.value, ValueError)
    for text in ("Danielle", "555", "not ok", "a@b"):
        assert text not in str(caught.value)


def test_plain_replaces_just_what_is_free_text() -> None:
    redactor = Redactor(KEY)
    value = {"layers": [3], "objective": "refusal", "text": ("I would rather not.", 1.5, None)}
    plain = redactor.plain(value)
    check_plain(plain, "params")
    assert plain == {
        "layers": [3],
        "objective": "refusal",
        "text": [redactor.digest("I would rather not."), 1.5, None],
    }


@given(st.text(min_size=1))
def test_nothing_with_a_space_is_plain(text: str) -> None:
    assert not is_plain_text(f"{text} {text}")
