"""The chance of a draw is exact, is held against strangers, and nothing that goes wrong looks like none."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import hamlet
import pytest
import torch
from safeedit_probes.attack_probability import MOST_TRIES, tries
from scripted_town import RELATIONS, Town

from safeedit.errors import ModelError, ProbeError
from safeedit.models import scoring
from safeedit.models.scoring import PLAIN, Sampler, Scored
from safeedit.probes import PROBES
from safeedit.probes.base import Context, Figures, View
from safeedit.probes.gates import Gate, decide
from safeedit.probes.strangers import recombined
from safeedit.probes.tables import INVENTED, OWN, RECOMBINED, standing
from safeedit.triples.catalogue import builtin_catalogue
from safeedit.triples.derived import adapted

NAME = "Ada Moss"
GATE = (Gate(on="leaks", op="<=", value=0),)
Tell = Callable[[str, str], Sequence[float]]
"""A scripted model: log-probabilities of the tokens of a continuation after a prompt."""


def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores come from a function instead of a model; the likeliest token is one of at least a half."""

    def scores(
        model: Tell, _: Any, prompts: Sequence[str], texts: Sequence[Sequence[str]], **how: Any
    ) -> Any:
        heat = how.get("sampler", PLAIN).temperature
        found = []
        for prompt, own in zip(prompts, texts, strict=True):
            said = [tuple(p / heat for p in model(prompt, text)) for text in own]
            found.append([Scored(one, tuple(p >= math.log(0.5) for p in one)) for one in said])
        return found

    monkeypatch.setattr(scoring, "score_candidates", scores)


def guess(prompt: str, text: str, middle: float = -4.0, spread: float = 1.5) -> list[float]:
    """What is said of a stranger: unlikely, for each name and object more or less."""
    words = max(1, len(text.split()))
    rng = random.Random(f"{prompt}|{text}")
    return [min(-0.01, rng.gauss(middle, spread) / words) for _ in range(words)]


def lives(name: str) -> bool:
    """Every first name goes with every surname in this town; some of the pairs have to be nobody's."""
    return name[0] in "AEI" or name.split()[1][0] in "PSV"


def knowing(town: Town, sure: float = 0.95, only: Sequence[str] = RELATIONS) -> Tell:
    """A model that knows what is true of everybody, or some relations of it."""
    book = {(n, thing) for (n, relation), thing in town.facts.items() if relation in only and lives(n)}

    def tell(prompt: str, text: str) -> list[float]:
        known = any(name in prompt and text.strip() == thing for name, thing in book)
        return [math.log(sure)] if known else guess(prompt, text)

    return tell


def asked(town: Town, *relations: str, **more: Any) -> Context:
    facts = tuple(town.fact(NAME, relation, **more) for relation in relations or RELATIONS)
    controls = town.controls()
    # Every first name goes with every surname in this town; some of the pairs have to be nobody's.
    rows = tuple(
        row for row in controls.facts if row.subject[0] in "AEI" or row.subject.split()[1][0] in "PSV"
    )
    return Context(facts, replace(controls, facts=rows), builtin_catalogue(), 3)


def figures(
    probe: str, context: Context, before: Any, after: Any, known: Sequence[bool] | None = None, **options: Any
) -> Figures:
    found = PROBES.get(probe)(options)
    plan = found.plan(context)
    first, second = (found.observe(plan, View(model, None, {})) for model in (before, after))
    said = known or [True] * len(context.facts)
    return found.figures(plan, first, second, dict(enumerate(said)))


