"""WISE on untrained models of every shape: it answers what it was asked, and nothing else changes."""

import pytest
import torch
from answers import ELSE, NEW, SAID, SECOND, ids, logits, put_beside, said
from families import FAMILIES, tiny
from rude import CORPUS as SPOKEN
from rude import HARMLESS, KEPT, UNSEEN, answer, behaviours, opinion, rude, rudeness
from words import word_tokenizer

from safeedit.editors.routing import find_space, highest, limits_of, of_one_kind
from safeedit.editors.statistics import Corpus
from safeedit.editors.wise import Wise
from safeedit.errors import EditorError, UsageError
from safeedit.models.structure import find_decoder
from safeedit.models.tokens import pad
from safeedit.patch import Patch
from safeedit.sidememory import SideMemory
from safeedit.triples.facts import Edit

CORPUS = Corpus([f"w{i % 60} w{(7 * i) % 60} w{(11 * i) % 60} w{(3 * i) % 60}" for i in range(100)])
QUICK = {"contexts": 2, "context_tokens": 3, "text_tokens": 200}
PROMPT_SITE = {"site": "prompt", "steps": 30, "room": 0.2, **QUICK}
"""Untrained models carry nothing from a subject to the end of a prompt, so that edits sit at the end."""
families = pytest.mark.parametrize("family", sorted(FAMILIES))


def edit(model, edits=(NEW, SECOND), **params):
    return Wise(**{**PROMPT_SITE, **params}).edit(model, word_tokenizer(), list(edits), corpus=CORPUS)


def written(model, prompts, **params):
    """What `generate` writes after prompts, padded on the left, with a cache."""
    model.generation_config.eos_token_id = None
    batch = pad([ids(prompt) for prompt in prompts], 0, "left")
    found = model.generate(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        max_new_tokens=4,
        do_sample=False,
        use_cache=True,
        **params,
    )
    return found[:, batch.input_ids.shape[1] :].tolist()


@families
def test_edited_prompts_get_their_answers_and_others_pass_bit_for_bit(family):
    put_beside(family, edit)


