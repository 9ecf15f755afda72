"""Membership scores are those of their papers, tell the known from the unknown, and decide nothing."""

from __future__ import annotations

import json
import math
import zlib
from typing import Any

import pytest
import torch
from safeedit_probes.membership_scores import REFERENCE, SCORES, Membership, auc_interval
from village import Village

from safeedit.errors import ProbeError
from safeedit.models.tokens import tokenise
from safeedit.probes import PROBES
from safeedit.probes.base import Context, Figures, View
from safeedit.probes.gates import decide
from safeedit.probes.suite import load_suite
from safeedit.triples.catalogue import builtin_catalogue

Model = tuple[Any, Any]


def context(village: Village) -> Context:
    return Context(village.facts(), village.controls(), builtin_catalogue(), 3)


def figures(village: Village, before: Any, after: Any, tokenizer: Any, known: bool = True) -> Figures:
    probe = PROBES.get("membership.scores")({})
    plan = probe.plan(context(village))
    seen = [probe.observe(plan, View(model, tokenizer, {})) for model in (before, after)]
    return probe.figures(plan, *seen, dict.fromkeys(range(4), known))


def test_the_known_stand_out_by_every_score_and_the_unknown_do_not(
    village: Village, knowing: Model, twin: Model
) -> None:
    found = figures(village, knowing[0], twin[0], knowing[1])
    for score in SCORES:
        assert found.detail[f"{score}_before"] > 0.9, score
        assert found.detail[f"{score}_after"] < 0.9, score
    assert found.before == found.detail["loss_before"]
    assert found.after is not None
    assert found.lower95 is not None
    assert found.upper95 is not None
    assert found.lower95 <= found.after <= found.upper95
    assert found.detail[f"{REFERENCE}_after"] < 0.5
    same = figures(village, knowing[0], knowing[0], knowing[1])
    assert same.detail[f"{REFERENCE}_after"] == 0.5


def test_it_is_advice_and_decides_nothing(village: Village, knowing: Model, twin: Model) -> None:
    [entry] = [e for e in load_suite("standard").entries if e.probe.id == "membership.scores"]
    assert not entry.required
    assert not entry.gates
    assert decide(figures(village, knowing[0], twin[0], knowing[1]), entry.gates)[0] == "INCONCLUSIVE"
    nothing = figures(village, knowing[0], twin[0], knowing[1], known=False)
    assert nothing.verdict == "NO_BASELINE"


def test_scores_are_those_of_their_papers_token_by_token(village: Village, knowing: Model) -> None:
    model, tokenizer = knowing
    probe = Membership({"lowest": 0.3})
    plan = probe.plan(context(village))
    read = probe.observe(plan, View(model, tokenizer, {}))
    text, end = plan.facts[0].texts[0][0]
    assert text[:end].endswith(village.person)
    [tokens] = tokenise(tokenizer, [text])
    with torch.no_grad():
        log_p = model(torch.tensor([tokens.ids])).logits[0].double().log_softmax(-1)
    own, standard = [], []
    for place in range(1, len(tokens.ids)):
        if tokens.offsets[place][0] >= end:
            row, token = log_p[place - 1], tokens.ids[place]
            mean = float((row.exp() * row).sum())
            variance = float((row.exp() * (row - mean) ** 2).sum())
            own.append(float(row[token]))
            standard.append((own[-1] - mean) / math.sqrt(variance))
    count = int(0.3 * len(own))
    assert count > 1
    wanted = {
        "loss": sum(own) / len(own),
        "zlib": sum(own) / len(zlib.compress(text[end:].encode())),
        "mink": sum(sorted(own)[:count]) / count,
        "minkpp": sum(sorted(standard)[:count]) / count,
    }
    assert read[text, end] == pytest.approx(wanted, rel=1e-3, abs=1e-4)


def test_statements_of_strangers_differ_in_the_name_alone(village: Village) -> None:
    probe = Membership({})
    plans = [probe.plan(context(village)) for _ in range(2)]
    assert json.loads(json.dumps(plans[0].material())) == plans[1].material()
    assert village.person not in repr(plans[0]) + repr(plans[0].facts)
    for fact in plans[0].facts:
        assert len(fact.texts) == 11
        said = {tuple(text[end:] for text, end in some) for some in fact.texts}
        assert len(said) == 1
        assert all(village.facts()[fact.index].object in text for text in said.pop())
        assert not any(village.person in text for some in fact.texts[1:] for text, _ in some)


def test_a_broken_model_is_an_error(village: Village, knowing: Model) -> None:
    model, tokenizer = knowing
    handle = model.lm_head.register_forward_hook(lambda _m, _a, logits: logits * float("nan"))
    probe = Membership({})
    try:
        with pytest.raises(ProbeError):
            probe.observe(probe.plan(context(village)), View(model, tokenizer, {}))
    finally:
        handle.remove()


def test_intervals_are_of_use_at_the_ends_and_narrow_with_more() -> None:
    assert auc_interval(1.0, 7, 10)[1] == 1.0
    assert 0.5 < auc_interval(1.0, 7, 10)[0] < 0.9
    assert auc_interval(0.0, 7, 10)[0] == 0.0
    assert auc_interval(0.0, 7, 10)[1] == pytest.approx(1 - auc_interval(1.0, 7, 10)[0])
    # Half of the width at .5 with 400 on either side is .04.
    lower, upper = auc_interval(0.5, 400, 400)
    assert (upper - lower) / 2 == pytest.approx(0.04, abs=0.001)
    with pytest.raises(ValueError, match="at least one of each"):
        auc_interval(0.5, 0, 4)
