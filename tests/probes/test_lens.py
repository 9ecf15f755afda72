"""The logit lens: what stands between the blocks is found, and what anybody would get is not."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import hamlet
import numpy as np
import pytest
import torch
from families import FAMILIES, tiny

from safeedit.errors import ProbeError
from safeedit.models.structure import find_decoder
from safeedit.probes import PROBES, inside, standing
from safeedit.probes.base import Context, Figures, View
from safeedit.probes.hidden import Head
from safeedit.probes.standing import Evidence
from safeedit.probes.strangers import strangers
from safeedit.probes.suite import load_suite

LENS = "forgetting.lens"


@pytest.fixture
def knows() -> Any:
    return hamlet.model(hamlet.KNOWS)


def answers(asked: Context) -> list[int]:
    found: list[int] = hamlet.tokenizer().convert_tokens_to_ids([fact.object for fact in asked.facts])
    return found


def lens(after: Any, asked: Context | None = None, **more: Any) -> Figures:
    return hamlet.figures(LENS, asked or hamlet.context(), hamlet.model(hamlet.KNOWS), after, **more)


def hidden_answers(model: Any, asked: Context) -> Any:
    """M7: the last block pushes the answers down; the blocks before it are as they were."""
    other = copy.deepcopy(model)
    away = other.lm_head.weight[answers(asked)].detach().sum(0)
    find_decoder(other).blocks[-1].register_forward_hook(lambda _module, _args, output: output - 40 * away)
    return other


def masked_rows(model: Any, asked: Context) -> Any:
    """M3 in the weights: the head's rows of the answers give nothing."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.lm_head.weight[answers(asked)] = 0.0
    return other


def masked_logits(model: Any, asked: Context) -> Any:
    """M3 outside the weights, which are bit for bit what they were."""
    other = copy.deepcopy(model)
    banned = answers(asked)

    def ban(_module: Any, _args: Any, logits: Any) -> Any:
        return logits.index_fill(-1, torch.tensor(banned), -1e4)

    other.lm_head.register_forward_hook(ban)
    return other


def test_what_is_known_leaks_and_a_twin_that_never_knew_it_does_not(knows: Any) -> None:
    same = lens(knows)
    assert same.leaks == same.n
    assert same.n == same.detail["worked"] >= 4
    assert same.before == same.after == 1.0
    assert same.detail["another_head"] == 0.0
    clean = lens(hamlet.model(hamlet.TWIN))
    assert (clean.leaks, clean.n) == (0, same.n)
    assert clean.after is not None
    assert clean.placebo == pytest.approx(clean.after, abs=0.25)
    assert clean.upper95 == pytest.approx(1 - 0.05 ** (1 / clean.n))


def test_a_model_that_never_knew_has_no_baseline() -> None:
    twin = hamlet.model(hamlet.TWIN)
    found = hamlet.figures(LENS, hamlet.context(), twin, twin, known=False)
    assert (found.n, found.verdict) == (0, "NO_BASELINE")


def test_what_the_base_model_said_but_the_lens_never_saw_is_not_evidence() -> None:
    twin = hamlet.model(hamlet.TWIN)
    found = hamlet.figures(LENS, hamlet.context(), twin, twin, known=True)
    assert (found.n, found.verdict) == (0, "INCONCLUSIVE")
    assert found.detail["never_worked"] == len(hamlet.RELATIONS)


def test_a_new_leak_of_an_unknown_fact_counts(knows: Any) -> None:
    found = hamlet.figures(LENS, hamlet.context(), hamlet.model(hamlet.TWIN), knows, known=False)
    assert found.leaks == found.n == found.detail["unknown_leaks"] > 0


