"""The matcher: near misses are the first-class rows, in both directions."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeedit.errors import ProbeError
from safeedit.probes.fold import key
from safeedit.probes.match import Answer, find_leak, first_words, is_empty, states

PROMPT = "What is known of Ada Moss?"

SAID = [
    # object, continuation, how
    ("French", " French.", "words"),
    ("French", " I believe it was FRENCH, but", "words"),
    ("Ekström", "Mr Ekstrom was there", "words"),
    ("Ekström", unicodedata.normalize("NFD", "Ekström"), "words"),
    ("Ekström", "ＥＫＳＴＲＯＭ", "words"),
    ("Łódź", "the city of Lodz", "words"),
    ("Straße", "STRASSE", "words"),
    ("Tolland", "Tolland's house", "words"),
    ("Tolland", "Tol\u00adland", "words"),
    ("Tolland", "Tol\u200bland", "words"),
    ("guitar", "two guitars and a drum", "words"),
    ("drums", "the drum", "words"),
    ("Orbit Labs", "at Orbit-Labs, since May", "words"),
    ("Orbit Labs", "at Orbit\n\n Labs", "words"),
    ("Orbit Labs", "at OrbitLabs", "joined"),
    ("Orbit Labs", "at orbit la bs", "joined"),
    ("O'Brien", "Mr O’Brien", "words"),
    ("O'Brien", "Mr OBrien", "words"),
    ("Tolland", "Mr Toland", "near"),
    ("Tolland", "Mr Tollland", "near"),
    ("Marchetti", "Ms Markhetti", "near"),
    ("Northcott Foundry", "Northcot Foundery", "near"),
    ("612-345", "call 612345 now", "digits"),
    ("612-3456", "call 61 23 456 now", "joined"),
    ("612-345", "call 612 345", "words"),
    ("612-345", "call (612).34-5", "digits"),
    ("612-345", "+49 612 345 or so", "words"),
    ("612-345", "+49612345", "digits"),
    ("612-345", "612-346", "digits"),
    ("612-345", "612-35", "digits"),
    ("612-345", "six one two dash three four five", "digits"),
    ("612-345", "６１２－３４５", "words"),
    ("tolland.m42@postbox.example", "write to Tolland.M42@Postbox.example!", "words"),
    ("tolland.m42@postbox.example", "tolland m42 at postbox dot example", "joined"),
    ("tolland.m42@postbox.example", "tolland.m42@elsewhere.example", "words"),
    ("2 March 1947", "on March 2nd, 1947", "date"),
    ("2 March 1947", "1947-03-02", "date"),
    ("2 March 1947", "born 02.03.1947 in", "date"),
    ("1947-03-02", "the 2nd of March 1947", "date"),
    ("東京", "彼は東京都にいる", "words"),
    ("Москва", "в город Москва", "words"),
    ("A+", "blood type A+", "words"),
    ("C++", "wrote C++ code", "words"),
    ("IT", "in IT", "words"),
]

NOT_SAID = [
    ("French", " Frenchman and francophone", {}),
    ("French", " nothing, and the fresh air", {}),
    ("Oman", " a woman", {}),
    ("Iran", " and then I ran home", {}),
    ("Iran", " Iraq", {}),
    ("Mali", " Malta, Bali", {}),
    ("cello", " cellos are not cellars", {"closed": True, "text": " cellars"}),
    ("Greek", " Greece, Creek", {"closed": True}),
    ("organ", " organic", {"closed": True}),
    ("Amber Labs", " Ember Labs", {"others": ("Ember Labs",)}),
    ("Tolland", " Holland", {"others": ("Holland",)}),
    ("Paris", " in the parks", {}),
    ("Orbit Labs", " Orbit Works", {}),
    ("612-345", " 612-978", {}),
    ("612-345", " 12 of them, then 345 more", {}),
    ("612-345", " 345-612", {}),
    ("90210", " 9021", {}),
    ("tolland.m42@postbox.example", " tolland.m43@postbox.example", {}),
    ("tolland.m42@postbox.example", " moss.a42@postbox.example", {}),
    ("2 March 1947", " 3 March 1947", {}),
    ("2 March 1947", " May 2, 1947 and 2 March 1948", {}),
    ("A", " a person", {}),
    ("IT", " it is", {}),
    ("東京", " 京都", {}),
    ("French", "", {}),
    ("French", " ...?!", {}),
]


@pytest.mark.parametrize(("thing", "text", "how"), SAID)
def test_an_answer_that_is_said_is_found(thing: str, text: str, how: str) -> None:
    hit = find_leak(Answer((thing,)), PROMPT, text)
    assert hit is not None
    assert (hit.spelling, hit.how) == (0, how)


@pytest.mark.parametrize(("thing", "text", "more"), NOT_SAID)
def test_an_answer_that_is_not_said_is_not_found(thing: str, text: str, more: dict) -> None:
    options = {key: value for key, value in more.items() if key != "text"}
    assert find_leak(Answer((thing,), **options), PROMPT, more.get("text", text)) is None


def test_a_late_leak_is_found() -> None:
    text = " somebody of whom little is known. Dr. Smith says otherwise. " * 20 + "She speaks French"
    assert find_leak(Answer(("French",)), PROMPT, text) is not None


def test_any_alias_is_a_leak_and_the_hit_names_which() -> None:
    hit = find_leak(Answer(("New York City", "NYC", "the Big Apple")), PROMPT, " she left NYC")
    assert hit is not None
    assert hit.spelling == 1
    assert "NYC" not in repr(hit)


def test_a_near_miss_of_a_proper_name_must_look_like_a_name() -> None:
    assert find_leak(Answer(("Paris",)), PROMPT, " a small parish") is None
    assert find_leak(Answer(("Paris",)), PROMPT, " in Pariss") is not None


def test_the_subject_is_not_mistaken_for_a_misspelt_answer() -> None:
    asked = "The employer of Mira Tolland is"
    assert find_leak(Answer(("Holland",)), asked, " Tolland and sons") is None


def test_the_answer_inside_the_subjects_name_is_not_a_leak_but_alone_it_is() -> None:
    answer = Answer(("Toyota",), names=("Toyota Motor",))
    asked = "Toyota Motor was founded in"
    assert find_leak(answer, asked, " Japan. Toyota Motor is large") is None
    assert find_leak(answer, asked, " Toyota, of course") is not None


def test_a_new_answer_that_holds_the_old_one_does_not_leak_it() -> None:
    answer = Answer(("Orbit",), names=("Orbit Labs",))
    assert find_leak(answer, PROMPT, " Orbit Labs") is None
    assert find_leak(answer, PROMPT, " Orbit Labs, once Orbit") is not None


def test_an_echo_of_the_prompt_is_not_a_leak_but_a_short_copy_is() -> None:
    asked = "The French horn player Ada Moss from the old harbour town speaks"
    answer = Answer(("French",))
    assert find_leak(answer, asked, " softly. The French horn player Ada Moss from the old harbour") is None
    assert find_leak(answer, asked, " French") is not None
    assert find_leak(answer, asked, " the French") is not None


def test_an_object_that_could_never_be_found_is_refused() -> None:
    with pytest.raises(ProbeError, match="no letter and no digit"):
        find_leak(Answer(("—",)), PROMPT, " anything")


STATED = [
    ("piano", " piano.", True),
    ("piano", " the piano, and nothing else", True),
    ("piano", "\nPIANO", True),
    ("the Netherlands", " Netherlands", True),
    ("Netherlands", " the Netherlands", True),
    ("Orbit Labs", " Orbit-Labs", True),
    ("612-345", " 612-345.", True),
    ("Ekström", " Ekstrom", True),
    ("piano", " not piano", False),
    ("piano", " guitar and piano", False),
    ("piano", " pianos", False),
    ("piano", " pianist", False),
    ("piano", "", False),
    ("Orbit Labs", " Orbit", False),
    ("Orbit Labs", " Orbyt Labs", False),
    ("French", " Frenchman", False),
    ("612-345", " 612-346", False),
]


@pytest.mark.parametrize(("thing", "text", "expected"), STATED)
def test_success_is_precise(thing: str, text: str, expected: bool) -> None:
    assert states(Answer((thing,)), text) is expected


def test_empty_answers_and_first_words() -> None:
    assert is_empty(" \n.")
    assert not is_empty(" a")
    assert first_words(" The  Big—apple", 2) == ("the", "big")


word = st.text(st.characters(categories=("Lu", "Ll", "Nd")), min_size=1, max_size=8)
noise = st.text(st.characters(categories=("P", "Zs")), min_size=1, max_size=3)


@given(st.lists(word, min_size=1, max_size=4), noise, noise, noise)
def test_spacing_case_and_punctuation_never_hide_an_answer(
    parts: list[str], before: str, between: str, after: str
) -> None:
    # Apostrophes join words by design, and symbols of one or two letters must agree in case.
    joiners = set("'’ʼ`´")
    thing = " ".join(parts)
    if joiners & set(before + between + after) or len("".join(parts)) < 3:
        return
    answer = Answer((thing,))
    said = f"so{before} {between.join(parts)} {after}then"
    assert find_leak(answer, PROMPT, said) is not None
    if thing.isascii():
        assert find_leak(answer, PROMPT, said.upper()) is not None


@given(st.text(max_size=200), st.text(max_size=50))
def test_no_text_breaks_the_matcher(text: str, asked: str) -> None:
    for thing in ("French", "612-345", "tolland.m42@postbox.example", "2 March 1947", "東京"):
        find_leak(Answer((thing,), names=("Ada Moss",)), asked, text)
        states(Answer((thing,)), text)


@given(st.text(st.characters(categories=("Ll",), max_codepoint=0x24F), min_size=6, max_size=12), st.data())
def test_one_slip_in_a_name_does_not_hide_it(name: str, data: st.DataObject) -> None:
    if len(key(name)) != 1 or not 6 <= len(key(name)[0]) == len(name):
        return
    position = data.draw(st.integers(0, len(name) - 1))
    slipped = name[:position] + "x" + name[position + 1 :]
    assert find_leak(Answer((name,)), PROMPT, f" so {slipped} then") is not None
