"""The search works on a part of the forward pass; its losses and gradients are those of the whole."""

import dataclasses

import pytest
import torch
from families import FAMILIES, tiny
from words import word_tokenizer

from safeedit.editors.journal import JOURNAL
from safeedit.editors.objectives import Aim, build_task
from safeedit.editors.rows import Text, rows_of
from safeedit.editors.strangers import telling_spots, without_object
from safeedit.editors.values import Search, search
from safeedit.errors import EditorError, UsageError
from safeedit.models.hooks import first_tensor, frozen
from safeedit.models.segment import Segment
from safeedit.models.structure import find_decoder
from safeedit.triples.facts import Edit

PROMPTS = ("w5 {subject} w6 w7", "{subject} w8")
EDITS = [
    Edit("insert", "w30 w31", "r", PROMPTS, "w40 w41", None),
    Edit("insert", "w33", "r", PROMPTS, "w42", None),
]
LOOK = Search(steps=0, rate=0.3, clamp=1.0, decay=0.0, stop=0.0, leak=0.0, batch_rows=100)


def task(segment, edits=EDITS, contexts=("", "w9 w9. ")):
    return build_task(segment, word_tokenizer(), edits, Aim("neutral", contexts, 0.0)).task


@torch.no_grad()
def whole_loss(model, edit, contexts=("", "w9 w9. ")):
    """Mean over prompts of the mean loss of the target's tokens, by plain forward passes."""
    tokenizer = word_tokenizer()
    losses = []
    for context in contexts:
        for prompt in edit.prompts():
            start = tokenizer(context + prompt)["input_ids"]
            target = tokenizer(edit.target)["input_ids"]
            log_p = model(input_ids=torch.tensor([start + target])).logits[0].log_softmax(-1)
            losses.append(-sum(log_p[len(start) - 1 + i, t] for i, t in enumerate(target)) / len(target))
    return float(sum(losses) / len(losses))


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_losses_are_those_of_the_whole_model(family):
    model = tiny(family)
    segment = Segment(find_decoder(model))
    with frozen(model):
        found = search(segment, 1, task(segment), LOOK, fill=0)
    for group, edit in enumerate(EDITS):
        assert float(found.loss[group]) == pytest.approx(whole_loss(model, edit), abs=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_a_value_does_in_the_whole_model_what_the_search_saw(family):
    model = tiny(family)
    decoder = find_decoder(model)
    segment = Segment(decoder)
    with frozen(model):
        found = search(segment, 1, task(segment, EDITS[1:]), dataclasses.replace(LOOK, steps=4), fill=0)
    tokenizer = word_tokenizer()
    subject = tokenizer("w33")["input_ids"][0]
    ids: list[torch.Tensor] = []

    def put(_module, _args, output):
        hidden = first_tensor(output).clone()
        hidden[ids[0] == subject] += found.delta[0]
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    decoder.blocks[1].register_forward_hook(put)
    model.register_forward_pre_hook(
        lambda _m, _a, kwargs: ids.insert(0, kwargs["input_ids"]), with_kwargs=True
    )
    assert float(found.loss[0]) == pytest.approx(whole_loss(model, EDITS[1]), abs=1e-4)


def test_no_value_is_longer_than_the_clamp():
    model = tiny("llama")
    segment = Segment(find_decoder(model))
    with frozen(model):
        found = search(segment, 1, task(segment), dataclasses.replace(LOOK, steps=10, clamp=0.25), fill=0)
    assert (found.norm <= 0.25 + 1e-5).all()
    assert (found.norm > 0.2).all()


def test_groups_that_are_done_stand_still():
    model = tiny("llama")
    segment = Segment(find_decoder(model))
    with frozen(model):
        found = search(segment, 1, task(segment), dataclasses.replace(LOOK, steps=10, stop=1e9), fill=0)
    assert not found.steps.any()
    assert not found.delta.any()


class Noted:
    """A journal in a dictionary."""

    def __init__(self):
        self.known, self.taken = {}, 0

    def found(self, state):
        self.taken += state in self.known
        return self.known.get(state)

    def note(self, state, values):
        self.known[state] = values


@pytest.fixture
def journal():
    kept = Noted()
    token = JOURNAL.set(kept)
    yield kept
    JOURNAL.reset(token)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_what_was_found_is_taken_where_it_would_be_found_again_and_nowhere_else(journal, family):
    model = tiny(family)
    decoder = find_decoder(model)
    segment = Segment(decoder)
    usual = dataclasses.replace(LOOK, steps=3)
    beside = decoder.projections[1].module
    erased = [Edit("erase", "w30 w31", "r", PROMPTS, None, "w40 w41")]

    def found(settings=usual, edits=EDITS, layer=1, **options):
        """The values, and whether they were in the journal."""
        before = journal.taken
        values = search(segment, layer, task(segment, edits), settings, 0, **options)
        return values, journal.taken > before

    with frozen(model):
        first, taken = found()
        assert not taken
        again, taken = found()
        assert taken
        assert torch.equal(first.delta, again.delta)
        assert torch.equal(first.steps, again.steps)
        # Another setting, layer, request or way of searching is another search.
        others = [
            {"settings": dataclasses.replace(usual, rate=0.31)},
            {"layer": 2},
            {"edits": [EDITS[0], dataclasses.replace(EDITS[1], target="w44")]},
            {"edits": EDITS[:1]},
            {"edits": erased},
            {"beside": beside},
        ]
        for other in others:
            assert not found(**other)[1]
            assert found(**other)[1]
        # So is one in a model that was changed below, or in the module beside.
        decoder.projections[1].weight[0, 0] += 0.5
        assert not found()[1]
        assert not found(beside=beside)[1]


def test_only_the_groups_asked_for_are_searched():
    model = tiny("llama")
    segment = Segment(find_decoder(model))
    settings = dataclasses.replace(LOOK, steps=3)
    with frozen(model):
        whole = search(segment, 1, task(segment), settings, fill=0)
        found = search(segment, 1, task(segment), settings, fill=0, among=torch.tensor([False, True]))
    assert not found.delta[0].any()
    assert found.loss[0].isnan()
    assert torch.allclose(found.delta[1], whole.delta[1], atol=1e-5)


def test_many_beginnings_of_different_lengths_lose_as_in_the_whole_model():
    model = tiny("qwen3-local")
    segment = Segment(find_decoder(model))
    contexts = ("", *(" ".join(["w9"] * n) + ". " for n in (1, 3, 6, 9, 14, 20)))
    edits = [Edit("insert", f"w{30 + i} w31", "r", PROMPTS, "w40 w41", None) for i in range(8)]
    with frozen(model):
        found = search(segment, 1, task(segment, edits, contexts), LOOK, fill=0)
    for group, edit in enumerate(edits):
        assert float(found.loss[group]) == pytest.approx(whole_loss(model, edit, contexts), abs=1e-4)


def test_losses_that_are_not_finite_end_the_search():
    model = tiny("llama")
    segment = Segment(find_decoder(model))
    wanted = task(segment)
    with torch.no_grad():
        model.model.norm.weight.fill_(torch.nan)
    with frozen(model), pytest.raises(EditorError, match="not finite"):
        search(segment, 1, wanted, LOOK, fill=0)


def test_subject_and_object_are_found_by_offsets():
    [row] = rows_of(word_tokenizer(), [Text("w9 w9 ", "w5 {subject} w6", "w30 w31", "w40 w41")])
    names = word_tokenizer().convert_ids_to_tokens(row.ids)
    assert names[row.pivot] == "w31"
    assert [names[spot] for spot in row.spots] == ["w6", "w40"]
    assert word_tokenizer().convert_ids_to_tokens(row.wanted) == ["w40", "w41"]


def test_an_object_without_a_token_is_refused():
    with pytest.raises(UsageError, match="no token"):
        rows_of(word_tokenizer(), [Text("", "{subject} w6", "w30", " ")])


def test_the_object_leaves_at_its_first_telling_token():
    table = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.3, 0.5]])
    wanted = torch.tensor([0, 2])
    [tell] = telling_spots(table, torch.tensor([0, 1]))
    assert (tell.spot, tell.token, tell.usual) == (1, 1, 0.0)
    found = without_object(table, wanted, tell.spot)
    assert torch.equal(found[0], table[0])
    assert torch.allclose(found[1], torch.tensor([0.4, 0.6, 0.0]))


def test_an_object_that_nothing_tells_apart_is_refused():
    with pytest.raises(EditorError, match="nothing tells"):
        telling_spots(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
