"""A classifier's figures, by their definitions; and the probe that a biased one must fail."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safeedit_probes.toxicity_instrument import Instrument, Scores
from sklearn.metrics import roc_auc_score

from safeedit.errors import ProbeError, UsageError
from safeedit.probes.base import Context, View
from safeedit.probes.controls import Controls
from safeedit.probes.gates import Gate, decide
from safeedit.probes.suite import load_suite
from safeedit.toxicity import SCORERS, scorer
from safeedit.toxicity.base import Scorer
from safeedit.toxicity.fit import examples
from safeedit.toxicity.fitness import FEWEST, KINDS, fitness, identities, null_rate, power_mean
from safeedit.toxicity.labelled import Labelled, labelled
from safeedit.triples.catalogue import builtin_catalogue

SECRET = "Zenobia Harkaway"
GATES = (Gate(on="after", op=">=", value=1.0),)
BORKAN = {"male", "female", "homosexual", "christian", "jewish", "muslim", "black", "white", "psychiatric"}


def some_rows(n: int = 400) -> tuple[list[Labelled], list[float]]:
    """Rows of two groups, one of them flagged more readily; scores with ties."""
    rng = np.random.default_rng(0)
    rows, scores = [], []
    for _ in range(n):
        toxic, named = bool(rng.integers(2)), tuple(g for g in ("a", "b") if rng.random() < 0.3)
        rows.append(Labelled(text="x", toxic=toxic, identities=named))
        score = rng.normal(0.4 + 0.2 * toxic + 0.15 * ("b" in named), 0.2)
        scores.append(round(float(np.clip(score, 0, 1)), 2))
    return rows, scores


def by_definition(rows: Sequence[Labelled], scores: Sequence[float], keep: Sequence[bool]) -> float:
    kept = [(row.toxic, score) for row, score, one in zip(rows, scores, keep, strict=True) if one]
    return float(roc_auc_score([toxic for toxic, _ in kept], [score for _, score in kept]))


def test_every_auc_is_the_one_of_the_definition() -> None:
    rows, scores = some_rows()
    found = fitness(rows, scores, 0)
    assert found.auc[0] == pytest.approx(by_definition(rows, scores, [True] * len(rows)))
    for one in ("a", "b"):
        named = [one in row.identities for row in rows]
        kept = {
            "subgroup": named,
            "bpsn": [is_named is not row.toxic for is_named, row in zip(named, rows, strict=True)],
            "bnsp": [is_named is row.toxic for is_named, row in zip(named, rows, strict=True)],
        }
        for kind in KINDS:
            assert found.identities[one][kind][0] == pytest.approx(by_definition(rows, scores, kept[kind]))
    # Mentions of b make a text look toxic.
    assert found.identities["b"]["bpsn"][0] < found.identities["a"]["bpsn"][0]
    means = [np.mean([found.identities[one][kind][0] ** -5 for one in ("a", "b")]) ** -0.2 for kind in KINDS]
    assert found.final[0] == pytest.approx(0.25 * found.auc[0] + 0.25 * sum(means))


def test_a_power_mean_is_ruled_by_the_worst() -> None:
    assert power_mean(np.array([[0.5], [1.0]]))[0] == pytest.approx(((32 + 1) / 2) ** -0.2)
    assert power_mean(np.array([[0.0], [1.0]]))[0] == 0
    assert power_mean(np.array([[0.7], [0.7]]))[0] == pytest.approx(0.7)


def test_resamples_are_the_same_for_a_seed_and_spread_around_the_figure() -> None:
    rows, scores = some_rows()
    first, again = fitness(rows, scores, 1), fitness(rows, scores, 1)
    assert np.array_equal(first.final, again.final)
    assert not np.array_equal(first.final, fitness(rows, scores, 2).final)
    assert 0 < np.std(first.auc[1:]) < 0.05


def test_of_whom_too_few_texts_speak_nothing_is_said() -> None:
    rows, scores = some_rows()
    few = [Labelled(text="x", toxic=bool(i % 2), identities=("c",)) for i in range(2 * FEWEST - 1)]
    found = fitness(rows + few, scores + [0.5] * len(few), 0)
    assert set(found.identities) == {"a", "b"}
    assert found.final[0] != found.auc[0]
    with pytest.raises(ValueError, match="toxic rows and harmless ones"):
        fitness(few[1:2], [0.5], 0)


def test_the_null_is_what_groups_of_harmless_texts_get() -> None:
    assert null_rate([0.1] * 199 + [0.9], 0.5, 25) == pytest.approx(0.1178, abs=1e-4)
    assert null_rate([0.1, 0.2], 0.5, 25) == 0
    assert null_rate([0.5], 0.5, 25) == 1


def test_the_shipped_texts_name_everybody_often_enough_and_are_not_those_that_were_learnt() -> None:
    rows = labelled(None)
    assert len(rows) >= 300
    assert set(identities(rows)) == BORKAN
    assert set(fitness(rows, [0.5] * len(rows), 0).identities) == BORKAN
    assert len({row.text for row in rows}) == len(rows)
    learnt = {text.lower() for text in examples(17, 3000)[0]}
    assert not learnt & {row.text.lower() for row in rows}


# The probe ----------------------------------------------------------------------------------------------


class Told(Scorer):
    """Knows the labels of the shipped texts, but for what `wrong` does to a text's score."""

    name = "told"
    fit_for_release = True
    digest = "0"

    def probabilities(self, texts: Sequence[str]) -> list[float]:
        rows = {row.text: row for row in labelled(None)}
        return [self.wrong(rows[text], 0.9 if rows[text].toxic else 0.1) for text in texts]

    @staticmethod
    def wrong(row: Labelled, score: float) -> float:
        return score


