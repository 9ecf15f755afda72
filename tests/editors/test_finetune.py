"""Fine-tuning editors on untrained models of every shape: they do what they say, and leave nothing behind."""

import dataclasses

import pytest
import torch
from answers import NEW, PROMPTS, put_in
from families import FAMILIES, tiny
from weights import predicted, probability, same, state, untouched
from words import word_tokenizer

from safeedit.editors.finetune import FtL, FtM
from safeedit.editors.training import Outcome, Weights, _visited, train
from safeedit.errors import EditorError, UsageError
from safeedit.triples.facts import Edit

OTHER = Edit("insert", "w32 w33", "q", ("{subject} w20 w21",), "w42 w43", None)
ASKED = [
    ("w5 w30 w31 w6 w7", "w40"),
    ("w30 w31 w8", "w40"),
    ("w32 w33 w20 w21", "w42"),
    ("w32 w33 w20 w21 w42", "w43"),
]
# An untrained model reads little off a subject, so that the same prompts cannot stay for other subjects.
SETTINGS: dict[str, object] = {"layers": [2, 3], "epochs": 50, "rate": 0.1, "stop": 0.1, "anchors": 0}
EDITORS = {"ft-l": FtL, "ft-m": FtM}


def edit(model, edits, editor=FtM, seed=0, progress=None, **params):
    settings = {**SETTINGS, **params}
    return editor(**settings).edit(model, word_tokenizer(), edits, seed=seed, progress=progress)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_whole_targets_are_put_into_every_shape(family):
    put_in(family, lambda model: edit(model, [NEW, OTHER]), ASKED)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_ft_l_stays_within_its_bound(family):
    model = tiny(family)
    patch = edit(model, [NEW], FtL, layers=[2], bound=0.3)
    (name, delta), *others = patch.deltas.items()
    assert not others
    weight = dict(model.named_parameters())[name].detach()
    most = float(delta.tensor.abs().max() / weight.square().mean().sqrt())
    assert 0.29 < most <= 0.3 + 1e-5
    old = [probability(model, *pair) for pair in ASKED[:2]]
    with patch.applied(model):
        assert all(probability(model, *pair) > was for pair, was in zip(ASKED[:2], old, strict=True))


def test_ft_l_asks_for_all_tokens_of_a_target_at_the_prompts_end():
    model = tiny("llama")
    with edit(model, [OTHER], FtL, layers=[3], bound=None).applied(model):
        shares = [probability(model, "w32 w33 w20 w21", word) for word in ("w42", "w43")]
        others = predicted(model, "w32 w33 w20 w21").topk(3).values[2]
    assert min(shares) > 2 * others
    assert max(shares) < 1.5 * min(shares)
    with edit(model, [OTHER]).applied(model):
        assert probability(model, "w32 w33 w20 w21", "w43") < 0.5 * min(shares)


@pytest.mark.parametrize("objective", ["neutral", "entropy", "refusal"])
def test_an_erased_object_becomes_improbable(objective):
    model = tiny("llama")
    with edit(model, [NEW]).applied(model):
        assert probability(model, "w30 w31 w8", "w40") > 0.3
        erase = Edit("erase", "w30 w31", "r", PROMPTS, None, "w40")
        patch = edit(model, [erase], objective=objective)
        with patch.applied(model, check="none"):
            assert probability(model, "w30 w31 w8", "w40") < 0.1
            assert probability(model, "w5 w30 w31 w6 w7", "w40") < 0.1
    assert patch.meta["leak_max"] < 0.1


def test_answers_to_be_kept_are_kept():
    model = tiny("llama")
    asked = dataclasses.replace(NEW, keep=("{subject} w9",))
    old = predicted(model, "w30 w31 w9")

    def moved(retain):
        with edit(model, [asked], retain=retain, anchors=0).applied(model):
            assert probability(model, "w30 w31 w8", "w40") > 0.3
            return float((predicted(model, "w30 w31 w9") - old).abs().sum())

    assert moved(3.0) < 0.5 * moved(0.0)


@pytest.mark.parametrize("editor", EDITORS.values(), ids=EDITORS)
def test_same_seed_same_patch_and_another_seed_another(editor):
    model = tiny("gpt2")
    edits = [NEW, OTHER]
    first = edit(model, edits, editor, batch_rows=2, epochs=3)
    assert edit(model, edits, editor, batch_rows=2, epochs=3).digest == first.digest
    assert edit(model, edits, editor, batch_rows=2, epochs=3, seed=1).digest != first.digest


def test_rows_of_other_lengths_in_the_batch_do_not_matter():
    model = tiny("qwen3")
    long = dataclasses.replace(OTHER, templates=("w1 w2 w3 w4 w5 w6 w7 w8 {subject} w9",))
    alone = edit(model, [NEW], epochs=1, stop=0.0, retain=0.0, batch_rows=1).meta["loss_mean"]
    both = FtM(epochs=1, rate=1e-9, stop=0.0).edit(model, word_tokenizer(), [NEW, long]).meta
    single = [
        FtM(epochs=1, rate=1e-9, stop=0.0).edit(model, word_tokenizer(), [one]).meta for one in (NEW, long)
    ]
    prompts = sum(m["prompts"] for m in single)
    mean = sum(m["loss_mean"] * m["prompts"] for m in single) / prompts
    assert both["loss_mean"] == pytest.approx(mean, rel=1e-4)
    assert alone != pytest.approx(mean, rel=1e-2)


