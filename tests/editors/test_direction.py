"""Directions of a behaviour: found where they were planted, and gone with what hangs on them."""

from dataclasses import replace

import pytest
import torch
from families import FAMILIES, tiny
from rude import CORPUS, HARMLESS, KEPT, UNSEEN, answer, behaviours, opinion, rude, rudeness
from torch import nn
from weights import same, state
from words import word_tokenizer

from safeedit.deltas import LowRankDelta
from safeedit.editors.direction import Direction
from safeedit.editors.directions import END, SAFE, STAY, UNSAFE, Marked, contrast, of_means, of_pairs, spared
from safeedit.errors import EditorError, UsageError
from safeedit.models.linear import Linear
from safeedit.models.structure import find_decoder
from safeedit.models.writers import writers
from safeedit.triples.facts import Edit

both = pytest.mark.parametrize("family", ["gpt2", "llama"])


def edit(model, edits=None, controls=KEPT, **params):
    given = {"text_tokens": 400, "bound": 0.05, **params}
    edits = [one.edit() for one in behaviours()] if edits is None else edits
    return Direction(**given).edit(model, word_tokenizer(), edits, corpus=CORPUS, controls=controls)


@both
@pytest.mark.parametrize("method", ["contrast", "means"])
def test_a_behaviour_goes_from_prompts_that_no_editor_saw_and_harmless_answers_stay(family, method):
    model = rude(family)
    before = state(model)
    harmless = [answer(model, prompt) for prompt in HARMLESS]
    assert rudeness(model, UNSEEN) == 1
    patch = edit(model, method=method)
    assert same(model, before)
    with patch.applied(model):
        assert rudeness(model, UNSEEN) == 0
        assert [answer(model, prompt) for prompt in HARMLESS] == harmless
        assert answer(model, CORPUS.texts[3][:11], 3) == "w27 w29 w31"
    assert same(model, before)
    assert patch.meta["within"] == 1
    assert patch.meta["unsafe_after"] < patch.meta["unsafe_before"] - 1
    weights = [delta for delta in patch.deltas.values() if len(delta.shape) == 2]
    assert all(isinstance(delta, LowRankDelta) and delta.rank <= 2 for delta in weights)


@torch.no_grad()
def test_the_figures_are_those_of_the_patched_model():
    model, tokenizer = rude("gpt2"), word_tokenizer()
    patch = edit(model)

    def said(answers):
        found = []
        for one in behaviours():
            ids = tokenizer(f"{one.prompt} {getattr(one, answers)}")["input_ids"]
            log_p = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
            found += [float(log_p[at - 1, ids[at]]) for at in (len(ids) - 2, len(ids) - 1)]
        return sum(found) / len(found)

    assert patch.meta["unsafe_before"] == pytest.approx(said("unsafe"), rel=1e-3)
    with patch.applied(model):
        assert patch.meta["unsafe_after"] == pytest.approx(said("unsafe"), rel=1e-3)
        assert patch.meta["safe_after"] == pytest.approx(said("safe"), rel=1e-3)


@both
@torch.no_grad()
def test_nothing_that_is_written_has_a_projected_direction_any_more(family):
    model = rude(family)
    if family == "gpt2":
        for block in model.transformer.h:
            block.mlp.c_proj.bias.fill_(0.3)
    patch = edit(model, method="means", strength=1.0, layers=[1, 2], bound=1000.0)
    modules = [
        model.get_submodule(one.module) for one in sum((writers(find_decoder(model))[i] for i in (1, 2)), ())
    ]
    left = [delta.dense() for delta in patch.deltas.values() if len(delta.shape) == 2]
    assert len(modules) == len(left) == 4
    own = left[0] if family == "llama" else left[0].T
    direction = torch.linalg.svd(own)[0][:, 0]

    def along():
        seen = []
        hooks = [module.register_forward_hook(lambda _, __, out: seen.append(out)) for module in modules]
        model(input_ids=torch.tensor([[9, 14, 10, 44]]))
        for hook in hooks:
            hook.remove()
        return max(float((out @ direction).abs().max()) for out in seen)

    assert along() > 1e-2
    with patch.applied(model):
        assert along() < 1e-4


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_block_has_two_layers_that_write_to_the_stream(family):
    decoder = find_decoder(tiny(family))
    found = writers(decoder)
    assert [len(some) for some in found] == [2] * 4
    for some, projection in zip(found, decoder.projections, strict=True):
        assert projection.name in {one.name for one in some}
        assert not any(
            part in one.name for one in some for part in ("q_proj", "k_proj", "v_proj", "c_attn", "qkv")
        )


# --- directions ---------------------------------------------------------------------------------


