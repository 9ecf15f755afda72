"""Rows of files, folders and hub ids, with their places; and what is told of those that are none."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from safeedit.errors import PolicyError, UsageError
from safeedit.exams.records import Record, Text, Texts, parts_like, records
from safeedit.exams.sources import open_source

SECRET = "Zenobia Harkaway"
ROWS = [{"text": "one"}, {"text": "two"}, {"text": "three"}]


def read(path: Path | str) -> list[tuple[dict[str, Any], int]]:
    source = open_source(path)
    return [(dict(row.values), row.place.line) for part in source.parts for row in source.rows(part)]


@pytest.mark.parametrize(
    ("name", "content", "lines"),
    [
        ("a.jsonl", '\ufeff{"text": "one"}\n\n{"text": "two"}\r\n{"text": "three"}', [1, 3, 4]),
        ("a.json", '[\n {"text": "one"},\n {"text":\n   "two"}, {"text": "three"}\n]\n', [2, 3, 4]),
        ("a.json", '{"text": "one"}\n{"text": "two"}\n{"text": "three"}\n', [1, 2, 3]),
        ("a.json", '["one", "two",\n"three"]', [1, 1, 2]),
        ("a.csv", "text\none\ntwo\nthree\n", [2, 3, 4]),
        ("a.tsv", 'text\n"one"\ntwo\nthree', [2, 3, 4]),
        ("a.txt", "one\n\n two\nthree", [1, 3, 4]),
    ],
)
def test_every_plain_format_gives_the_same_rows(
    tmp_path: Path, name: str, content: str, lines: list[int]
) -> None:
    path = tmp_path / name
    path.write_text(content, "utf-8", newline="")
    assert read(path) == list(zip(ROWS, lines, strict=True))
    assert [values for values, _ in read(f"{path}[1:]")] == ROWS[1:]
    assert [values for values, _ in read(f"{path}[:2]")] == ROWS[:2]


def test_a_field_of_a_table_may_go_over_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('text,n\n"one\n\n two, ""three""",1\nfour,2\n', "utf-8")
    assert read(path) == [({"text": 'one\n\n two, "three"', "n": "1"}, 2), ({"text": "four", "n": "2"}, 5)]