@pytest.mark.parametrize("route", ["token", "sequence"])
@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama"])
@torch.no_grad()
def test_batches_padded_on_either_side_agree_with_one_by_one(family, route):
    model = tiny(family)
    prompts = [*SAID, *ELSE]
    with edit(model, route=route, steps=10).applied(model):
        alone = [logits(model, prompt)[0, -1] for prompt in prompts]
        for side in ("left", "right"):
            batch = pad([ids(prompt) for prompt in prompts], 0, side)
            found = model(**batch.forward_args()).logits
            last = [-1 if side == "left" else len(ids(prompt)) - 1 for prompt in prompts]
            for row, (at, expected) in enumerate(zip(last, alone, strict=True)):
                torch.testing.assert_close(found[row, at], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("route", ["token", "sequence"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_generate_with_a_cache_says_what_one_by_one_does(family, route):
    model = tiny(family)
    prompts = [*SAID, *ELSE]
    with edit(model, route=route, steps=10).applied(model):
        for row, prompt in zip(written(model, prompts), prompts, strict=True):
            assert row == said(model, prompt, 4)


def test_beams_with_a_cache_say_what_they_say_without():
    model = tiny("llama")
    model.generation_config.eos_token_id = None
    prompts = torch.tensor([ids("w30 w31 w8"), ids("w60 w61 w62")])
    with edit(model, route="sequence", steps=10).applied(model):
        found = [
            model.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                max_new_tokens=4,
                num_beams=3,
                do_sample=False,
                use_cache=cached,
            )
            for cached in (True, False)
        ]
    assert torch.equal(*found)


@torch.no_grad()
def test_generations_that_take_turns_and_rows_that_leave_keep_their_memory():
    model = tiny("llama")
    edited, plain = torch.tensor([ids("w30 w31 w8")]), torch.tensor([ids("w60 w61 w62")])
    follow = torch.tensor([[50]])
    with edit(model, route="sequence", steps=10).applied(model):
        expected = [model(torch.cat([p, follow], 1)).logits[0, -1] for p in (edited, plain)]
        first = model(edited, use_cache=True).past_key_values
        second = model(plain, use_cache=True).past_key_values
        for cache, wanted in ((first, expected[0]), (second, expected[1])):
            found = model(follow, past_key_values=cache, use_cache=True).logits[0, -1]
            torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
        both = model(torch.cat([plain, edited]), use_cache=True).past_key_values
        both.batch_select_indices(torch.tensor([1]))
        found = model(follow, past_key_values=both, use_cache=True).logits[0, -1]
        torch.testing.assert_close(found, expected[0], rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_by_sequence_the_memory_stays_on_after_a_routed_token_and_padding_never_routes():
    model = tiny("llama")
    memory = SideMemory(
        {"change": torch.ones(1, 32, 80), "limits": torch.tensor([1.0])},
        {"router": "activation", "route": "sequence"},
    )
    taken = torch.full((2, 4, 80), 1e-3)
    taken[:, 1] = 1.0
    module, seen = model.model.layers[2].mlp.down_proj, []
    detach = memory.put(module, model)
    handle = module.register_forward_pre_hook(lambda _, args: (taken,))
    watch = module.register_forward_hook(lambda _, __, out: seen.append(out))
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
    model(torch.full((2, 4), 5), attention_mask=mask, use_cache=False)
    moved = seen[0] - torch.nn.functional.linear(taken, module.weight)
    assert (moved[..., 0] > 0.01).tolist() == [[False, True, True, True], [False] * 4]
    for undo in (detach, handle.remove, watch.remove):
        undo()
    detach()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in (module, model.model))


@pytest.mark.parametrize(
    "params",
    [
        {"memory": "merge", "group": 1},
        {"memory": "retrieve", "group": 1},
        {"merge": "dare-ties", "merge_density": 0.8},
        {"merge": "linear"},
        {"merge": "slerp"},
        {"shards": 1, "density": 1.0},
        {"route": "sequence"},
        {"router": "activation", "optimiser": "adam"},
        {"router": "activation", "route": "sequence"},
    ],
)
def test_every_way_to_keep_and_route_answers(params):
    model = tiny("llama")
    patch = edit(model, steps=60, **params)
    [memory] = patch.memories.values()
    assert len(memory) == (2 if params.get("memory") == "retrieve" else 1)
    with patch.applied(model):
        assert [said(model, p, 1) for p in SAID] == [ids(a) for a in SAID.values()]


def test_the_published_settings_are_used_unless_others_are_given():
    model = tiny("llama")
    patch = edit(model, preset="paper", site="subject", steps=2)
    assert patch.params["router"] == "activation"
    assert (patch.params["alpha"], patch.params["beta"], patch.params["gamma"]) == (5.0, 20.0, 10.0)
    assert (patch.params["steps"], patch.params["site"], patch.params["optimiser"]) == (2, "subject", "sgd")


def test_margins_push_edited_and_other_inputs_apart():
    """Without its margins the published score takes more of the other inputs for edited ones."""
    model = tiny("llama")

    def ratio(**params):
        [memory] = edit(model, router="activation", steps=40, stop=0.0, **params).memories.values()
        seen = []
        module = find_decoder(model).projections[2].module
        handle = module.register_forward_pre_hook(lambda _, args: seen.append(args[0][0, -1]))
        for prompt in (*SAID, *ELSE):
            logits(model, prompt)
        handle.remove()
        score = memory.moved(memory.tensors, torch.stack(seen), 0).norm(dim=1)
        return float(score[:4].min() / score[4:].max())

    assert ratio() > 1.2 * ratio(alpha=100.0, beta=0.0, gamma=0.0)


@pytest.mark.parametrize("objective", ["neutral", "entropy", "refusal"])
def test_an_erased_object_is_not_said(objective):
    model = tiny("llama")
    # An untrained model knows nothing, so that what it says anyway is what is erased.
    prompt = "w30 w31 w8"
    row = logits(model, prompt)[0, -1]
    old = word_tokenizer().convert_ids_to_tokens(int(row[4:].argmax()) + 4)
    at_first = float(row.softmax(-1)[ids(old)[0]])
    patch = edit(model, [Edit("erase", "w30 w31", "r", ("{subject} w8",), None, old)], objective=objective)
    with patch.applied(model):
        after = float(logits(model, prompt)[0, -1].softmax(-1)[ids(old)[0]])
    assert after < min(0.05, at_first / 2)


def test_a_loaded_patch_does_the_same_and_the_same_edits_give_the_same_patch(tmp_path):
    model = tiny("gpt2")
    patch = edit(model)
    assert edit(tiny("gpt2")).digest == patch.digest
    loaded = Patch.load(patch.save(tmp_path / "patch"))
    assert loaded == patch
    with patch.applied(model):
        ours = logits(model, "w30 w31 w8")
    with loaded.applied(model):
        assert torch.equal(logits(model, "w30 w31 w8"), ours)
    header = (tmp_path / "patch" / "patch.json").read_text()
    assert not any(f'w{i}"' in header or f"w{i} " in header for i in (30, 31, 32, 33, 40, 42))


def test_a_change_without_a_mask_is_kept_in_factors():
    model = tiny("llama")
    [memory] = edit(model, [NEW], shards=1, density=1.0).memories.values()
    assert set(memory.tensors) >= {"left", "right"}
    assert "change" not in memory.tensors
    [memory] = edit(model, [NEW], density=0.2).memories.values()
    assert "change" in memory.tensors


# --- the key space ------------------------------------------------------------------------------


def test_names_are_told_apart_whatever_stands_around_them():
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(30, 16, generator=generator)
    around = 6 * torch.randn(30 * 8, 4, generator=generator) @ torch.randn(4, 16, generator=generator)
    names = torch.arange(30).repeat_interleave(8)
    inputs = centres[names] + around
    seen = torch.arange(len(names)) % 8 < 6
    space = find_space(inputs[seen], names[seen], 12, 0.01)
    held_out = space.of(inputs[~seen])
    known = space.of(inputs[seen])
    raw = torch.nn.functional.normalize(inputs, dim=1)
    right, before = (
        (names[seen][(mine @ other.T).argmax(1)] == names[~seen]).float().mean()
        for mine, other in ((held_out, known), (raw[~seen], raw[seen]))
    )
    assert right > 0.9 > 0.7 > before


def test_a_limit_lies_between_a_name_and_the_others():
    keys = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), dim=1)
    others = torch.nn.functional.normalize(torch.tensor([[1.0, 1.0], [-1.0, 0.0]]), dim=1)
    near = highest(keys, others, torch.tensor([0.99, 0.99]))
    assert near.tolist() == pytest.approx([2**-0.5, 2**-0.5])
    limits = limits_of(torch.tensor([0.99, 0.99]), near, 0.5)
    assert ((limits < 0.99) & (limits > near)).all()
    itself = highest(keys, keys, torch.tensor([2.0, 2.0]), torch.tensor([0, 1]))
    assert itself.tolist() == pytest.approx([0.0, 0.0])


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("site", ["subject", "prompt"])
def test_names_without_others_to_be_told_from_are_refused_before_any_training(count, site, monkeypatch):
    monkeypatch.setattr("safeedit.editors.wise.trained_sides", None)
    with pytest.raises(EditorError, match="anchors: 1"):
        edit(tiny("llama"), [NEW, SECOND][:count], site=site, anchors=0, contexts=4)


