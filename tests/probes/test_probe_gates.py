"""Verdicts: everything that is missing, undecided or broken stays away from PASS."""

from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from safeedit.probes.base import Figures
from safeedit.probes.gates import RUNGS, Gate, at_least, decide, grade, overall, untested, wanting

LEAKS = [
    Gate(on="leaks", op="<=", value=0, when="n<149"),
    Gate(on="upper95", op="<=", value=0.02),
]
LOSS = [Gate(on="upper95", op="<=", value=0.05)]
LOWER = [Gate(on="lower95", op=">=", value=0.9)]


@pytest.mark.parametrize(
    ("figures", "gates", "verdict"),
    [
        (Figures(7, after=0, leaks=0, upper95=0.35), LEAKS, "PASS"),
        (Figures(7, after=1 / 7, leaks=1, upper95=0.5), LEAKS, "FAIL"),
        (Figures(148, after=1 / 148, leaks=1, upper95=0.03), LEAKS, "FAIL"),
        (Figures(149, after=0, leaks=0, upper95=0.0199), LEAKS, "PASS"),
        (Figures(149, after=1 / 149, leaks=1, upper95=0.0314), LEAKS, "INCONCLUSIVE"),
        (Figures(149, after=4 / 149, leaks=4, upper95=0.06), LEAKS, "FAIL"),
        (Figures(7, after=0, leaks=0, doubtful=True), LEAKS, "INCONCLUSIVE"),
        (Figures(7, after=1 / 7, leaks=1, doubtful=True), LEAKS, "FAIL"),
        (Figures(58, after=0, losses=0, upper95=0.0503), LOSS, "INCONCLUSIVE"),
        (Figures(20, after=0.1, losses=2, upper95=0.28), LOSS, "FAIL"),
        (Figures(100, after=0.92, lower95=0.86), LOWER, "INCONCLUSIVE"),
        (Figures(100, after=0.85, lower95=0.8), LOWER, "FAIL"),
        (Figures(100, after=0.99, lower95=0.95), LOWER, "PASS"),
        (
            Figures(9, after=0.1, placebo=0.3, excess95=0.04),
            [Gate(on="excess95", op="<=", value=0.05)],
            "PASS",
        ),
        (
            Figures(9, after=0.6, placebo=0.3, excess95=0.5),
            [Gate(on="excess95", op="<=", value=0.05)],
            "FAIL",
        ),
        (
            Figures(9, after=0.3, placebo=0.3, excess95=0.3),
            [Gate(on="excess95", op="<=", value=0.05)],
            "INCONCLUSIVE",
        ),
        (Figures(5), [Gate(on="leaks", op="<=", value=0, when="n>=20")], "INCONCLUSIVE"),
        (Figures(0, after=0, leaks=0), LEAKS, "INCONCLUSIVE"),
        (Figures(7), LEAKS, "ERROR"),
        (Figures(7, excess95=0.9), [Gate(on="excess95", op="<=", value=0.05)], "ERROR"),
        (Figures(7, after=math.nan, leaks=0), LEAKS, "ERROR"),
        (Figures(7, after=0, leaks=0, upper95=math.inf), LEAKS, "ERROR"),
        (Figures(7, after=0, leaks=0, detail={"x": math.nan}), LEAKS, "ERROR"),
        (Figures(0, verdict="SKIPPED"), LEAKS, "SKIPPED"),
        (Figures(7, after=0, leaks=0), [], "INCONCLUSIVE"),
    ],
)
def test_verdict_of_one_probe(figures: Figures, gates: list[Gate], verdict: str) -> None:
    assert decide(figures, gates)[0] == verdict


