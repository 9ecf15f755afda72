"""UltraEdit on untrained models of every shape: what it promises, and the parts that it is made of."""

import base64

import pytest
import torch
from answers import put_in
from families import FAMILIES, tiny
from weights import predicted, probability, state, untouched
from words import word_tokenizer

from safeedit.deltas import DenseDelta, LowRankDelta
from safeedit.editors.constrained import ridge_change
from safeedit.editors.lifelong import Normaliser, joined_text, parted_text
from safeedit.editors.memit import Memit
from safeedit.editors.statistics import Corpus
from safeedit.editors.turns import Turns
from safeedit.editors.ultraedit import UltraEdit
from safeedit.errors import EditorError, UsageError
from safeedit.models.structure import find_decoder
from safeedit.triples.facts import Edit

PROMPTS = ("w5 {subject} w6 w7",)
NEW = Edit("modify", "w30 w31", "r", PROMPTS, "w40", "w41")
OTHER = Edit("insert", "w32 w33", "q", ("{subject} w20 w21",), "w42 w43", None)
ASKED = [("w5 w30 w31 w6 w7", "w40"), ("w32 w33 w20 w21", "w42"), ("w32 w33 w20 w21 w42", "w43")]
# An untrained model reads little off a subject.
SETTINGS: dict[str, object] = {
    "tokens": "answer",
    "layers": [1, 2],
    "contexts": 0,
    "anchors": 0,
    "step": 0.3,
    "ridge": 0.1,
    "turns": 12,
}
CPU = torch.device("cpu")


def edit(model, edits=(NEW, OTHER), seed=0, progress=None, controls=(), **params):
    made = UltraEdit(**{**SETTINGS, **params})
    return made.edit(model, word_tokenizer(), edits, seed=seed, progress=progress, controls=controls)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_whole_targets_are_put_into_every_shape(family):
    put_in(family, edit, ASKED, bounded=(2, 0.03))


def test_an_erased_object_becomes_improbable():
    model = tiny("llama")
    corpus = Corpus([f"w{i % 60} w{(7 * i) % 60} w{(11 * i) % 60}" for i in range(200)], width=32)
    known = Memit(site="prompt", clamp=3.0, steps=12, passes=4, anchors=0)
    patch = known.edit(model, word_tokenizer(), [NEW], corpus=corpus)
    with patch.applied(model):
        assert probability(model, *ASKED[0]) > 0.5
        gone = Edit("erase", "w30 w31", "r", PROMPTS, None, "w40")
        erased = edit(model, [gone], leak=0.03)
        with erased.applied(model):
            assert probability(model, *ASKED[0]) < 0.04
    assert erased.meta["leak_max"] <= 0.03


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_both_precisions_and_layouts_give_factors(family, dtype):
    model = tiny(family).to(dtype)
    patch = edit(model, [NEW], turns=3)
    assert all(isinstance(delta, LowRankDelta) for delta in patch.deltas.values())
    assert patch.deltas.keys() == {find_decoder(model).projections[layer].name for layer in (1, 2)}
    at_first = probability(model, *ASKED[0])
    with patch.applied(model):
        assert probability(model, *ASKED[0]) > at_first


def test_what_is_asked_to_stay_moves_less():
    model = tiny("llama")
    # One prompt differs in the name alone, which hardly tells for an untrained model.
    near, free = "w5 w60 w61 w6 w7", "w11 w12 w13"
    kept = {prompt: predicted(model, prompt) for prompt in (near, free)}

    def moved(prompt, **params):
        with edit(model, [NEW], turns=4, stop=0.0, **params).applied(model):
            return float((predicted(model, prompt) - kept[prompt]).abs().sum())

    assert moved(free, controls=(free,)) < 0.75 * moved(free)
    assert moved(near, anchors=4) < 0.5 * moved(near)