def test_names_that_differ_by_rounding_alone_are_refused():
    generator = torch.Generator().manual_seed(0)
    inputs = 100 + torch.randn(8, 16, generator=generator)
    with pytest.raises(EditorError, match="anchors: 1"):
        find_space(inputs, torch.zeros(8, dtype=torch.long), 12, 0.1)
    alike, names = inputs.repeat(3, 1), torch.arange(3).repeat_interleave(8)
    with pytest.raises(EditorError, match="anchors: 1"):
        find_space(alike + 1e-4 * names[:, None] / 2**8, names, 12, 0.1)
    told = find_space(alike + 0.1 * torch.randn(3, 16, generator=generator)[names], names, 12, 0.1)
    assert len(told.basis) == 2
    with pytest.raises(EditorError, match="width"):
        find_space(alike + 0.1 * torch.randn(3, 16, generator=generator)[names], names, 1, 0.1)


@pytest.mark.parametrize(("own", "other"), [(0.5, -1.0), (-0.1, -0.2), (0.0, -1.0)])
def test_a_limit_that_half_of_everything_is_above_is_refused(own, other):
    with pytest.raises(EditorError, match="anchors: 1"):
        limits_of(torch.tensor([0.99, own]), torch.tensor([0.5, other]), 0.65)
    assert (limits_of(torch.tensor([0.99, 0.5]), torch.tensor([0.5, 0.4]), 0.65) > 0).all()


# --- behaviours ---------------------------------------------------------------------------------