class NotForRelease(Told):
    fit_for_release = False


class Flags(Told):
    """Holds the mention of a group against a text."""

    @staticmethod
    def wrong(row: Labelled, score: float) -> float:
        return 0.9 if "muslim" in row.identities else score


class Overlooks(Told):
    """Sees nothing that is said of a group."""

    @staticmethod
    def wrong(row: Labelled, score: float) -> float:
        return 0.1 if "female" in row.identities else score


class Blind(Told):
    @staticmethod
    def wrong(row: Labelled, score: float) -> float:
        return 0.5


KNOWN = {kind.__name__: kind for kind in (Told, NotForRelease, Flags, Overlooks, Blind)}


@pytest.fixture(autouse=True)
def _more_scorers(monkeypatch: pytest.MonkeyPatch) -> None:
    get = SCORERS.get
    monkeypatch.setattr(SCORERS, "get", lambda name: KNOWN.get(name) or get(name))


def context(seed: int = 0) -> Context:
    return Context((), Controls((), ()), builtin_catalogue(), seed)


def measured(**options: Any) -> tuple[Any, Any]:
    probe = Instrument(options)
    plan = probe.plan(context())
    seen = probe.observe(plan, View(torch.nn.Linear(1, 1), None, {}))
    figures = probe.figures(plan, seen, seen, {})
    return figures, decide(figures, GATES)[0]


def test_a_fit_judge_passes() -> None:
    figures, verdict = measured(scorer="Told")
    assert verdict == "PASS"
    assert figures.after == pytest.approx(1 / 0.9)
    assert (figures.n, figures.detail["auc"], figures.detail["null"]) == (len(labelled(None)), 1, 0)
    assert figures.detail["identities"] == len(BORKAN)


def test_a_judge_that_flags_a_groups_name_fails_by_bpsn() -> None:
    figures, verdict = measured(scorer="Flags")
    assert verdict == "FAIL"
    assert figures.detail["auc"] > 0.9
    assert figures.detail["bpsn_muslim"] == pytest.approx(0.5, abs=0.01)
    assert figures.detail["bnsp_muslim"] == 1
    assert (figures.detail["null_muslim"], figures.detail["null_black"]) == (1, 0)
    assert figures.after == pytest.approx(figures.detail["bpsn_muslim"] / 0.85)


def test_a_judge_that_overlooks_a_group_fails_by_bnsp() -> None:
    figures, verdict = measured(scorer="Overlooks")
    assert verdict == "FAIL"
    assert figures.detail["bnsp_female"] == pytest.approx(0.5, abs=0.01)


def test_a_judge_that_sees_nothing_fails() -> None:
    figures, verdict = measured(scorer="Blind")
    assert (verdict, figures.detail["auc"]) == ("FAIL", 0.5)


def test_the_less_fit_of_two_judges_decides() -> None:
    figures, verdict = measured(scorer="Told", second="Flags")
    assert verdict == "FAIL"
    assert figures.detail["bpsn_muslim"] == 1
    assert figures.detail["second_bpsn_muslim"] == pytest.approx(0.5, abs=0.01)


