"""What is read, how much of it, and what is told when it cannot be."""

from __future__ import annotations

import os
import time
import tracemalloc

import pytest
from policy_texts import CANARIES, GOOD, WHAT, WHO, fact, op

from safeedit.policy import Policy, PolicyError, facts_file, load, tree

ERASE_FILE = op("  - op: erase\n    facts_file: f.jsonl\n")
LINE = f'{{"subject": "{WHO}", "relation": "phone", "object": "{WHAT}"}}\n'


def told(path: object) -> str:
    with pytest.raises(PolicyError) as caught:
        Policy.load(path)
    return str(caught.value)


def test_no_such_file(tmp_path) -> None:
    assert told(tmp_path / "p.yaml") == f"{tmp_path}/p.yaml:1:1: there is no such file"


def test_a_folder(tmp_path) -> None:
    assert told(tmp_path) == f"{tmp_path}:1:1: this is a folder; give the file in it"


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    assert told(tmp_path / "p.yaml").endswith("this file may not be read; check its permissions")


@pytest.mark.parametrize("name", ["a\0b", "a\nb", "x" * 5000])
def test_an_impossible_name_is_told_on_one_line(name) -> None:
    assert "\n" not in told(name)


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="needs /dev/zero")
def test_an_endless_file_is_not_read_to_its_end(monkeypatch) -> None:
    monkeypatch.setattr(load, "MAX_BYTES", 2**20)
    assert told("/dev/zero") == "/dev/zero:1:1: the file is larger than 1 MiB; move facts to a facts_file"


def test_a_large_file_is_refused_unread(tmp_path) -> None:
    path = tmp_path / "p.yaml"
    with open(path, "wb") as file:
        file.truncate(17 * 2**20)
    tracemalloc.start()
    message = told(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert message.endswith("p.yaml:1:1: the file is larger than 16 MiB; move facts to a facts_file")
    assert peak < 2**20


def test_the_largest_file_is_read(errors_of, monkeypatch) -> None:
    monkeypatch.setattr(load, "MAX_BYTES", len(fact(GOOD).encode()))
    assert errors_of(fact(GOOD)) == []
    assert len(errors_of(fact(GOOD) + "\n")) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("deep", "[" * 1_000_000),
        ("deep block", "- " * 1_000_000),
        ("deep keys", "? " * 500_000),
        ("deep mappings", "{a: " * 200_000),
        ("laughs", "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
            f"b{n}: &b{n} [{','.join(['*a' if n == 0 else f'*b{n - 1}'] * 9)}]\n" for n in range(30)
        )),
    ],
)  # fmt: skip
def test_bombs_are_refused_at_once_in_little_memory(name, text, errors_of) -> None:
    tracemalloc.start()
    begin = time.process_time()
    assert errors_of(text)
    seconds, peak = time.process_time() - begin, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 5
    assert peak < 30 * 2**20


def test_too_many_values(errors_of, monkeypatch) -> None:
    monkeypatch.setattr(tree, "MAX_NODES", 1000)
    (line,) = errors_of(op("  - op: erase\n    facts: [" + "a, " * 2000 + "]\n"))
    assert line.endswith("the file holds more than 1000 values; move facts to a facts_file")


def test_byte_order_mark_and_windows_lines(errors_of) -> None:
    assert errors_of(b"\xef\xbb\xbf" + fact(GOOD).replace("\n", "\r\n").encode()) == []
    crlf = fact("{subject: a, relation: phone}").replace("\n", "\r\n")
    assert errors_of(b"\xef\xbb\xbf" + crlf.encode()) == ["p.yaml:6:9: a fact needs 'object'"]


def test_columns_count_characters(errors_of) -> None:
    text = fact("{subject: 'Zoë 𝒳', relation: phone, obejct: x}")
    (line,) = errors_of(text)
    column = int(line.split(":")[2])
    assert text.split("\n")[5][column - 1 :].startswith("obejct")