def mended(model, edits=None, **params):
    edits = [one.edit() for one in behaviours()] if edits is None else edits
    given = {"text_tokens": 400, **params}
    return Wise(**given).edit(model, word_tokenizer(), edits, corpus=SPOKEN, controls=KEPT)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_prompts_of_a_kind_get_safe_answers_and_harmless_ones_pass_bit_for_bit(family):
    model = rude(family)
    others = (*HARMLESS, *SPOKEN.texts[:8], *(f"{prompt} w50" for prompt in HARMLESS))
    before = [logits(model, prompt) for prompt in others]
    assert rudeness(model, UNSEEN) == 1
    patch = mended(model)
    with patch.applied(model):
        assert {answer(model, opinion(number)) for number in UNSEEN} == {"w60 w61"}
        assert all(torch.equal(logits(model, p), was) for p, was in zip(others, before, strict=True))
    assert rudeness(model, UNSEEN) == 1
    assert (patch.params["layer"], patch.params["route"], patch.meta["memories"]) == (2, "sequence", 1)


def test_behaviours_with_the_published_router_and_with_settings_of_ones_own():
    model = rude("llama")
    patch = mended(model, router="activation", alpha=0.2, layer=1, drop=0.0)
    assert (patch.params["router"], patch.params["layer"], patch.params["drop"]) == ("activation", 1, 0.0)
    with patch.applied(model):
        assert rudeness(model, UNSEEN) == 0


@pytest.mark.parametrize(
    ("edits", "params", "message"),
    [
        ([behaviours()[0].edit(), NEW], {}, "cannot share a memory"),
        (None, {"optimiser": "values"}, "optimiser: values"),
    ],
)
def test_what_does_not_go_with_behaviours_is_said(edits, params, message):
    with pytest.raises(UsageError, match=message):
        mended(tiny("gpt2"), edits, **params)


def test_a_kind_is_routed_by_a_filter_and_a_limit():
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(16, generator=generator)
    others = torch.randn(400, 16, generator=generator) * 3
    own = torch.randn(60, 16, generator=generator) + 3 * direction
    parts = of_one_kind(own[:30], others[:200], 0.1, 0.5)
    memory = SideMemory({"change": torch.zeros(1, 4, 16), **parts}, {"router": "keys", "route": "token"})
    reading = own @ parts["basis"][:, 0]
    routed = memory.routed(memory.tensors, own[30:]) > 0
    assert torch.equal(routed, reading[30:] > -parts["shift"][1])
    assert routed.float().mean() > 0.9
    assert (memory.routed(memory.tensors, others[200:]) > 0).float().mean() < 0.05
    with pytest.raises(EditorError, match="cannot be told"):
        of_one_kind(others[:30], 10 * others[:30], 0.1, 0.5)


# --- leaving the model alone --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"layers": [3]}, "did you mean 'layer'"),
        ({"layer": 0}, "layer"),
        ({"layer": 4}, "layer: 4 is too large"),
        ({"layer": 3, "site": "subject"}, "at least one block must lie above"),
        ({"room": 1}, "room"),
        ({"density": 0}, "density"),
        ({"merge": "best"}, "merge"),
        ({"preset": "mine"}, "preset"),
        ({"optimiser": "values", "router": "activation"}, "optimiser: values"),
    ],
)
def test_bad_settings_are_named(params, message):
    with pytest.raises(UsageError, match=message):
        edit(tiny("gpt2"), **params)


@pytest.mark.parametrize(
    ("tensors", "settings"),
    [
        (
            {"change": torch.ones(1, 3, 4), "limits": torch.ones(2)},
            {"router": "activation", "route": "token"},
        ),
        ({"change": torch.ones(3, 4), "limits": torch.ones(1)}, {"router": "activation", "route": "token"}),
        ({"left": torch.ones(1, 3, 4), "limits": torch.ones(1)}, {"router": "activation", "route": "token"}),
        ({"change": torch.ones(1, 3, 4), "limits": torch.ones(1)}, {"router": "keys", "route": "token"}),
        ({"change": torch.ones(1, 3, 4), "limits": torch.ones(1)}, {"router": "activation", "route": "row"}),
        ({"change": torch.ones(1, 3, 4), "limits": torch.ones(1)}, {}),
        ({"change": torch.full((1, 3, 4), torch.nan), "limits": torch.ones(1)}, {}),
    ],
)
def test_parts_that_make_no_side_memory_are_refused(tensors, settings):
    with pytest.raises(EditorError):
        SideMemory(tensors, settings)
