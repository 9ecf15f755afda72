"""GRACE on untrained models of every shape: it answers what it was asked, and nothing else changes."""

import pytest
import torch
from answers import ELSE, NEW, PROMPTS, SAID, SECOND, ids, logits, put_beside, said
from families import FAMILIES, tiny
from words import word_tokenizer

from safeedit.editors import codebook
from safeedit.editors.codebook import Book, unit_of
from safeedit.editors.grace import Grace
from safeedit.errors import EditorError, UsageError
from safeedit.memories import Codebook
from safeedit.models.tokens import pad
from safeedit.patch import Patch
from safeedit.triples.facts import Edit

families = pytest.mark.parametrize("family", sorted(FAMILIES))


def edit(model, edits=(NEW, SECOND), **params):
    return Grace(**params).edit(model, word_tokenizer(), list(edits))


@families
def test_edited_prompts_get_their_answers_and_others_pass_bit_for_bit(family):
    put_beside(family, edit)


@pytest.mark.parametrize("family", ["gpt2", "gptj", "llama", "gemma"])
def test_every_token_of_a_longer_answer_is_asked_for(family):
    model = tiny(family)
    # What an untrained model makes of its own first token is all that it can be taught to say second.
    after = ids("w30 w31 w8 w40")
    second = int(model(input_ids=torch.tensor([after])).logits[0, -1, 4:].argmax()) + 4
    answer = f"w40 {word_tokenizer().convert_ids_to_tokens(second)}"
    patch = edit(model, [Edit("insert", "w30 w31", "r", ("{subject} w8",), answer, None)])
    with patch.applied(model):
        assert said(model, "w30 w31 w8", 2) == ids(answer)


@families
@torch.no_grad()
def test_batches_padded_on_either_side_agree_with_one_by_one(family):
    model = tiny(family)
    prompts = [*SAID, *ELSE]
    with edit(model).applied(model):
        alone = [logits(model, prompt)[0, -1] for prompt in prompts]
        for side in ("left", "right"):
            batch = pad([ids(prompt) for prompt in prompts], 0, side)
            found = model(**batch.forward_args()).logits
            last = [-1 if side == "left" else len(ids(prompt)) - 1 for prompt in prompts]
            for row, (at, expected) in enumerate(zip(last, alone, strict=True)):
                torch.testing.assert_close(found[row, at], expected, rtol=1e-3, atol=1e-3)


@families
def test_generate_with_a_cache_says_what_one_by_one_does(family):
    model = tiny(family)
    model.generation_config.eos_token_id = None
    prompts = [*SAID, *ELSE]
    batch = pad([ids(prompt) for prompt in prompts], 0, "left")
    with edit(model).applied(model):
        found = model.generate(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            max_new_tokens=4,
            do_sample=False,
            use_cache=True,
        )
        for row, prompt in zip(found[:, -4:].tolist(), prompts, strict=True):
            assert row == said(model, prompt, 4)


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
    for one in (patch, loaded):
        with one.applied(model):
            assert [said(model, p, 1) for p in SAID] == [ids(a) for a in SAID.values()]
    header = (tmp_path / "patch" / "patch.json").read_text()
    assert not any(f'w{i}"' in header or f"w{i} " in header for i in (30, 31, 32, 33, 40, 42))


def test_the_published_settings_are_absolute_and_keep_nothing_apart():
    model = tiny("gpt2")
    patch = edit(model, [NEW], preset="paper", steps=20)
    assert patch.params["units"] == "absolute"
    assert patch.params["steps"] == 20
    assert patch.meta["steps"] == 20  # it does not end early
    [memory] = patch.memories.values()
    assert float(memory.tensors["radii"].min()) >= 1.0
    with pytest.raises(UsageError, match="anchors"):
        edit(model, anchors=0)


def test_prompts_of_the_callers_own_pass():
    model = tiny("llama")
    prompt = "w5 w30 w31 w30 w31 w6 w7"
    editor = Grace(radius=3.0, room=0.5)
    [plain] = editor.edit(model, word_tokenizer(), [NEW]).memories.values()
    kept = editor.edit(model, word_tokenizer(), [NEW], controls=[prompt])
    [memory] = kept.memories.values()
    assert bool((memory.tensors["radii"] < plain.tensors["radii"]).any())
    was = logits(model, prompt)
    with kept.applied(model):
        assert torch.equal(logits(model, prompt), was)
    with pytest.raises(UsageError, match="empty"):
        editor.edit(model, word_tokenizer(), [NEW], controls=[" "])


def test_a_second_edit_is_made_on_top_of_the_first():
    model = tiny("llama")
    third = Edit("insert", "w34 w35", "r", PROMPTS, "w44", None)
    with edit(model, [NEW]).applied(model), edit(model, [third], layer=1).applied(model):
        assert said(model, "w34 w35 w8", 1) == ids("w44")
        assert said(model, "w30 w31 w8", 1) == ids("w40")


