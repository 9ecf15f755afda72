"""`--dataset`, as somebody types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_types import Command

POLICY = {
    "apiVersion": "safeedit/v1",
    "metadata": {"id": "sets-1", "regime": "internal", "received": "2026-11-02"},
    "operations": [{"op": "erase", "facts_file": "zsre:set.json"}],
}
RECORD = {
    "subject": "Zenobia Harkaway",
    "src": "Where did Zenobia Harkaway study?",
    "answers": ["Illinois Tech"],
    "rephrase": "Which university did Zenobia Harkaway attend?",
}


@pytest.fixture
def folder(here: Path) -> Path:
    (here / "policy.yaml").write_text(json.dumps(POLICY))
    (here / "set.json").write_text(json.dumps([RECORD]))
    return here


@pytest.mark.parametrize("verb", ["erase", "plan", "probe"])
@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("set.json", "a data set is given as NAME:PATH"),
        ("zrse:set.json", "unknown data set 'zrse'; did you mean 'zsre'?"),
        ("zsre:none.json", "none.json: there is no such file or folder"),
        ("wmdp:set.json", "set.json:1:2: the field 'question' is missing"),
    ],
)
def test_a_bad_data_set_is_one_line_and_exit_2(
    safeedit: Command, folder: Path, verb: str, dataset: str, message: str
) -> None:
    done = safeedit(verb, "--policy", "policy.yaml", "--dataset", dataset)
    assert done.code == 2
    assert message in done.err
    assert "Zenobia" not in done.err + done.out
    assert not (folder / "runs").exists()


def test_the_plan_gives_the_command_with_its_data_sets() -> None:
    from safeedit_cli.plan import _command

    choices = {"suite": "smoke", "seed": 0, "datasets": ["zsre:set.json", "wmdp:some set"]}
    told = _command(Path("p.yaml"), ("erase",), choices)
    assert told == (
        "safeedit erase --policy p.yaml --suite smoke --dataset zsre:set.json --dataset 'wmdp:some set'"
    )


def test_data_sets_are_listed_with_the_probes(safeedit: Command, here: Path) -> None:
    rows = safeedit("probes", "--json").json()["datasets"]
    assert {row["name"] for row in rows} == {
        "counterfact", "zsre", "tofu", "rwku", "wmdp", "muse", "lm-eval"
    }  # fmt: skip
    assert all(row["summary"].endswith(".") for row in rows)


def test_figures_are_shown_with_their_intervals_and_without_a_verdict(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from safeedit_cli.render import Screen
    from safeedit_cli.views import show_report

    from safeedit.probes.base import Figures
    from safeedit.probes.gates import Gate
    from safeedit.probes.report import ProbeReport, ProbeResult

    detail = {
        "accuracy_bio_before": 0.64,
        "accuracy_bio_after": 0.27,
        "accuracy_bio_change_low95": -0.41,
        "accuracy_bio_change_high95": -0.33,
        "score_before": 0.5,
        "score_after": 0.75,
        "empty_after": 3,
        "empty_before": 0,
        "held": 1273,
    }
    figures = Figures(1273, before=0.64, after=0.27, detail=detail)
    gate = Gate(on="after", op="<=", value=0.3)
    results = [
        ProbeResult(
            f"dataset.{name}", "forgetting", None, "accuracy", "record", "p", False, verdict, figures, gate
        )
        for name, verdict, gate in (("wmdp", "INCONCLUSIVE", None), ("muse", "PASS", gate))
    ]
    show_report(Screen(), ProbeReport("s", "", False, tuple(results), "INCONCLUSIVE", "G0", 1, 1))
    shown = capsys.readouterr().out
    rows = [" ".join(line.split()) for line in shown.splitlines()]
    assert any(row.startswith("dataset.wmdp, 1273 records, decides nothing") for row in rows)
    assert "accuracy_bio 0.640 0.270 -0.410 … -0.330" in rows
    assert "score 0.500 0.750" in rows
    assert "empty" not in shown
    assert shown.count("0.750") == 1  # A gated one is judged in the table above, like every probe.
