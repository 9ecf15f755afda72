"""The linear probe: it tells by others what the states hold, and never passes for want of others."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import hamlet
import numpy as np
import pytest
import torch

from safeedit.errors import ProbeError
from safeedit.models.structure import find_decoder
from safeedit.probes import PROBES
from safeedit.probes.base import View
from safeedit.probes.controls import Controls
from safeedit.probes.linear import nearness, ridge

LINEAR = "attack.linear_probe"
FEW = {"fewest": 20, "placebos": 24, "alpha": 0.02}
"""Five relations of eight objects each cannot show more."""


@pytest.fixture
def knows() -> Any:
    return hamlet.model(hamlet.KNOWS)


def test_what_is_known_leaks_and_a_twin_that_never_knew_it_does_not(knows: Any) -> None:
    asked = hamlet.context()
    same = hamlet.figures(LINEAR, asked, knows, knows, **FEW)
    assert same.leaks == same.n > 0
    assert same.detail["accuracy"] > 0.5 > same.detail["control"] + 0.2
    assert same.detail["selectivity"] == same.detail["accuracy"] - same.detail["control"]
    assert 0 < same.detail["majority"] < 0.5
    assert same.detail["subjects"] == hamlet.PEOPLE - 1
    clean = hamlet.figures(LINEAR, asked, knows, hamlet.model(hamlet.TWIN), **FEW)
    assert (clean.leaks, clean.n) == (0, same.n)


def test_m7_what_the_last_block_hides_is_found_before_it(knows: Any) -> None:
    asked = hamlet.context()
    other = copy.deepcopy(knows)
    wanted = hamlet.tokenizer().convert_tokens_to_ids([fact.object for fact in asked.facts])
    away = other.lm_head.weight[wanted].detach().sum(0)
    find_decoder(other).blocks[-1].register_forward_hook(lambda _module, _args, output: output - 40 * away)
    assert hamlet.figures(LINEAR, asked, knows, other, **FEW).leaks


def test_the_request_is_never_learnt_from() -> None:
    asked = hamlet.context()
    plan = PROBES.get(LINEAR)(FEW).plan(asked)
    names = {name for lesson in plan.lessons for name, _ in lesson.learnt}  # type: ignore[attr-defined]
    assert asked.facts[0].subject not in names
    assert len(names) == hamlet.PEOPLE - 1
    assert plan.material() == PROBES.get(LINEAR)(FEW).plan(asked).material()


def test_too_few_others_are_no_pass(knows: Any) -> None:
    asked = hamlet.context()
    assert hamlet.figures(LINEAR, asked, knows, knows).verdict == "SKIPPED"
    some = [c for c in asked.controls.facts if c.relation != "industry"]
    less = dataclasses.replace(asked, controls=Controls(tuple(some), asked.controls.texts))
    found = hamlet.figures(LINEAR, less, knows, knows, **FEW)
    assert found.detail["unfitted"] == 1
    assert found.detail["compared"] == len(hamlet.RELATIONS) - 1
    mute = tuple(dataclasses.replace(fact, edit_templates=()) for fact in asked.facts)
    none = dataclasses.replace(asked, facts=mute)
    assert hamlet.figures(LINEAR, none, knows, knows, **FEW).verdict == "INCONCLUSIVE"
    inserted = tuple(dataclasses.replace(fact, op="insert") for fact in asked.facts)
    nothing = dataclasses.replace(asked, facts=inserted)
    assert hamlet.figures(LINEAR, nothing, knows, knows, **FEW).verdict == "SKIPPED"


def test_nothing_that_is_broken_passes(knows: Any) -> None:
    asked = hamlet.context()
    broken = copy.deepcopy(knows)
    with torch.no_grad():
        broken.model.layers[1].mlp.down_proj.weight[0, 0] = math.nan
    with pytest.raises(ProbeError, match="not finite"):
        hamlet.figures(LINEAR, asked, knows, broken, **FEW)
    probe = PROBES.get(LINEAR)(FEW)
    plan = probe.plan(asked)
    first, second = (probe.observe(plan, View(knows, hamlet.tokenizer(), {})) for _ in range(2))
    with pytest.raises(ProbeError, match="fitted on the edited model"):
        probe.figures(plan, first, second, {})
    empty = tuple(dataclasses.replace(fact, object=" ") for fact in asked.facts)
    with pytest.raises(ProbeError, match="no token of its own"):
        hamlet.figures(LINEAR, dataclasses.replace(asked, facts=empty), knows, knows, **FEW)


def test_leaving_out_needs_no_refitting() -> None:
    rng = np.random.default_rng(0)
    states = rng.normal(size=(30, 50))
    target = states[:, :2] + 0.1 * rng.normal(size=(30, 2))
    [(found, left_out)] = ridge(states, [target])
    # Centre and scale are those of all rows, so only the fit itself is done again without the row.
    rows = (states - found.centre) / found.scale
    inner = rows @ rows.T / 50
    for row in (0, 17):
        keep = np.delete(np.arange(30), row)
        errors = []
        unit = np.linalg.eigvalsh(inner).mean()
        for penalty in np.logspace(-3, 3, 13):
            a = np.block(
                [
                    [inner[np.ix_(keep, keep)] + penalty * unit * np.eye(29), np.ones((29, 1))],
                    [np.ones((1, 29)), 0],
                ]
            )
            solved = np.linalg.solve(a, np.vstack([target[keep], np.zeros((1, 2))]))
            errors.append(np.abs(inner[row, keep] @ solved[:-1] + solved[-1] - left_out[row]).max())
        assert min(errors) < 0.05
    with pytest.raises(ProbeError, match="not finite"):
        ridge(states * math.nan, [target])
    with pytest.raises(ProbeError, match="not finite"):
        found(states * math.inf)


def test_only_the_nearest_candidate_lies_above_the_others() -> None:
    near = nearness(np.array([[0.9, 0.2], [0.1, 0.3]]), np.eye(2))
    assert (near > 0).tolist() == [[True, False], [False, True]]