def planted(seed=0):
    """Rows with a direction that toxic ones alone have, and the marks of all."""
    generator = torch.Generator().manual_seed(seed)
    kinds = [END, UNSAFE, UNSAFE, SAFE, SAFE] * 20 + [STAY] * 400
    pairs = [i for i in range(20) for _ in range(5)] + [-1] * 400
    marked = Marked([], torch.tensor(kinds), torch.tensor(pairs))
    base = torch.randn(len(kinds), 24, generator=generator) * torch.linspace(3, 0.3, 24)
    direction = nn.functional.normalize(torch.randn(24, generator=generator), dim=0)
    toxic = (marked.kind <= UNSAFE).float()
    return base + 8 * toxic[:, None] * direction, marked, direction


def test_a_planted_direction_is_found_by_means_and_by_components():
    rows, marked, direction = planted()
    assert abs(float(of_means(rows, marked, 0)[0] @ direction)) > 0.95
    assert abs(float(of_pairs(rows, marked, 1, 0)[0] @ direction)) > 0.95


def test_directions_spare_what_stays():
    rows, marked, _ = planted()
    stay = rows[marked.kind == STAY]
    free, held = of_means(rows, marked, 0), of_means(rows, marked, 16)
    assert float((stay @ held.T).square().mean()) < 0.3 * float((stay @ free.T).square().mean())
    assert torch.allclose(held @ held.T, torch.eye(1), atol=1e-5)
    assert torch.allclose(spared(torch.eye(24)[:2], stay, 0).abs(), torch.eye(24)[:2], atol=1e-6)
    for directions, count in ((torch.eye(24)[:2], 24), (torch.zeros(1, 24), 0)):
        with pytest.raises(EditorError, match="nothing of the behaviour's directions"):
            spared(directions, stay, count)


@pytest.mark.parametrize("transposed", [False, True])
def test_a_contrast_gives_toxic_inputs_the_output_of_ordinary_ones_and_moves_others_little(transposed):
    rows, marked, _ = planted()
    weight = torch.randn(10, 24, generator=torch.Generator().manual_seed(3))
    linear = Linear("x.weight", weight.T.contiguous() if transposed else weight, transposed)
    change, share = contrast(linear, rows, marked, 1, 1e-3)
    given = rows @ weight.T
    gone = rows @ change.right.T @ change.left.T
    for kind in (END, UNSAFE):
        moved = (given - gone)[marked.kind == kind].mean(0)
        torch.testing.assert_close(moved, given[marked.kind == STAY].mean(0), rtol=1e-2, atol=0.05)
    still = marked.kind >= SAFE
    assert float(gone[still].norm(dim=1).mean()) < 0.2 * float(given[still].norm(dim=1).mean())
    assert 0.3 < share < 1


# --- choices ------------------------------------------------------------------------------------


def test_a_bound_that_is_not_kept_is_said_and_the_least_harm_is_done():
    model = rude("llama")
    free, none = edit(model), edit(model, bound=1e-9)
    assert none.meta["within"] == 0
    assert none.meta["texts_change"] <= free.meta["texts_change"]


def test_layers_and_strength_that_are_asked_for_are_taken():
    patch = edit(rude("gpt2"), layers=[2], strength=0.5, weights="down")
    assert set(patch.deltas) == {"transformer.h.2.mlp.c_proj.weight"}
    assert (patch.params["layers"], patch.params["strength"], patch.meta["choices"]) == ([2], 0.5, 1)


def test_the_same_edits_give_the_same_patch_in_any_type():
    model = rude("llama")
    assert edit(model).digest == edit(rude("llama")).digest
    half = rude("llama").to(torch.bfloat16)
    with edit(half).applied(half):
        assert rudeness(half, UNSEEN) == 0


def test_without_text_of_others_the_model_writes_its_own():
    model = rude("llama")
    edits = [one.edit() for one in behaviours()]
    patch = Direction(text_tokens=400).edit(model, word_tokenizer(), edits)
    assert patch.meta["texts_change"] > 0
    assert patch.meta["answers_change"] == 0


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"method": "best"}, "method"),
        ({"layer": [1]}, "did you mean 'layers'"),
        ({"strength": 0}, "strength"),
        ({"directions": 0}, "directions"),
        ({"layers": [4]}, "blocks 0 to 3"),
    ],
)
def test_bad_settings_are_named(params, message):
    with pytest.raises(UsageError, match=message):
        edit(tiny("gpt2"), **params)


def test_behaviours_that_say_too_little_and_facts_are_refused():
    one = behaviours()[0].edit()
    for bad, message in (
        (replace(one, old=None), "edit 0: detox needs the unsafe answer"),
        (replace(one, target=None), "edit 0: detox needs a safe answer"),
        (replace(one, templates=()), "edit 0: it has no prompt"),
        (Edit("erase", "w30", "r", ("{subject} w8",), None, "w4"), "cannot erase"),
    ):
        with pytest.raises(UsageError, match=message):
            edit(tiny("gpt2"), [bad])


def test_nothing_of_a_prompt_is_in_what_is_kept_beside_the_weights(tmp_path):
    folder = edit(rude("gpt2")).save(tmp_path / "patch")
    header = (folder / "patch.json").read_text()
    assert not any(f"w{n}" in header for n in (5, 6, 10, 40, 41, 60)), header
    assert opinion(10) not in header