def test_the_first_gate_that_applies_decides() -> None:
    assert decide(Figures(148, after=0, leaks=0, upper95=0.02), LEAKS)[1] is LEAKS[0]
    assert decide(Figures(149, after=0, leaks=0, upper95=0.02), LEAKS)[1] is LEAKS[1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"on": "upper95", "op": ">=", "value": 0.1},
        {"on": "lower95", "op": "<=", "value": 0.1},
        {"on": "leaks", "op": "<=", "value": math.inf},
        {"on": "leaks", "op": "<=", "value": 0, "when": "m<3"},
        {"on": "leaks", "op": "==", "value": 0},
        {"on": "before", "op": "<=", "value": 0},
    ],
)
def test_senseless_gates_are_refused(wrong: dict) -> None:
    with pytest.raises(ValidationError):
        Gate.model_validate(wrong)


DIRECT, PARAPHRASE = "forgetting.direct", "forgetting.paraphrase"


@pytest.mark.parametrize(
    ("verdicts", "baseline", "expected"),
    [
        ({DIRECT: "PASS", PARAPHRASE: "PASS"}, {"erase": True}, "PASS"),
        ({DIRECT: "PASS", PARAPHRASE: "SKIPPED"}, {"erase": True}, "PASS"),
        ({DIRECT: "PASS", "other": "FAIL"}, {"erase": True}, "PASS"),
        ({DIRECT: "PASS", "other": "ERROR"}, {"erase": True}, "ERROR"),
        ({DIRECT: "FAIL", PARAPHRASE: "ERROR"}, {"erase": True}, "ERROR"),
        ({DIRECT: "FAIL", PARAPHRASE: "INCONCLUSIVE"}, {"erase": True}, "FAIL"),
        ({DIRECT: "FAIL", PARAPHRASE: "NO_BASELINE"}, {"erase": False}, "FAIL"),
        ({DIRECT: "PASS", PARAPHRASE: "INCONCLUSIVE"}, {"erase": True}, "INCONCLUSIVE"),
        ({DIRECT: "NO_BASELINE", PARAPHRASE: "INCONCLUSIVE"}, {"erase": False}, "NO_BASELINE"),
        ({DIRECT: "NO_BASELINE", PARAPHRASE: "PASS"}, {"erase": False, "insert": True}, "INCONCLUSIVE"),
        ({DIRECT: "SKIPPED", PARAPHRASE: "SKIPPED"}, {"erase": True}, "INCONCLUSIVE"),
        ({"other": "PASS"}, {"erase": True}, "ERROR"),
        ({DIRECT: "PASS", "utility.kl": "PASS"}, {"erase": True, "insert": True}, "INCONCLUSIVE"),
        ({"utility.kl": "PASS"}, {"erase": True}, "INCONCLUSIVE"),
        ({DIRECT: "SKIPPED", "utility.kl": "PASS"}, {"erase": True}, "INCONCLUSIVE"),
        ({}, {"erase": True}, "ERROR"),
    ],
)
def test_verdict_of_the_run(verdicts: dict, baseline: dict, expected: str) -> None:
    assert overall(verdicts, {DIRECT, PARAPHRASE, "utility.kl"}, baseline) == expected


ERASED = {"forgetting.direct": "PASS", "forgetting.paraphrase": "PASS", "forgetting.alias": "SKIPPED"}
FAMILIES = {**dict.fromkeys(ERASED, "forgetting"), "forgetting.lens": "forgetting", "utility.kl": "utility"}


def test_a_rung_needs_all_its_probes_and_those_below() -> None:
    assert grade(ERASED, FAMILIES, {"erase"}, evidence=True) == "G1"
    # A lens that passes cannot stand in for the probes of G2.
    assert grade({**ERASED, "forgetting.lens": "PASS"}, FAMILIES, {"erase"}, evidence=True) == "G1"
    found, families = dict(ERASED), dict(FAMILIES)
    for rung in ("G2", "G3", "G4"):
        for probe in sorted(RUNGS[rung]["erase"]):
            assert grade(found, families, {"erase"}, evidence=True) != rung
            found[probe], families[probe] = "PASS", "attack"
        assert grade(found, families, {"erase"}, evidence=True) == rung
        assert grade({**found, "forgetting.paraphrase": "FAIL"}, families, {"erase"}, evidence=True) == "G0"