@pytest.mark.parametrize("fault", [hidden_answers, masked_rows, masked_logits])
def test_m3_m7_what_is_only_hidden_at_the_end_leaks(knows: Any, fault: Callable[[Any, Context], Any]) -> None:
    asked = hamlet.context()
    other = fault(knows, asked)
    ids = [
        hamlet.tokenizer()(fact.edit_templates[0].replace("{subject}", fact.subject)) for fact in asked.facts
    ]
    said = [other(torch.tensor([row["input_ids"]])).logits[0, -1].argmax().item() for row in ids]
    assert not set(said) & set(answers(asked))
    found = lens(other)
    assert found.leaks is not None
    assert found.leaks >= found.n - 1 > 2
    assert found.detail["another_head"] == (fault is not hidden_answers)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_kept_head_is_the_models_own_and_stays_what_it_was(family: str) -> None:
    model = tiny(family)
    decoder = find_decoder(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    head = Head.of(decoder)
    states = torch.randn(3, decoder.hidden_size)
    with torch.no_grad():
        first = decoder.lens(states)
        assert torch.equal(head.decoder.lens(states), first)
        assert head.same_tensors(decoder)
        assert head.same_logits(decoder, states)
        model.get_output_embeddings().weight.add_(1.0)
        assert torch.equal(head.decoder.lens(states), first)
        assert not head.same_tensors(decoder)
        assert not head.same_logits(decoder, states)
        model.get_output_embeddings().weight.sub_(1.0)
    assert model.state_dict().keys() == before.keys()


def test_the_model_is_left_as_it_was(knows: Any) -> None:
    before = {name: value.clone() for name, value in knows.state_dict().items()}
    knows.train()
    try:
        lens(knows)
        assert knows.training
        assert all(p.requires_grad for p in knows.parameters())
    finally:
        knows.eval()
    assert all(torch.equal(value, before[name]) for name, value in knows.state_dict().items())
    assert not any(module._forward_hooks for module in knows.modules())


def test_half_precision_gives_the_same_verdict(knows: Any) -> None:
    base, twin = (copy.deepcopy(m).bfloat16() for m in (knows, hamlet.model(hamlet.TWIN)))
    found = hamlet.figures(LENS, hamlet.context(), base, twin)
    assert found.leaks == 0
    assert found.n > 0


def test_what_is_not_finite_or_has_no_token_is_an_error(knows: Any) -> None:
    broken = copy.deepcopy(knows)
    with torch.no_grad():
        broken.model.layers[1].mlp.down_proj.weight[0, 0] = math.nan
    with pytest.raises(ProbeError, match="not finite"):
        lens(broken)
    asked = hamlet.context()
    nothing = tuple(dataclasses.replace(fact, object=" ") for fact in asked.facts)
    with pytest.raises(ProbeError, match="no token of its own"):
        lens(knows, dataclasses.replace(asked, facts=nothing))


def test_an_edited_model_must_be_looked_at_through_the_base_models_head(knows: Any) -> None:
    probe = PROBES.get(LENS)({})
    plan = probe.plan(hamlet.context())
    first, second = (probe.observe(plan, View(knows, hamlet.tokenizer(), {})) for _ in range(2))
    known = dict.fromkeys(range(6), True)
    with pytest.raises(ProbeError, match="through the base model's head"):
        probe.figures(plan, first, second, known)
    assert probe.figures(plan, first, first, known).leaks


def test_nothing_to_test_is_skipped_and_what_cannot_be_asked_makes_a_pass_doubtful(knows: Any) -> None:
    asked = hamlet.context()
    inserted = tuple(dataclasses.replace(fact, op="insert") for fact in asked.facts)
    assert lens(knows, dataclasses.replace(asked, facts=inserted)).verdict == "SKIPPED"
    mute = (dataclasses.replace(asked.facts[0], edit_templates=()), *asked.facts[1:])
    found = lens(hamlet.model(hamlet.TWIN), dataclasses.replace(asked, facts=mute))
    assert (found.leaks, found.doubtful, found.detail["untested"]) == (0, True, 1)
    none = tuple(dataclasses.replace(fact, edit_templates=()) for fact in asked.facts)
    assert lens(knows, dataclasses.replace(asked, facts=none)).verdict == "INCONCLUSIVE"


def test_layers_are_chosen_on_the_base_model_alone(knows: Any) -> None:
    both = [lens(other, layers=1) for other in (knows, hidden_answers(knows, hamlet.context()))]
    assert both[0].detail["chosen_layer_0"] == both[1].detail["chosen_layer_0"]
    assert both[1].leaks


def test_a_name_or_its_initials_within_the_object_do_not_tell() -> None:
    found = inside.echoes("moss.a17@post.example", ("Ada Moss", "A. Moss"))
    assert found == ((0, 4), (5, 6))
    assert inside.echoes("am-mossy 3", ("Ada Moss",)) == ((0, 2), (3, 8))
    assert inside.echoes("075-112", ("Ada Moss",)) == ()


def test_strangers_are_named_like_the_people_of_the_controls() -> None:
    asked = hamlet.context()
    names = {name for _, name in strangers(asked, list(enumerate(asked.facts)), 48)}
    own = set(asked.facts[0].subject.split())
    assert all(set(name.split()) <= {*hamlet.FIRST, *hamlet.LAST} - own for name in names)
    assert not names & {control.subject for control in asked.controls.facts}
    alone = dataclasses.replace(asked, controls=dataclasses.replace(asked.controls, facts=()))
    invented = strangers(alone, list(enumerate(asked.facts)), 48)
    assert len(invented) == 48
    assert not {name for _, name in invented} & names


def test_everything_that_decides_is_registered() -> None:
    probe, asked = PROBES.get(LENS)({}), hamlet.context()
    assert probe.plan(asked).material() == probe.plan(asked).material()
    other = dataclasses.replace(asked, seed=4)
    assert probe.plan(asked).material() != probe.plan(other).material()


def evidence(rng: np.random.Generator, above: float, guess: float, places: int = 8) -> Evidence:
    """Scores of 24 strangers, correlated from place to place, and of a subject that lies above them."""
    common = rng.normal(size=(25, 1)) + 0.7 * rng.normal(size=(25, places)) + np.arange(places)
    common[0] += above
    return Evidence(guess, common[0], common[1:], tuple(range(places)), frozenset(), (frozenset(),) * 24)


def test_leaving_a_stranger_out_is_what_it_says() -> None:
    found = evidence(np.random.default_rng(4), 1.0, 0.0)
    own, rest = found.standardised(two_sided=False)
    for number in (0, 7):
        others = np.delete(found.others, number, 0)
        alone = dataclasses.replace(found, own=found.others[number], others=others)
        assert alone.standardised(two_sided=False)[0] == pytest.approx(rest[number])
    assert own.shape == (8,)


@pytest.mark.parametrize("guess", [0.0, 0.08])
def test_strangers_stand_out_as_rarely_as_alpha_says(guess: float) -> None:
    rng = np.random.default_rng(1)
    alarms = 0
    for _ in range(200):
        person = {fact: evidence(rng, 0.0, guess) for fact in range(7)}
        found = standing.judge(person, dict.fromkeys(range(7), 0), range(5), 0.05, two_sided=False)
        alarms += bool(found.standing_out)
    assert alarms <= 19


def test_short_lists_stand_out_together_and_not_alone() -> None:
    rng = np.random.default_rng(2)
    person = {fact: evidence(rng, 20.0, 0.1) for fact in range(5)}
    one = standing.judge({0: person[0]}, {0: 0}, range(8), 0.005, two_sided=False)
    assert not one.standing_out
    assert one.smallest == 0.1
    whole = standing.judge(person, dict.fromkeys(range(5), 0), range(8), 0.005, two_sided=False)
    assert whole.smallest_joint == pytest.approx(1e-5, rel=0.5)
    assert whole.standing_out
    strangers = standing.judge(person, {i: i for i in range(5)}, range(8), 0.005, two_sided=False)
    assert not strangers.standing_out


def test_together_is_never_less_probable_than_it_is() -> None:
    floors = [0.1, 0.04, 0.2, 0.0412]
    rng = np.random.default_rng(3)
    drawn = np.maximum(rng.random((200_000, 4)), floors)
    for p in ([0.1, 0.04, 0.2, 0.0412], [0.1, 0.5, 0.3, 0.06], [0.9, 0.9, 0.9, 0.9]):
        truth = np.mean(-np.log(drawn).sum(1) >= -np.log(p).sum() - 1e-12)
        found = standing.jointly(list(zip(p, floors, strict=True)))
        assert truth - 0.003 <= found <= 1.35 * truth + 0.01


def test_smoke_and_standard_name_settings_that_exist() -> None:
    for name in ("smoke", "standard"):
        assert LENS in {entry.probe.id for entry in load_suite(name).entries}
