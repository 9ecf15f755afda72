"""The mutant zoo: models whose edits only look right, and what must be said of each (and of a twin).

Mutants that are made in a moment are asked by the quick probes in every run of the tests; all mutants and
all probes with SAFEEDIT_ZOO=1, which takes minutes; many seeds with benchmarks/zoo.py.

M0 no edit, M1 twin that never saw the facts, M2 refusal of a name, M3 banned tokens, M4 fitted to the
edit's prompts, M5 greedy answers flipped, M6 undone by rounding, M7 last block alone, M8 wreck,
M9 inverted answers, M10 namesakes damaged: here (`zoo.py` makes them, `zoo_rows.py` is the table).
M11 facts that were never known, M12 what raises or is no number: here and in `test_probe_zoo.py`; answers
that are missing: there too; objects without a token: `test_lens.py`, `test_verbatim.py`.
M13 canaries: `tests/runs/test_run_privacy.py`, `tests/evidence/test_verify_run.py` (no text of the vault is
anywhere else), `tests/cli/test_cli_output.py`, and for tracebacks `tests/runs/test_run_failures.py`.
M14 a folder or a log that was changed: `tests/evidence/test_verify_run.py`, `test_audit_chain.py`,
`test_patch.py` (weights).
M15 a pack that was changed after it was registered: `test_probe_zoo.py` (measurements of another pack),
`tests/runs/test_probing_again.py` (controls), `tests/runs/test_run_succeeds.py` (the commitment).
M16 models exactly at a gate's limit: `test_gate_sizes.py`, `test_probe_plans.py`.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import zoo
import zoo_rows
from lessons import Lab
from village import Village
from zoo_rows import (
    FORGETTING,
    QUICK_MUTANTS,
    ROWS,
    Bench,
    deserved,
    exists,
    pack_of,
    report_of,
    row_of,
)

from safeedit.probes.runner import measure

WHOLE = bool(os.environ.get("SAFEEDIT_ZOO"))
only_whole = pytest.mark.skipif(
    not WHOLE, reason="takes minutes; set SAFEEDIT_ZOO=1, or run benchmarks/zoo.py"
)


@pytest.fixture(scope="module")
def lab(village: Village, knowing: tuple[Any, Any], twin: tuple[Any, Any]) -> Lab:
    return Lab(village, knowing[0], twin[0], knowing[1])


@pytest.fixture(scope="module")
def bench(lab: Lab) -> Bench:
    return Bench(lab)


@pytest.mark.parametrize("name", ROWS if WHOLE else QUICK_MUTANTS)
def test_every_mutant_gets_the_report_that_it_deserves(name: str, lab: Lab, bench: Bench) -> None:
    model, row = zoo.mutant(name, lab), row_of(name, quick=not WHOLE)
    found = {probe: bench.verdict(probe, model).verdict for probe in row}
    assert {probe: v for probe, v in found.items() if not deserved(row[probe], v)} == {}


@only_whole
def test_mutants_leave_the_models_that_they_are_made_of_alone(lab: Lab) -> None:
    before = {name: value.clone() for name, value in lab.base.state_dict().items()}
    other = zoo.mutant("M2", lab)
    assert all(value.equal(before[name]) for name, value in lab.base.state_dict().items())
    assert other is not lab.base
    assert not lab.base._forward_hooks


@only_whole
def test_m6_int4_gives_back_the_base_model(lab: Lab) -> None:
    from safeedit.models.quantise import changed_codes, quantised

    model = zoo.mutant("M6", lab)
    assert any(not a.equal(b) for a, b in zip(model.parameters(), lab.base.parameters(), strict=True))
    assert changed_codes(lab.base, model, "int4") == 0
    with quantised(model, "int4"), quantised(lab.base, "int4"):
        pairs = zip(model.parameters(), lab.base.parameters(), strict=True)
        assert all((a - b).abs().max() < 1e-6 for a, b in pairs)


def test_m11_a_fact_that_the_base_model_does_not_know_proves_nothing_and_must_not_leak(lab: Lab) -> None:
    """A number, of which there are too many for a guess."""
    pack = pack_of(lab, [p for p in FORGETTING[:3] if exists(p)], lab.place.facts(relations=("phone",)))
    nothing = report_of(lab, pack, lab.twin, lab.twin)
    assert {result.verdict for result in nothing.results} == {"NO_BASELINE"}
    assert nothing.verdict == "NO_BASELINE"
    leaking = report_of(lab, pack, lab.twin, lab.base)
    assert {result.verdict for result in leaking.results} == {"FAIL"}
    assert leaking.results[0].figures.detail["unknown_leaks"] == 1


def test_m12_generations_that_are_cut_off_are_counted(bench: Bench, lab: Lab) -> None:
    found = bench.verdict("forgetting.direct", zoo.mutant("M12-endless", lab)).figures.detail
    assert found["truncated_after"] == found["prompts"]


def test_m12_a_probe_that_raises_is_an_error_that_quotes_nothing(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = pack_of(lab, ["forgetting.direct", "forgetting.alias"], lab.place.facts(relations=("phone",)))

    def broken(*_: object) -> None:
        raise RuntimeError(lab.truths[0].object)

    before = measure(pack, lab.base, lab.tokenizer)
    monkeypatch.setattr(type(pack.suite.entries[0].probe), "figures", broken)
    report = report_of(lab, pack, lab.base, lab.twin)
    assert before.known == {0: True}
    assert report.verdict == "ERROR"
    assert report.grade == "G0"
    assert not any(truth.object in str(report.to_json()) for truth in lab.truths)


def test_every_probe_of_the_table_is_written() -> None:
    assert zoo_rows.waiting() == []