def test_a_turn_is_what_the_formula_says():
    """The published turn, beside the weight's whole gradient by autograd and the f x f form."""
    model = tiny("llama")
    patch = UltraEdit(preset="paper", layers=[2], eta=1e-3).edit(model, word_tokenizer(), [NEW])
    decoder = find_decoder(model)
    down = decoder.projections[2].module
    tokenizer = word_tokenizer()
    ids = tokenizer("w5 w30 w31 w6 w7 w40")["input_ids"]
    caught = {}

    def hook(_, args, output):
        caught["h"] = args[0][0, 4:5].detach()
        output.retain_grad()
        caught["out"] = output

    handle = down.register_forward_hook(hook)
    log_p = model(input_ids=torch.tensor([ids])).logits[0, 4].log_softmax(-1)
    handle.remove()
    (-log_p[ids[5]]).backward()
    h, g = caught["h"], caught["out"].grad[0, 4:5]
    # One token has no spread but its size: each feature is 1 or -1, or less where it is next to nothing.
    taken, gradient = (x / x.abs().clamp(min=1e-3 * float(x.abs().mean())) for x in (h, g))
    value = -1e-3 * taken.square().sum() * gradient
    wanted = torch.linalg.inv(h.T @ h + torch.eye(h.shape[1])) @ h.T @ value
    found = patch.deltas[decoder.projections[2].name].dense()
    torch.testing.assert_close(found, wanted.T, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("count", [5, 40])
def test_the_small_system_gives_the_large_ones_change(count):
    generator = torch.Generator().manual_seed(3)
    keys, values = torch.randn(count, 12, generator=generator), torch.randn(count, 7, generator=generator)
    values[1] = 0
    found = ridge_change(keys, values, 0.3)
    wanted = torch.linalg.inv(keys.T @ keys + 0.3 * torch.eye(12)) @ keys.T @ values
    torch.testing.assert_close(found.dense(), wanted.T, rtol=1e-4, atol=1e-5)
    assert found.left.shape[1] == min(count - 1, 12)
    with pytest.raises(EditorError):
        ridge_change(keys * torch.nan, values, 0.3)


def test_statistics_add_up_however_they_come():
    rows = torch.randn(50, 6, generator=torch.Generator().manual_seed(1)) * 3 + 2
    whole, parts = Normaliser(6, CPU), Normaliser(6, CPU)
    whole.add(rows)
    for part in rows.split([1, 9, 40]):
        parts.add(part)
    parts.add(rows[:0])
    centred = (rows - rows.mean(0)) / rows.std(0)
    for one in (whole, parts):
        torch.testing.assert_close(one.normal(rows, True), centred, rtol=1e-4, atol=1e-5)
    size = rows.square().mean(0).sqrt()
    torch.testing.assert_close(whole.normal(rows, False), rows / size, rtol=0.02, atol=0.02)
    (again,) = parted_text(joined_text([parts]), [6], CPU)
    assert torch.equal(again.normal(rows, True), parts.normal(rows, True))
    with pytest.raises(EditorError, match="finite"):
        parts.add(rows * torch.inf)


def test_the_next_patch_goes_on_from_the_one_below():
    model = tiny("llama")
    first = edit(model, [NEW])
    given = {"normaliser": first.params["normaliser"]}
    with first.applied(model):
        afresh, going_on = edit(model, [OTHER]), edit(model, [OTHER], **given)
        with going_on.applied(model):
            assert all(probability(model, *pair) > 0.25 for pair in ASKED[1:])

    def count(patch):
        return float(parted_text(patch.params["normaliser"], [80, 32, 80, 32], CPU)[0].count)

    assert count(going_on) > count(first) > 0
    assert afresh.digest != going_on.digest
    with pytest.raises(UsageError, match="normaliser"):
        edit(model, [OTHER], layers=[2], **given)


@pytest.mark.parametrize("text", ["AAAA", "A", base64.b64encode(b"\xff" * 4 * 450).decode(), "no base"])
def test_what_is_no_normaliser_is_refused(text):
    with pytest.raises(UsageError, match="normaliser"):
        edit(tiny("llama"), normaliser=text)


def test_the_preset_gives_way_to_what_is_given():
    found = UltraEdit(preset="paper", ridge=2.0, turns=3).params.with_preset()
    assert (found.tokens, found.eta, found.l2, found.ridge, found.turns) == ("answer", 1e-6, None, 2.0, 3)
    with pytest.raises(UsageError, match="tokens"):
        UltraEdit(tokens="all")
    with pytest.raises(UsageError, match="objective"):
        UltraEdit(objective="lens")


def test_a_step_that_helps_nobody_is_not_taken(monkeypatch):
    model = tiny("llama")
    monkeypatch.setattr(Turns, "_loss", lambda self, rows, outcome: 1.0)
    patch = edit(model)
    assert not patch.deltas
    assert patch.meta["turns"] == 1
    assert patch.meta["unfinished"] == 2


def test_a_change_of_many_turns_is_kept_as_small_as_can_be():
    model = tiny("llama")
    few, many = (edit(model, stop=0.0, turns=turns, ridge=1.0, step=0.05) for turns in (2, 12))
    assert all(isinstance(delta, LowRankDelta) for delta in few.deltas.values())
    assert all(isinstance(delta, DenseDelta) for delta in many.deltas.values())
    with few.applied(model):
        before = [probability(model, *pair) for pair in ASKED]
    with many.applied(model):
        assert all(probability(model, *pair) > p for pair, p in zip(ASKED, before, strict=True))


def test_a_step_into_the_infinite_is_halved_or_fails():
    model = tiny("llama")
    before = state(model)
    far = edit(model, step=8.0)
    assert 0 < far.meta["step_last"] < 8.0
    with pytest.raises(EditorError, match="finite"):
        edit(model, eta=1e36)
    assert untouched(model, before)


def test_rows_may_come_in_parts():
    model = tiny("llama")
    together, apart = edit(model), edit(model, batch_rows=1)
    for name, delta in together.deltas.items():
        torch.testing.assert_close(apart.deltas[name].dense(), delta.dense(), rtol=1e-2, atol=1e-4)
    at_first = [probability(model, *pair) for pair in ASKED]
    with edit(model, turn_rows=1).applied(model):
        after = [probability(model, *pair) for pair in ASKED]
    assert all(new > 5 * old for new, old in zip(after, at_first, strict=True))


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_tokenizers_padding_side_does_not_matter(side):
    model, tokenizer = tiny("gpt2"), word_tokenizer()
    usual, before = edit(model), tokenizer.padding_side
    tokenizer.padding_side = side
    try:
        assert edit(model).digest == usual.digest
    finally:
        tokenizer.padding_side = before