# --- the codebook's rules -----------------------------------------------------------------------

FAR = torch.tensor([[1000.0, 0.0]])


def book(keys, labels, others=FAR, radius=1.0, room=0.5):
    made = Book(torch.tensor(keys), labels, others, radius, room, 1e-3)
    made.fill()
    return made


def test_a_key_near_one_that_asks_for_the_same_joins_it():
    made = book([[0.0, 0.0], [1.5, 0.0]], [0, 0])
    assert (made.members, made.radii, made.joined()) == ([0], [1.5], [[0, 1]])


def test_a_key_near_one_that_asks_for_something_else_splits_the_distance():
    made = book([[0.0, 0.0], [1.5, 0.0]], [0, 1])
    assert (made.members, made.radii) == ([0, 1], [0.75, 0.75])
    assert made.joined() == [[0], [1]]


def test_a_key_far_from_all_has_the_initial_radius():
    made = book([[0.0, 0.0], [2.5, 0.0]], [0, 1])
    assert made.radii == [1.0, 1.0]


def test_a_radius_never_grows_by_a_split():
    made = book([[0.0, 0.0], [0.4, 0.0], [0.0, 1.0]], [0, 1, 2])
    assert made.radii[0] == pytest.approx(0.2)
    assert made.radii[2] <= 0.5


def test_a_prompt_that_a_later_one_cut_off_gets_an_entry_of_its_own():
    made = book([[0.0, 0.0], [1.8, 0.0], [1.2, 0.0]], [0, 0, 1])
    assert sorted(made.members) == [0, 1, 2]
    assert made.joined()[made.members.index(1)] == [1]


def test_prompts_with_invented_names_are_kept_out():
    made = book([[0.0, 0.0]], [0], torch.tensor([[0.6, 0.0], [5.0, 0.0]]))
    assert made.radii == [pytest.approx(0.3)]


def test_keys_that_cannot_be_told_apart_are_refused_where_the_answers_differ():
    with pytest.raises(EditorError, match="look the same"):
        book([[3.0, 0.0], [3.0, 0.0]], [0, 1])
    assert book([[3.0, 0.0], [3.0, 0.0]], [0, 0]).joined() == [[0, 1]]


@pytest.mark.parametrize("labels", [7, 300])
def test_prompts_compared_together_are_added_as_one_by_one(labels, monkeypatch):
    generator = torch.Generator().manual_seed(labels)
    middles = torch.randn(100, 1, 16, generator=generator)
    keys = (middles + 0.15 * torch.randn(100, 4, 16, generator=generator)).flatten(0, 1)
    keys = keys[torch.randperm(400, generator=generator)]
    asked = [number % labels for number in range(400)]
    found = []
    for together in (1, 50, 1000):
        monkeypatch.setattr(codebook, "TOGETHER", together)
        made = Book(keys, asked, torch.randn(50, 16, generator=torch.Generator()), 1.0, 0.5, 1e-6)
        made.fill()
        found.append((made.members, made.radii))
    assert found[0] == found[1] == found[2]
    assert len(found[0][0]) < 400


def test_the_unit_of_many_keys_is_near_that_of_all(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    keys, others = torch.randn(900, 16, generator=generator), torch.randn(700, 16, generator=generator)
    whole = float(torch.cdist(keys, others).median())
    assert unit_of(keys, others) == whole
    monkeypatch.setattr(codebook, "MOST", 10_000)
    assert unit_of(keys, others) == pytest.approx(whole, rel=0.02)
    assert unit_of(keys[:1], others) > 0


@pytest.mark.parametrize("seed", range(5))
def test_every_prompt_is_answered_by_a_key_that_asks_for_the_same(seed):
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randn(60, 2, generator=generator) * 3
    labels = torch.randint(4, (60,), generator=generator).tolist()
    made = Book(keys, labels, FAR, 1.0, 0.5, 0.0)
    made.fill()
    memory = Codebook(
        {
            "keys": keys[made.members],
            "radii": torch.tensor(made.radii),
            "values": torch.arange(float(len(made.members)))[:, None],
        }
    )
    given = (
        memory.output(memory.on(torch.device("cpu")), keys, torch.full((60, 1), -1.0))[:, 0].long().tolist()
    )
    assert [labels[made.members[at]] if at >= 0 else None for at in given] == labels
    assert len(made.members) < 60


# --- leaving the model alone --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"layers": [3]}, "did you mean 'layer'"),
        ({"layer": 0}, "layer"),
        ({"layer": 4}, "layer: 4 is too large"),
        ({"radius": 0}, "radius"),
        ({"room": 2}, "room"),
        ({"objective": "lens"}, "objective"),
        ({"steps": 0}, "steps"),
    ],
)
def test_bad_settings_are_named(params, message):
    with pytest.raises(UsageError, match=message):
        edit(tiny("gpt2"), **params)