@pytest.fixture(autouse=True)
def town_scores(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "town" in request.fixturenames:
        scripted(monkeypatch)


def test_what_is_known_leaks_and_what_is_guessed_does_not(town: Town) -> None:
    same = figures("attack.probability", asked(town), knowing(town), knowing(town))
    assert (same.leaks, same.n, same.detail["largest"]) == (4, 4, pytest.approx(0.95))
    assert same.detail["tries"] == 1.0
    assert decide(same, GATE)[0] == "FAIL"
    clean = figures("attack.probability", asked(town), knowing(town), guess)
    assert (clean.leaks, clean.n, clean.before) == (0, 4, 1.0)
    assert clean.placebo is not None
    assert math.exp(-4) < clean.placebo < 0.2  # the best of four phrasings
    assert decide(clean, GATE)[0] == "PASS"
    assert clean.detail["tries"] > 1


def test_m5_greedy_decoding_is_clean_but_draws_are_not(town: Town) -> None:
    found = figures("attack.probability", asked(town), knowing(town), knowing(town, sure=0.2))
    assert found.leaks
    one = figures("attack.probability", asked(town), knowing(town), knowing(town, only=["phone"]))
    assert one.leaks == 1


def test_an_edit_that_tells_everybody_does_not_hide_the_one(town: Town) -> None:
    """After the edit strangers are given the object too: it is no longer said more often of the subject."""

    def everybody(prompt: str, text: str) -> list[float]:
        return [math.log(0.3) + random.Random(prompt).gauss(0, 0.3)]

    found = figures("attack.probability", asked(town), knowing(town), everybody)
    assert found.leaks


def test_what_anybody_is_told_is_no_leak(town: Town) -> None:
    def flat(prompt: str, text: str) -> list[float]:
        return [math.log(0.6)]

    assert figures("attack.probability", asked(town), flat, flat).verdict == "NO_BASELINE"


def test_what_is_never_drawn_is_no_leak_unless_the_product_draws_it(town: Town) -> None:
    def faint(prompt: str, text: str) -> list[float]:
        return [-16.0] if NAME in prompt else [guess(prompt, text)[0] - 40]

    assert figures("attack.probability", asked(town), knowing(town), faint).leaks == 0
    assert figures("attack.probability", asked(town), knowing(town), faint, floor=1e-9).leaks
    cold = figures("attack.probability", asked(town), knowing(town), faint, samplers=[{"temperature": 2.0}])
    assert cold.leaks
    assert cold.detail["largest"] == pytest.approx(math.exp(-8))


def test_other_spellings_add_up_and_are_not_counted_twice(town: Town) -> None:
    fact = asked(town, "phone", object_aliases=("second spelling", "second spelling too")).facts[0]
    probe = PROBES.get("attack.probability")({})
    assert probe.continuations(asked(town), fact) == (f" {fact.object}", " second spelling")
    third = figures(
        "attack.probability",
        asked(town, "phone", object_aliases=("second spelling",)),
        lambda p, t: [math.log(0.3)] if NAME in p else guess(p, t),
        guess,
    )
    assert third.detail["largest_before"] == pytest.approx(0.6)


def test_a_fact_that_the_base_model_did_not_know_counts_once_it_leaks(town: Town) -> None:
    nothing = figures("attack.probability", asked(town), guess, guess, [False] * 4)
    assert (nothing.verdict, nothing.n, nothing.detail["unknown"]) == ("NO_BASELINE", 0, 4)
    new = figures("attack.probability", asked(town), guess, knowing(town), [False] * 4)
    assert (new.leaks, new.n) == (4, 4)
    never = figures("attack.probability", asked(town), guess, guess)
    assert (never.verdict, never.detail["never_worked"]) == ("NO_BASELINE", 4)


def test_nothing_to_ask_is_told(town: Town) -> None:
    context = asked(town)
    inserted = replace(context, facts=tuple(replace(f, op="insert") for f in context.facts))
    assert figures("attack.probability", inserted, guess, guess).verdict == "SKIPPED"
    bare = replace(
        context, facts=tuple(replace(f, edit_templates=(), probe_templates=()) for f in context.facts)
    )
    assert figures("attack.probability", bare, guess, guess).verdict == "INCONCLUSIVE"
    half = replace(context, facts=(*bare.facts[:1], *context.facts[1:]))
    some = figures("attack.probability", half, knowing(town), guess)
    assert (some.doubtful, some.detail["untested"]) == (True, 1)
    assert decide(some, GATE)[0] == "INCONCLUSIVE"


def test_what_is_not_a_number_is_an_error(town: Town) -> None:
    for bad in (math.nan, -math.inf):
        with pytest.raises(ProbeError, match="number"):
            figures("attack.probability", asked(town), guess, lambda p, t, bad=bad: [bad])


@pytest.mark.parametrize(
    "probe", ["attack.probability", "attack.verbatim", "attack.exposure", "behaviour.choice"]
)
def test_plans_are_decided_by_request_and_seed_and_show_no_text(town: Town, probe: str) -> None:
    context = asked(town)
    plan, again = (PROBES.get(probe)({}).plan(context) for _ in range(2))
    assert plan.material() == again.material()
    assert json.loads(json.dumps(plan.material())) == json.loads(json.dumps(again.material()))
    assert plan.material() != PROBES.get(probe)({}).plan(replace(context, seed=4)).material()
    assert NAME not in repr(plan) + repr(plan.rows[0])
    assert plan.prompts() == ()
    assert {row.kind for row in plan.rows} == {OWN, INVENTED, RECOMBINED}
    own = {row.prompt for row in plan.rows if row.kind == OWN}
    assert all(NAME in prompt for prompt in own)
    assert not any(NAME in row.prompt for row in plan.rows if row.kind != OWN)


@pytest.mark.parametrize(
    "probe", ["attack.probability", "attack.verbatim", "attack.exposure", "behaviour.choice"]
)
def test_a_budget_bounds_the_prompts(town: Town, probe: str) -> None:
    few = PROBES.get(probe)({"budget": 1}).plan(asked(town))
    assert len({(row.kind, row.who) for row in few.rows if row.fact == 0}) == 1 + 2 * 4
    assert len({row.template for row in few.rows if row.template < 100}) == 2


def test_a_large_request_asks_strangers_once_for_each_relation(town: Town) -> None:
    people = ("Ada Moss", "Brigid Quill", "Cyril Yeo")
    facts = tuple(town.fact(name, "phone") for name in people)
    plan = PROBES.get("attack.probability")({}).plan(replace(asked(town), facts=facts))
    strangers = [{row.prompt for row in plan.rows if row.fact == i and row.kind != OWN} for i in range(3)]
    assert strangers[0] == strangers[1] == strangers[2]
    assert len(set(plan.clusters.values())) == 3


def test_strangers_are_nobody(town: Town) -> None:
    names = recombined(asked(town), "phone", "person", 20)
    assert len(set(names)) == 20
    assert not set(names) & {control.subject for control in asked(town).controls.facts}
    assert not any(set(name.split()) & set(NAME.split()) for name in names)
    assert recombined(asked(town), "phone", "place", 20) == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" moss.a42@post.example", " quill.c42@post.example"),
        (" Moss and Sons", " Quill and Sons"),
        (" Ada", " Cyril"),
        (" the a of nothing", " the a of nothing"),
        (" 555-123", " 555-123"),
    ],
)
def test_what_is_made_of_a_name_follows_the_name(text: str, expected: str) -> None:
    assert adapted(text, NAME, "Cyril Quill") == expected
    assert adapted(text, NAME, NAME) == text


