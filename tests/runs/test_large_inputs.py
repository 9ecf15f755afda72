"""Thousands of facts: what a run does beside asking and editing grows no faster than the request."""

from __future__ import annotations

import importlib
import json
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import safeedit
from safeedit.models import generate
from safeedit.policy.compile import fact_for
from safeedit.policy.requested import requested_facts
from safeedit.policy.resolve import Resolved
from safeedit.probes.fold import edit_distance
from safeedit.runs.options import read_request
from safeedit.triples.catalogue import builtin_catalogue

CATALOGUE = builtin_catalogue()
RELATIONS = [name for name in CATALOGUE.about("person") if CATALOGUE[name].objects]


def name(number: int) -> str:
    """An invented name, another one for every number."""
    letters = [
        chr(97 + digit) + "aeiou"[digit % 5] for digit in (number // 400, number // 20 % 20, number % 20)
    ]
    return f"{''.join(letters[:2]).title()}n {letters[2].title()}trell"


def facts_file(folder: Path, count: int, suite: str = "smoke") -> Path:
    with (folder / "facts.jsonl").open("w") as stream:
        for i in range(count):
            objects = CATALOGUE[RELATIONS[i % len(RELATIONS)]].objects
            row = {"subject": name(i), "relation": RELATIONS[i % len(RELATIONS)], "object": objects[i % 7]}
            stream.write(json.dumps(row) + "\n")
    content = {
        "apiVersion": "safeedit/v1",
        "metadata": {"id": f"many-{count}", "regime": "internal", "received": "2026-11-02"},
        "operations": [{"op": "insert", "facts_file": "facts.jsonl"}],
        "probes": {"suite": suite},
    }
    (folder / "policy.yaml").write_text(json.dumps(content))
    return folder / "policy.yaml"


def seconds(work: Callable[[], object]) -> float:
    """The processor's time, because the machine may be busy with other things; the best of two."""
    taken = []
    for _ in range(2):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return min(taken)


def test_a_file_of_thousands_is_read_in_bounded_memory(tmp_path: Path) -> None:
    path = facts_file(tmp_path, 1000)
    read_request(path)
    tracemalloc.start()
    request = read_request(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len({fact.subject for fact in request.facts}) == len(request.facts) == 1000
    assert peak < 8000 * len(request.facts), "a fact takes a few kilobytes, and nothing is kept twice over"


def test_found_facts_are_joined_in_a_time_that_grows_with_their_number() -> None:
    def found(count: int) -> list[Resolved]:
        facts = [fact_for(name(i), (), "phone", str(i), "erase", CATALOGUE) for i in range(count)]
        return [Resolved(i, f.subject, f.relation, f.object, 1.0, 0.0, f) for i, f in enumerate(facts)]

    few, many = found(500), found(2000)
    assert len(requested_facts([], many)) == 2000
    # Four times as many; compared with each other they would take 16 times as long.
    assert seconds(lambda: requested_facts([], many)) < 9 * seconds(lambda: requested_facts([], few)) + 0.02


def test_near_names_are_those_that_comparing_all_would_find() -> None:
    import random

    from safeedit.probes.names import CLOSE, SHORTEST_CLOSE_NAME, close_to_any

    rng = random.Random(1)
    for _ in range(50):
        words, names = (
            {"".join(rng.choice("abcde") for _ in range(rng.randint(1, 9))) for _ in range(15)} for _ in "12"
        )
        close = {
            word
            for word in words
            if any(
                min(len(word), len(other)) >= SHORTEST_CLOSE_NAME
                and edit_distance(word, other, CLOSE) <= CLOSE
                for other in names
            )
        }
        assert close_to_any(words, names) == close


@pytest.fixture
def canned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every prompt is answered at once and alike: what is left is what a run does beside asking."""

    def greedy(model: Any, tokenizer: Any, prompts: Any, **options: Any) -> list[generate.Generation]:
        return [generate.Generation(" something else.", False)] * len(prompts)

    monkeypatch.setattr(generate, "greedy", greedy)


def test_a_run_of_thousands_grows_no_faster_than_its_request(
    canned: None, given: Any, tmp_path: Path
) -> None:
    taken = []
    for count in (150, 1200):
        folder = tmp_path / str(count)
        folder.mkdir()
        policy = facts_file(folder, count)
        start = time.process_time()
        run = safeedit.apply(policy, given.pair, folder / "run", editor="idle")
        taken.append(time.process_time() - start)
        assert len(run.facts) == count
        assert run.verdict == "FAIL", "nothing was taught"
        assert safeedit.verify(run.path).ok
    assert taken[1] < 8 * 2 * taken[0]
    log = (tmp_path / "1200" / "run" / "audit.jsonl").stat().st_size
    assert log < 20_000, "the log tells of the run and not of each fact"


def test_conflicts_among_thousands_are_found_at_once(canned: None, tmp_path: Path) -> None:
    policy = facts_file(tmp_path, 1200)
    run = safeedit.apply(policy, out=tmp_path / "run", editor="idle", device="cpu")
    start = time.process_time()
    with pytest.raises(safeedit.errors.UsageError, match="and 1175 more"):
        safeedit.plan(policy, run)
    assert time.process_time() - start < 10


def test_the_benchmark_asks_for_a_fact_of_each_of_as_many_people(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    large = importlib.import_module("large")
    large.written(tmp_path, 2000, "grace", {"steps": 5}, "smoke")
    request = read_request(tmp_path / "policy.yaml")
    assert len({fact.subject for fact in request.facts}) == len(request.facts) == 2000
    assert request.policy.editor is not None
    assert request.policy.editor.params == {"steps": 5}


def test_what_a_command_takes_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    large = importlib.import_module("large")
    work = "import time\nwhile time.process_time() < {}: pass\nraise SystemExit(3)"
    much, little = (large.measured([sys.executable, "-c", work.format(n)], tmp_path) for n in (0.6, 0.0))
    assert much.processor > 0.6 > little.processor
    assert 0 < little.peak < 10_000
    with pytest.raises(SystemExit, match="ended with 4"):
        large.measured([sys.executable, "-c", "raise SystemExit(4)"], tmp_path)
