"""The mutant zoo: models whose edits only look right, and what must be said of each (and of a twin)."""

from __future__ import annotations

import os
from typing import Any

import pytest
import zoo
import zoo_rows
from lessons import Lab
from village import Village
from zoo_rows import FORGETTING, ROWS, Bench, exists, pack_of, report_of

from safeedit.probes.runner import measure

pytestmark = pytest.mark.skipif(
    not os.environ.get("SAFEEDIT_ZOO"), reason="takes minutes; set SAFEEDIT_ZOO=1, or run benchmarks/zoo.py"
)

CHANCE = {("M1", probe) for probe in ("forgetting.direct", "forgetting.alias")}
"""What the twin guesses right here, of a closed list, is counted as a leak, whatever strangers are told."""


@pytest.fixture(scope="module")
def lab(village: Village, knowing: tuple[Any, Any], twin: tuple[Any, Any]) -> Lab:
    return Lab(village, knowing[0], twin[0], knowing[1])


@pytest.fixture(scope="module")
def bench(lab: Lab) -> Bench:
    return Bench(lab)


@pytest.mark.parametrize("name", ROWS)
def test_every_mutant_gets_the_report_that_it_deserves(name: str, lab: Lab, bench: Bench) -> None:
    model = zoo.mutant(name, lab)
    row = {probe: wanted for probe, wanted in ROWS[name].items() if (name, probe) not in CHANCE}
    asked = {probe: wanted for probe, wanted in row.items() if exists(probe)}
    found = {probe: bench.verdict(probe, model) for probe in asked}
    assert {probe: result.verdict for probe, result in found.items()} == asked


@pytest.mark.xfail(reason="direct questions are not yet held against invented subjects", strict=True)
def test_m1_what_a_twin_guesses_is_no_leak(lab: Lab, bench: Bench) -> None:
    assert {bench.verdict(probe, lab.twin).verdict for _, probe in sorted(CHANCE)} == {"PASS"}


def test_mutants_leave_the_models_that_they_are_made_of_alone(lab: Lab) -> None:
    before = {name: value.clone() for name, value in lab.base.state_dict().items()}
    other = zoo.mutant("M2", lab)
    assert all(value.equal(before[name]) for name, value in lab.base.state_dict().items())
    assert other is not lab.base
    assert not lab.base._forward_hooks


def test_m6_int4_gives_back_the_base_model(lab: Lab) -> None:
    from safeedit.models.quantise import changed_codes, quantised

    model = zoo.mutant("M6", lab)
    assert any(not a.equal(b) for a, b in zip(model.parameters(), lab.base.parameters(), strict=True))
    assert changed_codes(lab.base, model, "int4") == 0
    with quantised(model, "int4"), quantised(lab.base, "int4"):
        pairs = zip(model.parameters(), lab.base.parameters(), strict=True)
        assert all((a - b).abs().max() < 1e-6 for a, b in pairs)


def test_m11_a_fact_that_the_base_model_does_not_know_proves_nothing_and_must_not_leak(lab: Lab) -> None:
    pack = pack_of(lab, [p for p in FORGETTING[:3] if exists(p)])
    nothing = report_of(lab, pack, lab.twin, lab.twin)
    assert {result.verdict for result in nothing.results} == {"NO_BASELINE"}
    assert nothing.verdict == "NO_BASELINE"
    leaking = report_of(lab, pack, lab.twin, lab.base)
    assert {result.verdict for result in leaking.results} == {"FAIL"}
    assert leaking.results[0].figures.detail["unknown_leaks"] == 4


def test_m12_generations_that_are_cut_off_are_counted(bench: Bench, lab: Lab) -> None:
    found = bench.verdict("forgetting.direct", zoo.mutant("M12-endless", lab)).figures.detail
    assert found["truncated_after"] == found["prompts"]


def test_m12_a_probe_that_raises_is_an_error_that_quotes_nothing(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = pack_of(lab, ["forgetting.direct", "forgetting.paraphrase"])

    def broken(*_: object) -> None:
        raise RuntimeError(lab.truths[0].object)

    before = measure(pack, lab.base, lab.tokenizer)
    monkeypatch.setattr(type(pack.suite.entries[0].probe), "figures", broken)
    report = report_of(lab, pack, lab.base, lab.twin)
    assert before.known == dict.fromkeys(range(4), True)
    assert report.verdict == "ERROR"
    assert report.grade == "G0"
    assert not any(truth.object in str(report.to_json()) for truth in lab.truths)


@pytest.mark.skipif(not zoo_rows.waiting(), reason="every probe of the table exists")
def test_rows_wait_for_probes_that_are_not_written() -> None:
    pytest.skip(", ".join(f"{name}: {probe}" for name, probe in zoo_rows.waiting()))