@pytest.mark.parametrize(
    ("name", "content", "line", "message"),
    [
        ("a.jsonl", b'{"text": "one"}\n{Zenobia Harkaway}\n', 2, "not JSON"),
        ("a.jsonl", b'{"text": "one"}\n["Zenobia Harkaway"]\n', 2, "not a record"),
        ("a.json", b'[{"text": "one"},\n\n{"text": Zenobia Harkaway}]', 3, "not JSON"),
        ("a.json", b'[{"text": "one"},\n3]', 2, "not a record"),
        ("a.json", b'[{"text": "one"}\n', 2, "not JSON"),
        ("a.json", b'[{"text": "one"}]\n\nZenobia Harkaway', 3, "more after the end"),
        ("a.jsonl", b'{"text": "one"}\n{"text": "\xff"}\n', 2, "not UTF-8"),
        ("a.csv", b"text,n\none\n", 2, "as many fields"),
        ("a.csv", b"text,n\none,1,Zenobia Harkaway\n", 2, "as many fields"),
        ("a.csv", b'text\n"Zenobia Harkaway" x\n', 2, "not CSV"),
        ("a.exe", b"Zenobia Harkaway", 1, "this kind of file"),
    ],
)
def test_what_is_no_row_is_told_with_its_line_and_without_its_content(
    tmp_path: Path, name: str, content: bytes, line: int, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(PolicyError, match=message) as caught:
        read(path)
    assert caught.value.problems[0].line == line
    assert "Zenobia" not in str(caught.value)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    for given in (tmp_path / "none.json", "nobody/nothing.json", "what/is/this"):
        with pytest.raises(UsageError, match="no such file or folder"):
            open_source(given)


class Chosen(Record):
    question: Text
    choices: Texts


def test_everything_wrong_with_records_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [
        {"question": "What?", "choices": ["a", "b"], "source": "more than is asked for"},
        {"choices": ["a"]},
        {"question": 7, "choices": SECRET},
        {"question": "", "choices": ["a", None]},
    ]
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    source = open_source(path)
    with pytest.raises(PolicyError) as caught:
        records(source.rows("a"), Chosen, source.name, "question, choices")
    lines = str(caught.value).splitlines()
    assert [line.split(":")[1] for line in lines] == ["2", "3", "3", "4", "4"]
    assert "the field 'question' is missing; needed is question, choices" in lines[0]
    assert SECRET not in str(caught.value)


def test_an_empty_file_is_no_data_set(tmp_path: Path) -> None:
    for name, content in (("a.jsonl", ""), ("a.json", "[]"), ("a.csv", "text\n"), ("a.txt", " \n")):
        (tmp_path / name).write_text(content)
        source = open_source(tmp_path / name)
        with pytest.raises(PolicyError, match="holds no record"):
            records(source.rows("a"), Chosen, source.name, "question, choices")


def test_a_list_in_a_table_is_json(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('question,choices\nWhat?,"[""a"", ""b""]"\n')
    source = open_source(path)
    (record,), _ = records(source.rows("a"), Chosen, source.name, "")
    assert record.choices == ("a", "b")
    assert "What" not in repr(record) + str(record)


def test_a_field_that_is_empty_in_a_table_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("question,choices\nWhat?,\n")
    assert read(path) == [({"question": "What?"}, 2)]


def test_a_folder_has_a_part_for_each_file(tmp_path: Path) -> None:
    (tmp_path / "knowmem").mkdir()
    for name in ("forget10_perturbed.json", "knowmem/forget_qa.json", "README.md", "raw_forget.jsonl"):
        (tmp_path / name).write_text('{"text": "one"}')
    source = open_source(tmp_path)
    assert source.parts == ("forget10_perturbed", "knowmem/forget_qa", "raw_forget")
    assert parts_like(source, r"forget\d*(_perturbed)?") == ("forget10_perturbed",)
    assert parts_like(source, r"(knowmem[/_])?forget_qa") == ("knowmem/forget_qa",)
    assert parts_like(source, "forget") == ()


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A stand-in for the `datasets` package, with its own calls."""
    found: Any = ModuleType("datasets")
    tables = {("set", "train"): ROWS, ("set", "test"): ROWS[:1], ("more", "train"): ROWS[1:]}

    def load_dataset(path: str, name: str | None = None, **how: Any) -> Any:
        if path == "parquet":
            assert how == {"data_files": how["data_files"], "split": "train", "streaming": True}
            return ROWS
        if path != "some/body":
            raise ConnectionError(SECRET)
        return tables[name or "", how["split"]]

    def names(path: str) -> list[str]:
        if path != "some/body":
            raise ConnectionError(SECRET)
        return ["set", "more"]

    found.load_dataset = load_dataset
    found.get_dataset_config_names = names
    found.get_dataset_split_names = lambda path, name: [s for n, s in tables if n == name]
    found.load_from_disk = lambda path: {"train": ROWS, "test": ROWS[:2]}
    monkeypatch.setitem(sys.modules, "datasets", found)
    return found


def test_hub_ids_have_parts_for_configurations_and_splits(package: ModuleType) -> None:
    source = open_source("some/body")
    assert source.parts == ("set/train", "set/test", "more/train")
    assert [dict(row.values) for row in source.rows("more/train")] == ROWS[1:]
    assert parts_like(source, "set") == ("set/train", "set/test")
    assert open_source("some/body:more[:1]").parts == ("more/train",)
    assert len(list(open_source("some/body:more[:1]").rows("more/train"))) == 1


def test_what_the_package_fails_with_is_told_by_its_class_alone(package: ModuleType) -> None:
    with pytest.raises(UsageError, match=r"no file no/body, .* \(ConnectionError\)") as caught:
        _ = open_source("no/body").parts
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_parquet_and_saved_folders_are_left_to_the_package(package: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    assert [values for values, _ in read(tmp_path / "a.parquet")] == ROWS
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "dataset_dict.json").write_text("{}")
    source = open_source(tmp_path / "saved")
    assert source.parts == ("train", "test")
    assert [dict(row.values) for row in source.rows("test")] == ROWS[:2]


@pytest.mark.parametrize("module", [None, ModuleType("datasets")], ids=["absent", "a folder of that name"])
def test_without_the_package_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: ModuleType | None
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", module)  # None makes an import fail.
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(UsageError, match=r"pip install 'safeedit\[datasets\]'"):
        read(tmp_path / "a.parquet")
    with pytest.raises(UsageError, match=r"pip install 'safeedit\[datasets\]'"):
        read("some/body")


def test_own_facts_and_texts_may_come_from_the_hub(package: ModuleType, tmp_path: Path) -> None:
    from safeedit.exams.own import own_data, with_own_data
    from safeedit.policy import Policy
    from safeedit.probes.suite import load_suite

    content = {
        "apiVersion": "safeedit/v1",
        "metadata": {"id": "own-1", "regime": "internal", "received": "2026-11-02"},
        "operations": [{"op": "erase", "subjects": [{"name": SECRET}]}],
        "probes": {"retained": "some/body:more", "datasets": ["wmdp:some/body"]},
    }
    own = own_data(Policy.model_validate_json(json.dumps(content)), tmp_path, ["lm-eval:hellaswag"])
    assert own.retained == "some/body:more"
    assert own.datasets == ("wmdp:some/body", "lm-eval:hellaswag")
    found = with_own_data(load_suite("smoke"), type(own)(retained=own.retained))
    assert found.own.texts == ("two", "three")
    with pytest.raises(PolicyError, match=r"some/body set/train:1:1: .* 'question' is missing") as caught:
        with_own_data(load_suite("smoke"), type(own)(datasets=own.datasets[:1]))
    assert len(caught.value.problems) == 9  # Three fields of each of three rows.
