"""The probability delta: a block that raises an answer, or pushes it down, is seen."""

from __future__ import annotations

import copy
import math
from typing import Any

import hamlet
import pytest
import torch
from transformers import LlamaForCausalLM

from safeedit.errors import ProbeError
from safeedit.models.structure import find_decoder
from safeedit.probes import PROBES
from safeedit.probes.base import View

DELTA = "attack.delta"


@pytest.fixture
def knows() -> Any:
    return hamlet.model(hamlet.KNOWS)


def test_what_is_known_leaks_and_a_twin_that_never_knew_it_does_not(knows: Any) -> None:
    asked = hamlet.context()
    same = hamlet.figures(DELTA, asked, knows, knows)
    assert same.leaks == same.n > 0
    assert same.detail["layers"] == 2
    clean = hamlet.figures(DELTA, asked, knows, hamlet.model(hamlet.TWIN))
    assert (clean.leaks, clean.n) == (0, same.n)


def test_an_answer_that_is_pushed_down_for_the_subject_alone_leaves_a_dip(knows: Any) -> None:
    """A twin that never knew, whose last block pushes down just what is true of the person."""
    asked = hamlet.context()
    other = copy.deepcopy(hamlet.model(hamlet.TWIN))
    wanted = hamlet.tokenizer().convert_tokens_to_ids([fact.object for fact in asked.facts])
    away = other.lm_head.weight[wanted].detach().sum(0)
    name = hamlet.tokenizer().convert_tokens_to_ids(asked.facts[0].subject.split())
    seen: list[torch.Tensor] = []

    def remember(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        seen.append((ids == name[0]).any(1) & (ids == name[1]).any(1))

    def push(_module: Any, _args: Any, output: Any) -> Any:
        return output - 20 * seen[-1][:, None, None] * away

    other.model.register_forward_pre_hook(remember, with_kwargs=True)
    find_decoder(other).blocks[-1].register_forward_hook(push)
    dip = hamlet.figures(DELTA, asked, knows, other)
    assert dip.leaks
    assert not hamlet.figures("forgetting.lens", asked, knows, other).leaks


def test_ranks_come_from_either_end_and_scores_on_two_scales() -> None:
    probe = PROBES.get(DELTA)({})
    logits = torch.zeros(2, 3, 10)
    logits[1, 0, 4], logits[1, 1, 4] = 5.0, -5.0
    ranks, scores = probe.look(logits, torch.tensor([4, 4, 4]))  # type: ignore[attr-defined]
    assert ranks[0, :2].tolist() == [0, 0]
    assert scores[0].tolist() == pytest.approx([5.0, -5.0, 0.0])
    before, up, down = 0.1, math.exp(5) / (math.exp(5) + 9), math.exp(-5) / (math.exp(-5) + 9)
    assert scores[1].tolist() == pytest.approx([up - before, down - before, 0.0])


def test_nothing_that_is_broken_passes(knows: Any) -> None:
    broken = copy.deepcopy(knows)
    with torch.no_grad():
        broken.model.layers[0].mlp.down_proj.weight[0, 0] = math.nan
    with pytest.raises(ProbeError, match="not finite"):
        hamlet.figures(DELTA, hamlet.context(), knows, broken)
    single = copy.deepcopy(knows.config)
    single.num_hidden_layers = 1
    single.layer_types = None
    flat = LlamaForCausalLM(single).eval()
    with pytest.raises(ProbeError, match="one block"):
        hamlet.figures(DELTA, hamlet.context(), flat, flat)
    probe = PROBES.get(DELTA)({})
    plan = probe.plan(hamlet.context())
    first, second = (probe.observe(plan, View(knows, hamlet.tokenizer(), {})) for _ in range(2))
    with pytest.raises(ProbeError, match="base model's head"):
        probe.figures(plan, first, second, {})