class TestFactsFile:
    def test_facts_take_the_place_of_the_file(self, errors_of, tmp_path) -> None:
        (tmp_path / "p.yaml").write_text(ERASE_FILE)
        (tmp_path / "f.jsonl").write_text("\ufeff" + LINE + "\n" + LINE.replace("phone", "email"), "utf-8")
        policy = Policy.load(tmp_path / "p.yaml")
        (operation,) = policy.operations
        assert [fact.relation for fact in operation.facts] == ["phone", "email"]
        assert operation.facts_file is None
        assert policy == Policy.model_validate_json(policy.canonical_bytes())

    def test_a_file_in_a_folder_below(self, tmp_path) -> None:
        (tmp_path / "p.yaml").write_text(ERASE_FILE.replace("f.jsonl", "a/../b/./f.jsonl"))
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / "f.jsonl").write_text(LINE)
        assert Policy.load(tmp_path / "p.yaml").kinds() == ("erase",)

    @pytest.mark.parametrize(
        "name", ["..", "../f.jsonl", "a/../../f.jsonl", "/f.jsonl", "a\\..\\..\\f.jsonl"]
    )
    def test_nothing_outside_the_folder_is_opened(self, name, tmp_path, monkeypatch) -> None:
        (tmp_path / "p.yaml").write_text(ERASE_FILE.replace("f.jsonl", f"'{name}'"))
        monkeypatch.setattr(facts_file, "_Reader", None)
        assert told(tmp_path / "p.yaml").endswith("must be a path in or below the policy's folder")

    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            ('{"subject": "Quorvax", "relation": "phone"}', "1: a fact needs 'object'"),
            ('{"subject": "Quorvax", "relation": "phone", "obejct": "x"}',
             "45: unknown key in a fact; did you mean 'object'?"),
            ('{"subject": "Quorvax", "relation": "phone", "object": 618255}',
             "55: 'object' must be text, and this is read as a number; put it in quotes"),
            ('{"subject": "Quorvax", "relation": "phone", "object": null}',
             "45: 'object' is empty; give it a value"),
            ('{"subject": "Quorvax", "relation": "phone", "object": "x", "object": "y"}',
             "1: a key is given twice on this line; give it once"),
            ('{"subject": "Quorvax", "relation": "phone", "object": "x", "new_object": "y"}',
             "60: unknown key 'new_object' in a fact; only a fact to modify has it, here the keys are: "
             "subject, relation, object, aliases, object_aliases, prompts"),
            ('{"subject": "Quorvax", "relation": "phone", "object": "x", "aliases": ["Quorvax"]}',
             "72: an entry of 'aliases' is 'subject' itself; leave it out"),
            ('{"subject": "Quorvax", "relation": "phone", "object": "a\\u0007"}',
             "55: 'object' must not hold control characters"),
            ('{"subject": "\\ud83d\\ude00", "relation": "phone", "object": "\\ud800"}',
             "1: 'object' must not hold half a character (an unpaired surrogate)"),
            ('{"subject": "Quorvax", "relation": "phone" "object": "x"}',
             "44: this line is not JSON (expecting ',' delimiter)"),
            ("{'subject': 'Quorvax'}",
             "2: this line is not JSON (expecting property name enclosed in double quotes)"),
            ('{"subject": NaN}', "1: this line is not JSON that states a fact"),
            ('{"subject": ' + "9" * 5000 + "}", "1: this line is not JSON that states a fact"),
            ("[" * 30_000, "1: this line is not JSON that states a fact"),
            ('["Quorvax"]', '1: a line must be one fact: {"subject": …, "relation": …, "object": …}'),
            ("Quorvax", "1: this line is not JSON (expecting value)"),
            (b'{"subject": "Quorvax\xff"}', "21: this is not UTF-8; save the file as UTF-8"),
            (b"\0", "1: this line is not JSON (expecting value)"),
            ("{" + " " * 70_000 + "}", "1: this line is longer than 64 KiB"),
        ],
    )  # fmt: skip
    def test_a_bad_line_is_told_with_its_number(self, line, expected, errors_of) -> None:
        raw = line if isinstance(line, bytes) else line.encode()
        lines = errors_of(ERASE_FILE, f_jsonl=LINE.encode() + b"\n" + raw + b"\n" + LINE.encode())
        assert lines[0] == f"f.jsonl:3:{expected}"
        assert lines[1:] == ["f.jsonl:4:1: the same fact as in f.jsonl:1; give it once"]
        assert not any(word in "\n".join(lines) for word in CANARIES)

    def test_an_unknown_relation_is_told_with_its_line(self, errors_of) -> None:
        (line,) = errors_of(ERASE_FILE, f_jsonl="\n" + LINE.replace("phone", "phnoe"))
        assert line.startswith("f.jsonl:2:1: this relation is not in the catalogue; did you mean 'phone'?")

    def test_an_unknown_relation_is_told_beside_another_bad_line(self, errors_of) -> None:
        lines = errors_of(ERASE_FILE, f_jsonl="x\n" + LINE.replace("phone", "phnoe"))
        assert [line.split(":")[1] for line in lines] == ["1", "2"]

    def test_a_conflict_between_the_policy_and_its_file(self, errors_of) -> None:
        text = fact(GOOD) + "  - op: insert\n    facts_file: f.jsonl\n"
        assert errors_of(text, f_jsonl=LINE.replace(WHAT, "other")) == [
            "f.jsonl:1:1: conflicts with line 6: the same subject and relation shall end differently"
        ]

    def test_facts_to_modify_need_their_new_object(self, errors_of) -> None:
        text = ERASE_FILE.replace("erase", "modify")
        assert errors_of(text, f_jsonl=LINE) == ["f.jsonl:1:1: a fact to modify needs 'new_object'"]
        assert errors_of(text, f_jsonl=LINE.replace("}", ', "new_object": "x"}')) == []

    @pytest.mark.parametrize("content", ["", "\n\n", "  \n"])
    def test_a_file_without_facts(self, content, errors_of) -> None:
        assert errors_of(ERASE_FILE, f_jsonl=content) == [
            "f.jsonl:1:1: no facts here; put one JSON object on each line"
        ]

    def test_reading_stops_when_too_much_is_wrong(self, errors_of) -> None:
        lines = errors_of(ERASE_FILE, f_jsonl="x\n" * 10_000)
        assert len(lines) == 101
        assert lines[0].startswith("f.jsonl:1:1: ")

    def test_limits(self, errors_of, monkeypatch) -> None:
        monkeypatch.setattr(facts_file, "MAX_FACTS", 2)
        numbered = [LINE.replace(WHAT, f"x{n}") for n in range(3)]
        assert errors_of(ERASE_FILE, f_jsonl="".join(numbered[:2])) == []
        assert errors_of(ERASE_FILE, f_jsonl="".join(numbered)) == [
            "f.jsonl:3:1: more than 2 facts; split the request"
        ]
        monkeypatch.setattr(facts_file, "MAX_BYTES", 2 * len(LINE))
        (line,) = errors_of(ERASE_FILE, f_jsonl="".join(numbered))
        assert "f.jsonl:3:1: the file is larger than" in line

    def test_a_line_without_an_end_is_not_held_in_memory(self, tmp_path) -> None:
        (tmp_path / "p.yaml").write_text(ERASE_FILE)
        with open(tmp_path / "f.jsonl", "wb") as file:
            file.truncate(200 * 2**20)
        tracemalloc.start()
        message = told(tmp_path / "p.yaml")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert message.endswith("f.jsonl:1:1: this line is longer than 64 KiB")
        assert peak < 5 * 2**20