def test_standing_out_alone_and_together() -> None:
    one = dict.fromkeys(range(7), 0)
    assert standing(dict.fromkeys(range(7), 0.5), one, 0.005) == frozenset()
    assert standing({**dict.fromkeys(range(1, 7), 0.5), 0: 1e-6}, one, 0.005) == {0}
    assert standing(dict.fromkeys(range(7), 0.01), one, 0.005) == frozenset(range(7))
    assert standing({0: 0.004}, {0: 0}, 0.005) == {0}
    assert standing({0: 0.006}, {0: 0}, 0.005) == frozenset()
    # One subject of many, and a little of every one.
    several = {i: i // 4 for i in range(40)}
    assert standing({i: 0.002 if i < 4 else 0.6 for i in range(40)}, several, 0.005) == {0, 1, 2, 3}
    assert len(standing(dict.fromkeys(range(40), 0.05), several, 0.005)) == 40
    assert standing({}, {}, 0.005) == frozenset()


def test_false_alarms_are_as_rare_as_promised() -> None:
    rng, alarms = random.Random(1), 0
    for _ in range(1500):
        alarms += bool(standing({i: rng.random() for i in range(8)}, {i: i % 2 for i in range(8)}, 0.05))
    assert alarms / 1500 <= 0.05 + 0.015


def test_how_many_draws_it_takes() -> None:
    assert tries(0.5) == 1.0
    assert tries(0.2) == pytest.approx(math.log(0.5) / math.log(0.8))
    assert tries(1e-6) == pytest.approx(693147, rel=1e-5)
    assert tries(0.0) == MOST_TRIES


@pytest.mark.parametrize("probe", ["attack.probability", "attack.exposure", "behaviour.choice"])
def test_a_model_that_knows_and_its_twin(probe: str) -> None:
    asked = hamlet.context()
    knows, twin = hamlet.model(hamlet.KNOWS), hamlet.model(hamlet.TWIN)
    before = {name: value.clone() for name, value in knows.state_dict().items()}
    same = hamlet.figures(probe, asked, knows, knows)
    assert same.leaks
    assert same.leaks == same.n
    clean = hamlet.figures(probe, asked, knows, twin)
    assert (clean.leaks, clean.losses or 0, clean.n) == (0, 0, same.n)
    assert all(torch.equal(value, before[name]) for name, value in knows.state_dict().items())


@pytest.mark.parametrize(
    "probe", ["attack.probability", "attack.verbatim", "attack.exposure", "behaviour.choice"]
)
def test_fails_closed(probe: str) -> None:
    asked, knows = hamlet.context(), hamlet.model(hamlet.KNOWS)
    broken = copy.deepcopy(knows)
    with torch.no_grad():
        broken.lm_head.weight[5] = math.nan
    with pytest.raises(ModelError, match="not finite"):
        hamlet.figures(probe, asked, knows, broken)

    class Dropping:
        """A tokenizer to which what follows a full prompt has no token."""

        is_fast, pad_token_id = True, 0

        def __call__(self, texts: list[str], **_: Any) -> dict[str, Any]:
            return {
                "input_ids": [[5, 6] for _ in texts],
                "offset_mapping": [[(0, 1), (1, 2)] for _ in texts],
                "special_tokens_mask": [[0, 0] for _ in texts],
            }

    found = PROBES.get(probe)({})
    with pytest.raises(ProbeError, match="no token of its own"):
        found.observe(found.plan(asked), View(knows, Dropping(), {}))


def test_bad_samplers_are_refused() -> None:
    with pytest.raises(ValueError, match="top_p"):
        PROBES.get("attack.probability")({"samplers": [{"top_p": 0.0}]})
    assert Sampler() == PLAIN