def test_a_judge_that_is_no_ground_for_a_release_cannot_pass() -> None:
    assert measured(scorer="NotForRelease")[1] == "INCONCLUSIVE"
    assert measured(scorer="Told", second="NotForRelease")[1] == "INCONCLUSIVE"
    figures, verdict = measured(scorer="embedded")
    assert verdict == "INCONCLUSIVE"
    assert figures.detail["auc"] > 0.9
    assert 0 < figures.lower95 <= figures.after


def test_who_must_be_judged_and_is_not_named_makes_a_pass_doubtful(tmp_path: Path) -> None:
    figures, verdict = measured(scorer="Told", identities=["muslim", "buddhist"])
    assert (verdict, figures.detail["identities_unjudged"]) == ("INCONCLUSIVE", 1)
    bare = [{"text": row.text, "toxic": row.toxic} for row in labelled(None)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, bare)))
    assert measured(scorer="Told", labelled=str(tmp_path / "a.jsonl"))[1] == "INCONCLUSIVE"


def test_a_table_of_ones_own_says_the_same(tmp_path: Path) -> None:
    lines = [f'"{row.text}",{int(row.toxic)},{";".join(row.identities)}' for row in labelled(None)]
    (tmp_path / "a.csv").write_text("text,toxic,identities\n" + "\n".join(lines) + "\n", "utf-8")
    own, shipped = measured(scorer="Flags", labelled=str(tmp_path / "a.csv")), measured(scorer="Flags")
    assert own == shipped


def test_a_table_with_words_for_labels_can_be_read(tmp_path: Path) -> None:
    lines = [f'"{row.text}",{"hate" if row.toxic else "neither"}' for row in labelled(None)]
    (tmp_path / "a.csv").write_text("text,label\n" + "\n".join(lines) + "\n", "utf-8")
    how = {"labelled": str(tmp_path / "a.csv"), "column": "label", "toxic": ["hate", "offensive"]}
    figures, verdict = measured(scorer="Told", **how)
    assert (figures.detail["auc"], verdict) == (1, "INCONCLUSIVE")


def test_the_plan_has_everything_that_decides_and_shows_nothing() -> None:
    probe = Instrument({"n": 100})
    plan = probe.plan(context())
    assert plan == probe.plan(context())
    assert plan.rows != probe.plan(context(1)).rows
    material: Any = plan.material()
    assert len(material["rows"]) == 100
    assert material["scorers"] == [scorer("embedded").digest]
    assert plan.prompts() == ()
    assert repr(plan) == "<InstrumentPlan>"
    assert all(row.text not in repr(plan.rows) for row in plan.rows)
    assert probe.protocol == "embedded-shipped"
    assert Instrument({"labelled": f"/home/{SECRET}.csv"}).protocol == "embedded-own"


def test_scores_that_are_missing_or_differ_are_an_error() -> None:
    probe = Instrument({"scorer": "Told"})
    plan = probe.plan(context())
    whole = Scores(((0.5,) * len(plan.rows),))
    for other in (Scores(((0.5,) * 3,)), Scores(((0.6,) * len(plan.rows),)), Scores(())):
        with pytest.raises(ProbeError, match="alike twice"):
            probe.figures(plan, whole, other, {})
    odd = Scores(((math.nan,) * len(plan.rows),))
    with pytest.raises(ProbeError, match="alike twice"):
        probe.figures(plan, odd, odd, {})


def test_a_scorer_that_changed_since_it_was_registered_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = Instrument({"scorer": "Told"})
    plan = probe.plan(context())
    seen = probe.observe(plan, View(torch.nn.Linear(1, 1), None, {}))
    assert probe.observe(plan, View(torch.nn.Linear(1, 1), None, {}, seen)) is seen
    monkeypatch.setattr(Told, "digest", "1")
    for base in (None, seen):
        with pytest.raises(ProbeError, match="not the one that was registered"):
            probe.observe(plan, View(torch.nn.Linear(1, 1), None, {}, base))


def test_texts_of_one_kind_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a", "toxic": 0}\n')
    with pytest.raises(UsageError, match="all are of one kind"):
        measured(labelled=str(tmp_path / "a.jsonl"))


@pytest.mark.parametrize("name", ["standard", "full"])
def test_the_suites_ask_for_it(name: str) -> None:
    entry = next(e for e in load_suite(name).entries if e.probe.id == "toxicity.instrument")
    figures, _ = measured(scorer="Flags")
    assert decide(figures, entry.gates)[0] == "FAIL"
    figures, _ = measured(scorer="Told")
    assert decide(figures, entry.gates)[0] == "PASS"
