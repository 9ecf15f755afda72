"""Suites load or say line by line what is wrong; every probe file is registered and documented."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import safeedit_probes
from pydantic import ValidationError

from safeedit.errors import PolicyError, UsageError
from safeedit.exams import DATASETS
from safeedit.probes import PROBES
from safeedit.probes.base import Probe
from safeedit.probes.suite import asks_no_less, load_suite, suite_names

FOLDER = Path(safeedit_probes.__file__).parent


@pytest.mark.parametrize("name", ["smoke", "standard", "full"])
def test_shipped_suites_load_and_are_json(name: str) -> None:
    suite = load_suite(name)
    assert suite.name == name
    assert json.loads(json.dumps(suite.document)) == suite.document
    assert suite.document["probes"][0]["options"]["tokens"] in (32, 64)


def test_smoke_says_that_it_is_no_evidence() -> None:
    suite = load_suite("smoke")
    assert not suite.evidence
    assert "not evidence" in suite.note
    assert load_suite("standard").evidence


@pytest.mark.parametrize("name", ["standard", "full"])
def test_a_suite_that_is_evidence_runs_every_probe_that_ships(name: str) -> None:
    assert {entry.probe.id for entry in load_suite(name).entries} == set(PROBES.names())
    assert set(suite_names()) == {path.stem for path in (FOLDER / "suites").glob("*.yaml")}


def test_full_gates_as_standard_does_and_asks_no_less() -> None:
    """What passes the one by its settings alone would be a hole in the other."""
    some, most = ({e.probe.id: e for e in load_suite(name).entries} for name in ("standard", "full"))
    for name, entry in some.items():
        assert (entry.gates, entry.required) == (most[name].gates, most[name].required), name
        assert asks_no_less(most[name].probe, entry.probe), name
        # Of everything that is a number there is one that would be less.
        for option, value in entry.probe.options.model_dump().items():
            if type(value) is int and value > 1:
                options = {**entry.probe.options.model_dump(mode="json"), option: value - 1}
                with suppress(ValidationError):  # some settings are at their least
                    assert not asks_no_less(type(entry.probe)(options), entry.probe), (name, option)


def test_every_probe_file_is_registered_under_its_own_name() -> None:
    files = {path.stem for path in FOLDER.glob("*_*.py") if not path.stem.startswith("_")}
    data_sets = {f"dataset_{name.replace('-', '_')}" for name in DATASETS}
    assert files == {name.replace(".", "_") for name in PROBES} | data_sets


@pytest.mark.parametrize("name", sorted(PROBES))
def test_every_probe_says_what_it_measures(name: str) -> None:
    probe = PROBES.get(name)
    assert issubclass(probe, Probe)
    assert probe.id == name
    assert probe.family == name.split(".")[0]
    text = " ".join((probe.__doc__ or "").split())
    for word in ("Metric:", "Unit:", "Protocol:"):
        assert word in text, word
    assert bool(probe.gateable) == (probe.family != "membership")
    assert probe().protocol


def test_reading_a_suite_does_not_import_torch() -> None:
    script = "import sys, safeedit.probes.suite as s; s.load_suite('standard'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


GATE = "gates: [{on: leaks, op: <=, value: 0}]"

WRONG = [
    ("", "1:1", "empty"),
    ("name: x\n", "1:1", "'probes' is missing"),
    ("name: x\nprobes: []\n", "2:9", "'probes' must not be empty"),
    (
        "name: x y\nprobes:\n  - {id: forgetting.direct, " + GATE + "}\n",
        "1:7",
        "'name' must be 1 to 64 letters",
    ),
    (
        "name: x\nprobe: 1\nprobes:\n  - {id: forgetting.direct, " + GATE + "}\n",
        "2:1",
        "unknown key; did you mean 'probes'?",
    ),
    (
        "name: x\nprobes:\n  - {id: forgetting.dirct, " + GATE + "}\n",
        "3:10",
        "did you mean 'forgetting.direct'",
    ),
    ("name: x\nprobes:\n  - {id: forgetting.direct}\n", "3:5", "needs at least one gate"),
    (
        "name: x\nprobes:\n  - id: forgetting.direct\n    options: {token: 3}\n    " + GATE + "\n",
        "4:15",
        "did you mean 'tokens'",
    ),
    (
        "name: x\nprobes:\n  - id: forgetting.direct\n    options: {tokens: 0}\n    " + GATE + "\n",
        "4:23",
        "'tokens' must not be below 1",
    ),
    (
        "name: x\nprobes:\n  - id: forgetting.direct\n    gates: [{on: losses, op: <=, value: 0}]\n",
        "4:18",
        "may stand on: after, leaks, upper95",
    ),
    (
        "name: x\nprobes:\n  - id: forgetting.direct\n    gates: [{on: upper95, op: '>=', value: 0}]\n",
        "4:13",
        "can only be compared with <=",
    ),
    (
        "name: x\nprobes:\n  - id: forgetting.direct\n    gates: [{on: leaks, op: <=, value: 0, when: m}]\n",
        "4:49",
        "'when' must be such as n<149",
    ),
    (
        "name: x\nprobes:\n" + ("  - {id: forgetting.direct, " + GATE + "}\n") * 2,
        "4:10",
        "already listed",
    ),
    ("name: x\nprobes:\n  - {id: membership.scores}\n", "3:5", "is advice and decides nothing"),
    (
        "name: x\nprobes:\n  - {id: forgetting.direct, " + GATE + "}\n"
        "  - {id: membership.scores, required: false, gates: [{on: after, op: <=, value: 1}]}\n",
        "4:59",
        "may stand on: none, it is advice",
    ),
    (
        "name: x\nprobes:\n  - {id: forgetting.direct, required: false, " + GATE + "}\n",
        "3:3",
        "at least one probe must be required",
    ),
    ("name: x\nname: y\n", "2:1", "already given"),
    ("name: &a x\nprobes: *a\n", "1:7", "anchors"),
]


@pytest.mark.parametrize(("text", "place", "message"), WRONG)
def test_what_is_wrong_with_a_suite_is_told_with_its_place(
    tmp_path: Path, text: str, place: str, message: str
) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(PolicyError) as caught:
        load_suite(path)
    told = str(caught.value)
    assert f"own.yaml:{place}: " in told
    assert message in told
    assert "\n" not in told


def test_everything_wrong_with_a_suite_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(
        "name: own\nQuackenbush: 1\nprobes:\n"
        "  - {id: forgeting.direct, " + GATE + "}\n"
        "  - {id: forgetting.direct, options: {token: 3}, "
        "gates: [{on: leaks, op: <=, value: 0, when: n>>149}]}\n"
        "  - {id: forgetting.paraphrase, required: maybe, gates: [{on: upper95, op: '>=', value: zero}]}\n"
        "  - {id: forgetting.alias, gates: [{on: upper95, op: '>=', value: 0}]}\n"
        "  - just text\n",
        "utf-8",
    )
    with pytest.raises(PolicyError) as caught:
        load_suite(path)
    told = [str(problem).removeprefix(f"{path}:") for problem in caught.value.problems]
    assert [line.split(": ")[0] for line in told] == [
        "2:1", "4:10", "5:39", "5:94", "6:43", "6:89", "7:36", "8:5",
    ]  # fmt: skip
    assert (
        told[0]
        == "2:1: unknown key; the keys are: name, note, evidence, controls, retained, baseline, probes"
    )
    assert "did you mean 'forgetting.direct'" in told[1]
    assert told[2] == "5:39: unknown option; did you mean 'tokens'?"
    assert told[3] == "5:94: 'when' must be such as n<149"
    assert told[4] == "6:43: 'required' must be true or false, not text"
    assert told[5] == "6:89: 'value' must be a number, not text"
    assert told[6] == "7:36: upper95 can only be compared with <="
    assert told[7].startswith("8:5: an entry of 'probes' must be a mapping")


def test_an_unknown_suite_is_told_from_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'standard'"):
        load_suite("standrad")
    with pytest.raises(PolicyError, match="no such file"):
        load_suite(tmp_path / "none.yaml")


def test_files_of_a_suite_are_found_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(
        "name: own\ncontrols: mine.jsonl\nprobes:\n  - {id: forgetting.direct, " + GATE + "}\n", "utf-8"
    )
    suite = load_suite(path)
    assert suite.controls == tmp_path / "mine.jsonl"
    assert suite.retained is None
    assert str(tmp_path) not in json.dumps(suite.document)


def test_no_other_document_may_call_itself_like_a_shipped_suite(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    gate = "[{on: leaks, op: <=, value: 0}]"
    file.write_text(f"name: standard\nprobes:\n  - {{id: forgetting.direct, gates: {gate}}}\n")
    with pytest.raises(PolicyError, match=r"mine\.yaml:1:7: this is the name of a suite that ships"):
        load_suite(file)