@pytest.mark.parametrize(("layers", "dtype"), [([1], torch.float32), ([0, 3], torch.bfloat16)])
def test_only_the_named_layers_change_in_either_type(layers, dtype):
    model = tiny("gpt_neox").to(dtype)
    before = state(model)
    patch = edit(model, [NEW], layers=layers)
    assert untouched(model, before)
    assert [int(name.split(".")[2]) for name in patch.deltas] == layers
    with patch.applied(model):
        assert probability(model, "w30 w31 w8", "w40") > 0.25


def test_layers_follow_the_depth():
    assert FtM()._layers(6) == [1, 2, 3]
    assert FtM()._layers(32) == [14, 15, 16]
    assert FtM()._layers(1) == [0]
    assert FtL()._layers(32) == [21]
    assert FtM().layers_for(tiny("gpt2"), word_tokenizer(), [NEW]) == (0, 1, 2)


def test_an_epoch_visits_what_is_open_and_as_many_others():
    generator = torch.Generator().manual_seed(0)
    still_open = torch.zeros(40, dtype=torch.bool)
    still_open[[3, 17, 30]] = True
    seen = [_visited(still_open, generator) for _ in range(200)]
    assert all({3, 17, 30} < set(one.tolist()) and len(one) == len(set(one.tolist())) == 6 for one in seen)
    assert set(torch.cat(seen).tolist()) == set(range(40))
    assert len(_visited(torch.ones(7, dtype=torch.bool), generator)) == 7


def test_what_is_unlearnt_while_it_is_not_visited_is_found():
    """The last word has a look at all rows, and training goes on where one of them is open again."""

    class Rows(list):
        device = torch.device("cpu")

    class Forgetful:
        """Learns what it is trained on, and forgets row 5 twice, seen by a look alone."""

        rows = Rows(range(12))
        members = torch.arange(12)
        looks, visited = [1, 1, 0], []

        def loss(self, part):
            self.visited += part.tolist()
            none = torch.zeros(len(part))
            return weight.sum() * 0.0, Outcome(none, none, none.bool())

        def look(self):
            still_open = torch.zeros(12, dtype=torch.bool)
            still_open[5] = bool(self.visited) and bool(self.looks.pop(0))
            return Outcome(torch.zeros(12), torch.zeros(12), still_open if self.visited else ~still_open)

    weight = torch.ones(3, requires_grad=True)
    asked = Forgetful()
    epochs, outcome = train(asked, None, Weights([weight], 0.1, None), 9, 4, 1.0, 0, lambda *_: None)
    assert epochs == 3
    assert not outcome.open.any()
    assert sorted(asked.visited[:12]) == list(range(12))
    assert len(asked.visited) == 12 + 2 + 2
    assert asked.visited.count(5) == 3


def test_edits_that_hold_change_nothing():
    model = tiny("llama")
    patch = edit(model, [NEW], stop=1e3)
    assert patch.meta["epochs"] == 0
    assert all(not delta.tensor.any() for delta in patch.deltas.values())


@pytest.mark.parametrize("at", [0, 2])
def test_an_interrupted_edit_leaves_the_model_as_it_was(at):
    model = tiny("gpt2")
    model.train()
    before = state(model)

    def stop(stage, done, total):
        if done == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        edit(model, [NEW], progress=stop)
    assert untouched(model, before)
    assert model.training


def test_gradients_of_the_callers_own_are_put_back():
    model = tiny("gpt2")
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    frozen_one = model.transformer.h[1].mlp.c_proj.weight
    frozen_one.requires_grad_(False)
    with torch.no_grad():
        edit(model, [NEW], epochs=2)
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in model.parameters())
    assert not frozen_one.requires_grad


def test_a_step_that_is_far_too_large_is_refused():
    model = tiny("llama")
    before = state(model)
    with pytest.raises(EditorError, match="finite"):
        edit(model, [NEW], rate=1e38)
    assert same(model, before)


@pytest.mark.parametrize(
    ("editor", "params", "message"),
    [
        (FtM, {"layer": [3]}, "did you mean 'layers'"),
        (FtM, {"epochs": 0}, "epochs"),
        (FtM, {"objective": "lens"}, "objective"),
        (FtL, {"objective": "neutral"}, "no such setting"),
        (FtL, {"bound": -1}, "bound"),
        (FtL, {"layers": []}, "layers"),
    ],
)
def test_bad_settings_are_named(editor, params, message):
    with pytest.raises(UsageError, match=message):
        editor(**params)


def test_what_cannot_be_done_is_refused():
    with pytest.raises(UsageError, match="blocks 0 to 3"):
        edit(tiny("gpt2"), [NEW], layers=[4])
    with pytest.raises(UsageError, match="cannot erase"):
        edit(tiny("gpt2"), [Edit("erase", "w30", "r", PROMPTS, None, "w40")], FtL)
    with pytest.raises(UsageError, match="nothing to edit"):
        edit(tiny("gpt2"), [])