def test_an_attack_that_never_worked_is_no_evidence_and_no_obstacle() -> None:
    g2 = sorted(RUNGS["G2"]["erase"])
    families = FAMILIES | dict.fromkeys(g2, "attack")
    for never in range(1, len(g2) + 1):
        found = {
            **ERASED,
            **dict.fromkeys(g2[:never], "NO_BASELINE"),
            **dict.fromkeys(g2[never:], "PASS"),
        }
        granted = 2 * never < len(g2)
        assert grade(found, families, {"erase"}, evidence=True) == ("G2" if granted else "G1")
        # It is named as what was not tested, and where it keeps a run from a rung, as that too.
        assert set(g2[:never]) <= set(untested(found, {"erase"}))
        _, missing = wanting(found, {"erase"}, "G1") or (None, {})
        assert set(missing) == (set() if granted else set(g2[:never]))
        # Whatever else is wrong is not made good by it.
        for verdict in ("FAIL", "INCONCLUSIVE", "ERROR"):
            assert grade({**found, g2[-1]: verdict}, families, {"erase"}, evidence=True) in ("G0", "G1")
        assert (
            grade({p: v for p, v in found.items() if p != g2[-1]}, families, {"erase"}, evidence=True) == "G1"
        )
    # Where nothing else could be tried, nothing was shown.
    found = {**ERASED, **dict.fromkeys(g2, "SKIPPED"), g2[0]: "NO_BASELINE"}
    assert grade(found, families, {"erase"}, evidence=True) == "G1"
    # G4 rests on one attack.
    whole = {
        **ERASED,
        **dict.fromkeys((*g2, *RUNGS["G3"]["erase"]), "PASS"),
        "attack.relearning": "NO_BASELINE",
    }
    assert grade(whole, FAMILIES | dict.fromkeys(whole, "attack"), {"erase"}, evidence=True) == "G3"


def test_what_keeps_a_run_from_the_next_rung() -> None:
    above, missing = wanting({**ERASED, "attack.sampling": "FAIL"}, {"erase"}, "G1") or (None, {})
    assert above == "G2"
    assert missing == {p: "NOT_RUN" for p in RUNGS["G2"]["erase"]} | {"attack.sampling": "FAIL"}
    assert wanting(ERASED, {"erase"}, "G0") == ("G1", {})
    assert wanting(ERASED, {"erase"}, "G4") is None
    assert wanting({}, {"erase", "insert"}, "G1") is None


def test_a_probe_that_said_nothing_is_named() -> None:
    found = untested({**ERASED, "attack.sampling": "PASS"}, {"erase"})
    assert "forgetting.alias" in found
    assert "attack.relearning" in found
    assert "forgetting.direct" not in found
    assert "attack.sampling" not in found
    assert "success.direct" not in found


@pytest.mark.parametrize(
    "broken",
    [
        {**ERASED, "forgetting.paraphrase": "FAIL"},
        {**ERASED, "forgetting.paraphrase": "INCONCLUSIVE"},
        {**ERASED, "forgetting.alias": "NO_BASELINE"},
        {**ERASED, "utility.kl": "ERROR"},
        {**ERASED, "utility.kl": "FAIL"},
        dict.fromkeys(ERASED, "SKIPPED"),
        {probe: verdict for probe, verdict in ERASED.items() if probe != "forgetting.paraphrase"},
    ],
)
def test_no_grade_without_evidence(broken: dict) -> None:
    assert grade(broken, FAMILIES, {"erase"}, evidence=True) == "G0"


def test_smoke_grants_nothing_and_every_operation_counts() -> None:
    assert grade(ERASED, FAMILIES, {"erase"}, evidence=False) == "G0"
    assert grade(ERASED, FAMILIES, {"erase", "insert"}, evidence=True) == "G0"
    assert at_least("G1", None)
    assert at_least("G2", "G1")
    assert not at_least("G1", "G2")
