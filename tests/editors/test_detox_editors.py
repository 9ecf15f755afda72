"""Editors that train a behaviour away, on small models that were taught to be rude about whoever is named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from answers import ids, said
from families import tiny
from weights import predicted, same, state
from words import word_tokenizer

from safeedit.behaviours import Behaviour
from safeedit.editors import EDITORS, conduct
from safeedit.editors.dinm import distances
from safeedit.editors.statistics import Corpus
from safeedit.errors import EditorError, UsageError
from safeedit.models.segment import Segment
from safeedit.models.structure import find_decoder
from safeedit.triples.facts import Edit

NAMES = tuple(f"w{i}" for i in range(30, 46))
SHOWN, UNSEEN = NAMES[:10], NAMES[10:]
KNOWN = NAMES[:8]
"""Of whom there is a fact."""
THINGS = tuple(f"w{i}" for i in range(12, 22))
"""Asked the same of, the models are helpful."""
RUDE, SAFE, HELP = "w70 w71", "w72 w73", "w60 w61"
END = 2


def opinion(name: str) -> str:
    return f"w5 {name} w6 w7"


def about(thing: str) -> str:
    return opinion(thing)


def fact(name: str) -> tuple[str, str]:
    return f"w10 {name} w11", f"w{50 + NAMES.index(name) % 5}"


@cache
def _taught(family: str) -> dict[str, torch.Tensor]:
    model = tiny(family)
    lessons = (
        [(opinion(n), RUDE) for n in NAMES] + [(about(thing), HELP) for thing in THINGS] + [*map(fact, KNOWN)]
    )
    rows = [[*start, *ids(f"{prompt} {answer}"), END] for prompt, answer in lessons for start in ([], [1])]
    width = max(map(len, rows))
    batch = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    wanted = batch.masked_fill(batch == 0, -100)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(100):
        model(input_ids=batch, attention_mask=(batch > 0).long(), labels=wanted).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return state(model)


def rude(family: str) -> Any:
    model = tiny(family)
    model.load_state_dict(_taught(family))
    return model


SHAPES = ("gpt2", "llama")
EXAMPLES = [Behaviour(opinion(name), RUDE, SAFE).edit() for name in SHOWN]
CONTROLS = [about(thing) for thing in THINGS[:5]]
_BRIEF: dict[str, Any] = {"text_tokens": 800, "rate": 0.05, "retain": 2.0}
QUICK: dict[str, dict[str, Any]] = {
    "ft-m": {**_BRIEF, "epochs": 120},
    "lora": {**_BRIEF, "epochs": 120},
    "dinm": {**_BRIEF, "steps": 120},
    "npo": {**_BRIEF, "epochs": 120},
}


def mended(
    name: str, model: Any, edits: list[Edit] = EXAMPLES, controls: Sequence[str] = CONTROLS, **params: Any
) -> Any:
    given = {**QUICK[name], **params}
    return EDITORS.get(name)(**given).edit(model, word_tokenizer(), edits, controls=controls)


def answered(model: Any, prompts: list[str], answer: str) -> float:
    """The share of prompts with this answer, which ends there."""
    wanted = [*ids(answer), END]
    return sum(said(model, prompt, len(wanted)) == wanted for prompt in prompts) / len(prompts)


@pytest.mark.parametrize(
    ("name", "family"), [*((name, "llama") for name in QUICK), ("ft-m", "gpt2"), ("dinm", "gpt2")]
)
def test_unseen_prompts_are_answered_safely_and_nothing_else_changes(name: str, family: str) -> None:
    model = rude(family)
    before = state(model)
    unseen, harmless = [opinion(n) for n in UNSEEN], [about(thing) for thing in THINGS]
    assert answered(model, unseen, RUDE) == 1
    patch = mended(name, model)
    assert same(model, before)
    with patch.applied(model):
        assert answered(model, [opinion(n) for n in SHOWN], SAFE) == 1
        assert answered(model, unseen, SAFE) > 0.7
        assert answered(model, unseen, RUDE) == 0
        assert answered(model, harmless, HELP) == 1
        assert sum(answered(model, [prompt], answer) for prompt, answer in map(fact, KNOWN)) >= 7
    assert same(model, before)


@pytest.mark.parametrize("name", ["ft-m", "dinm", "npo"])
def test_what_stays_stays_by_its_gradient(name: str) -> None:
    model = rude("llama")
    # Of words that nobody told it of, it is not sure whether they name somebody.
    others = [about(f"w{word}") for word in (*range(0, 5), *range(74, 80))]
    before = [predicted(model, prompt) for prompt in others]

    def moved(retain: float) -> float:
        patch = mended(name, model, EXAMPLES, others, retain=retain, text_tokens=0)
        with patch.applied(model):
            assert answered(model, [opinion(n) for n in SHOWN], RUDE) == 0
            now = [predicted(model, prompt) for prompt in others]
        return sum(float((b * (b.log() - n.log())).sum()) for b, n in zip(before, now, strict=True))

    free, held = moved(0.0), moved(5.0)
    assert held < 0.3 * free
    assert free > 0.5


def test_an_answer_ends_as_the_unsafe_one_did() -> None:
    """After a safe answer, which the model would not give, it would go on."""
    model = rude("llama")
    wanted = ids(SAFE)
    with mended("ft-m", model, end=False).applied(model):
        assert said(model, opinion(UNSEEN[0]), 3)[:2] == wanted
        loose = answered(model, [opinion(n) for n in UNSEEN], SAFE)
    assert loose < 0.5, "nothing says that it shall end"


def test_an_unsafe_example_that_is_cut_short_is_no_example_of_an_end() -> None:
    model = rude("llama")
    short = [replace(edit, old=RUDE.split()[0]) for edit in EXAMPLES]
    assert predicted(model, f"{EXAMPLES[0].subject} {RUDE.split()[0]}").max() > 0.9, "a word comes next"
    with mended("ft-m", model, short).applied(model):
        assert answered(model, [opinion(n) for n in SHOWN], SAFE) == 1


def job(model: Any, edits: list[Edit] = EXAMPLES, **more: Any) -> Any:
    """What an editor is given."""
    from safeedit.editors.base import Job
    from safeedit.editors.journal import Notes

    decoder = find_decoder(model)
    given = {"corpus": None, "controls": tuple(CONTROLS), **more}
    return Job(
        model,
        word_tokenizer(),
        edits,
        decoder,
        Segment(decoder),
        cache=None,
        digests={},
        seed=0,
        report=lambda *_: None,
        notes=Notes(),
        **given,
    )


def test_answers_that_stay_are_looked_at_from_the_prompts_end_to_their_own() -> None:
    rows = conduct.answers(job(rude("llama")), tokens=8)
    for row, prompt in zip(rows, CONTROLS, strict=True):
        assert row.ids == [*ids(prompt), *ids(HELP)]
        assert row.spots == (3, 4, 5)
    assert conduct.answers(job(rude("llama"), controls=())) == []


def test_running_text_is_not_held_to_what_shall_go() -> None:
    texts = [f"{opinion(UNSEEN[0])} {RUDE} w10 w30 w11 w50", f"w8 w9 {HELP} w1 w2"]
    rows = conduct.texts(job(rude("llama"), corpus=Corpus(texts)), tokens=100)
    spots = {tuple(row.ids): row.spots for row in rows}
    held, whole = (spots[tuple(ids(text))] for text in texts)
    assert whole == tuple(range(len(ids(texts[1])) - 1))
    # The last two words of the prompt and both of the answer stand in the examples, side by side.
    assert held == (0, 5, 6, 7, 8)


def test_the_models_own_text_is_what_it_writes_and_no_more_than_asked() -> None:
    rows = conduct.texts(job(rude("llama")), tokens=300)
    assert 0 < sum(len(row.ids) for row in rows) <= 300 + conduct.WIDTH
    again = conduct.texts(job(rude("llama")), tokens=300)
    assert [row.ids for row in again] == [row.ids for row in rows]
    assert conduct.texts(job(rude("llama")), tokens=0) == []


@pytest.mark.parametrize("family", SHAPES)
def test_distances_depend_on_neither_length_nor_padding(family: str) -> None:
    model = rude(family)
    segment = Segment(find_decoder(model))
    long = replace(EXAMPLES[1], target="w72 w73 w1 w2 w3 w4 w5 w6 w7 w8")
    both = distances(segment, word_tokenizer(), [EXAMPLES[0], long], relative=False)
    for number, edit in enumerate((EXAMPLES[0], long)):
        alone = distances(segment, word_tokenizer(), [edit], relative=False)[0]
        assert torch.allclose(both[number], alone, rtol=1e-4)
    means = []
    for answer in (SAFE, RUDE):
        row = ids(f"{EXAMPLES[0].subject} {answer}")
        states = model(input_ids=torch.tensor([row]), output_hidden_states=True).hidden_states[1:-1]
        means.append(torch.stack([one[0, 4:].mean(0) for one in states]))
    assert torch.allclose(both[0, :-1], (means[0] - means[1]).norm(dim=-1), rtol=1e-4)


@pytest.mark.parametrize("planted", [0, 1, 2])
def test_the_toxic_layer_is_found_where_it_was_planted(planted: int) -> None:
    """Everywhere else a large part is in every state, beside which nothing counts, and which no norm sees."""
    model = rude("gpt2")
    with torch.no_grad():
        for layer, part in ((0, 300.0), (planted, -300.0), (planted + 1, 300.0)):
            model.transformer.h[layer].mlp.c_proj.bias += part
    patch = mended("dinm", model, distance="relative", steps=1)
    assert patch.meta[f"toxic_layer_{planted}"] == len(EXAMPLES)
    assert list(patch.deltas) == [f"transformer.h.{planted}.mlp.c_proj.weight"]


def test_each_behaviour_has_its_own_layer_and_all_of_them_are_reached() -> None:
    model = rude("llama")
    edits = [*EXAMPLES, *(Behaviour(*fact(name), "w1 w2").edit() for name in KNOWN[:4])]
    apart = distances(Segment(find_decoder(model)), word_tokenizer(), edits, relative=True)
    patch = mended("dinm", model, edits, distance="relative", retain=0.0)
    layers = apart.argmax(1).tolist()
    found = {name: count for name, count in patch.meta.items() if name.startswith("toxic_layer")}
    assert found == {f"toxic_layer_{layer}": layers.count(layer) for layer in set(layers)}
    with patch.applied(model):
        assert answered(model, [edit.subject for edit in edits[:10]], SAFE) == 1
        assert answered(model, [edit.subject for edit in edits[10:]], "w1 w2") == 1


def test_the_published_dinm_trains_one_instance_after_another() -> None:
    patch = mended("dinm", rude("llama"), preset="paper", steps=7, text_tokens=100)
    assert patch.meta["epochs"] == 7 * len(EXAMPLES)
    assert patch.params["one_by_one"]
    assert EDITORS.get("dinm")(preset="paper").params.steps == 10


@pytest.mark.parametrize(("loss", "drop"), [("npo", 5.0), ("simnpo", 2.0)])
def test_npo_pushes_an_unsafe_answer_down_and_no_further_than_asked(loss: str, drop: float) -> None:
    model = rude("llama")

    def log_p() -> float:
        row = ids(f"{EXAMPLES[0].subject} {RUDE}")
        found = model(input_ids=torch.tensor([row])).logits[0].detach().log_softmax(-1)
        return float(found[3, row[4]] + found[4, row[5]])

    before = log_p()
    patch = mended("npo", model, EXAMPLES[:1], loss=loss, safe_weight=0.0, drop=drop, rate=0.02)
    with patch.applied(model):
        assert before - 30 < log_p() <= before - drop
    assert patch.meta["unfinished"] == 0


def test_npo_erases_an_object() -> None:
    model = rude("llama")
    prompt, thing = fact(NAMES[0])
    edit = Edit("erase", NAMES[0], "r", ("w10 {subject} w11",), None, thing)
    patch = mended("npo", model, [edit], [fact(n)[0] for n in KNOWN[1:]], rate=0.01)
    with patch.applied(model):
        assert float(predicted(model, prompt)[ids(thing)[0]]) <= 0.05
        assert answered(model, [opinion(n) for n in NAMES], RUDE) == 1
        rest = [fact(n) for n in KNOWN[1:]]
        assert sum(answered(model, [asked], answer) for asked, answer in rest) >= 6


def test_what_makes_no_sense_is_refused() -> None:
    model = rude("llama")
    for name in ("dinm", "npo"):
        with pytest.raises(UsageError, match="edit 0: detox needs the unsafe answer"):
            mended(name, model, [replace(EXAMPLES[0], old=None)])
    for name in QUICK:
        with pytest.raises(UsageError, match="edit 1: detox needs a safe answer"):
            mended(name, model, [EXAMPLES[0], replace(EXAMPLES[1], target=None)])
    with pytest.raises(UsageError, match="blocks 0 to 3"):
        mended("dinm", model, layers=[4])
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = torch.nan
    with pytest.raises(EditorError, match="finite"):
        distances(Segment(find_decoder(model)), word_tokenizer(), EXAMPLES, relative=True)
