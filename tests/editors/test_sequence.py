"""Edits one batch after another, on untrained models: they add up, and stop where it goes wrong."""

import math
from dataclasses import replace

import pytest
import torch
from families import tiny
from weights import predicted, probability, same, state
from words import word_tokenizer

from safeedit import sequence
from safeedit.deltas import DenseDelta
from safeedit.editors.grace import Grace
from safeedit.editors.guards import Guard, perplexity
from safeedit.editors.memit import Memit
from safeedit.editors.statistics import Corpus
from safeedit.errors import EditorError, UsageError
from safeedit.sequence import in_turns
from safeedit.triples.facts import Edit

CORPUS = Corpus([f"w{i % 60} w{(7 * i) % 60} w{(11 * i) % 60} w{(3 * i) % 60}" for i in range(200)], width=32)
PROMPTS = ("w5 {subject} w6 w7", "{subject} w8", "w9 {subject} w6")
EDITS = [Edit("insert", f"w{i} w{i + 1}", "r", PROMPTS, f"w{i + 20}", None) for i in (30, 33, 36, 39)]
TEXTS = tuple(f"w{i} w{i + 2} w{i + 1} w{i + 5} w{i + 3}" for i in range(10, 30))
MEMIT = {"site": "subject", "contexts": 0, "passes": 3, "steps": 20, "clamp": 3.0, "preserve": 1.0}


def turns(model, editor=None, **options):
    return in_turns(
        editor or Memit(**MEMIT),
        model,
        word_tokenizer(),
        options.pop("edits", EDITS),
        corpus=CORPUS,
        **{"size": 1, "guard": Guard(norm=50.0, perplexity=1e6, texts=TEXTS), **options},
    )


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("size", [1, 3])
def test_batches_add_up_to_one_patch_for_the_base(family, size):
    model = tiny(family)
    before = state(model)
    found = turns(model, size=size)
    assert same(model, before)
    assert found.stopped is None
    assert [turn.edits for turn in found.turns] == ([1] * 4 if size == 1 else [3, 1])
    assert found.done == 4
    was = {e.target: probability(model, e.prompts()[0], e.target) for e in EDITS}
    with found.patch.applied(model):
        now = {e.target: probability(model, e.prompts()[0], e.target) for e in EDITS}
    assert sum(now.values()) > 1.15 * sum(was.values())
    assert sum(now[word] > was[word] for word in now) >= 3
    assert same(model, before)


def test_each_batch_is_made_on_the_model_that_the_others_left(monkeypatch):
    seen = []
    own = Memit._edit

    def watched(self, job):
        seen.append(predicted(job.model, EDITS[0].prompts()[0]))
        return own(self, job)

    monkeypatch.setattr(Memit, "_edit", watched)
    model = tiny("llama")
    found = turns(model)
    assert not torch.equal(seen[0], seen[1])
    with found.patch.applied(model):  # the last one seen is one edit short of it
        assert not torch.equal(predicted(model, EDITS[0].prompts()[0]), seen[-1])


@pytest.mark.parametrize("keep", [True, False])
def test_later_batches_keep_what_earlier_ones_asked_for(monkeypatch, keep):
    seen = []
    own = Memit._edit

    def watched(self, job):
        seen.append(list(job.controls))
        return own(self, job)

    monkeypatch.setattr(Memit, "_edit", watched)
    turns(tiny("llama"), size=2, controls=["w1 w2"], keep_earlier=keep)
    earlier = sorted(prompt for edit in EDITS[:2] for prompt in edit.prompts())
    assert seen == [["w1 w2"], ["w1 w2", *earlier] if keep else ["w1 w2"]]
    seen.clear()
    again = [EDITS[0], replace(EDITS[0], target="w58")]
    turns(tiny("llama"), edits=again, keep_earlier=keep)
    assert seen == [[], []], "what is asked anew is not held to what it was"


class Growing(Memit):
    """Adds as much again to one weight with every edit, the last time something impossible."""

    name = "growing"
    steps: float = 0.2
    broken = False

    def _edit(self, job):
        made = super()._edit(job)
        [name] = list(made.deltas)[:1]
        weight = dict(job.model.named_parameters())[name]
        noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
        change = noise * (self.steps * weight.norm() / noise.norm())
        if self.broken and job.edits[0] is EDITS[2]:
            raise EditorError("no finite solution")
        return type(made)({name: DenseDelta(change)})


def test_it_ends_at_the_last_good_state_when_a_norm_runs_away():
    model = tiny("gpt2")
    before = state(model)
    found = turns(model, Growing(**MEMIT), guard=Guard(norm=0.5))
    assert same(model, before)
    assert found.done == 2
    assert "0.6" in found.stopped
    assert [turn.change for turn in found.turns] == pytest.approx([0.2, 0.4], rel=0.1)
    assert found.patch.meta["edits"] == 2
    alone = turns(model, Growing(**MEMIT), guard=Guard(norm=0.5), edits=EDITS[:2])
    assert alone.patch.deltas.keys() == found.patch.deltas.keys()
    assert all(torch.equal(d.dense(), found.patch.deltas[n].dense()) for n, d in alone.patch.deltas.items())


@pytest.mark.parametrize(("seen", "done"), [((100, 110, 119, 121), 2), ((100, float("nan")), 0)])
def test_it_ends_when_the_language_goes(monkeypatch, seen, done):
    model, told = tiny("gpt2"), iter(seen)
    before = state(model)
    monkeypatch.setattr(sequence, "perplexity", lambda *_: next(told))
    found = turns(model, guard=Guard(norm=1e9, perplexity=1.2, texts=TEXTS))
    assert "perplexity" in found.stopped
    assert found.done == done
    assert (found.patch is None) == (done == 0)
    assert same(model, before)


def test_perplexity_is_that_of_the_next_token():
    model, tokenizer = tiny("llama"), word_tokenizer()
    losses, count = 0.0, 0
    for text in TEXTS[:5]:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            losses += float(model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    assert perplexity(model, tokenizer, TEXTS[:5]) == pytest.approx(math.exp(losses / count), rel=1e-5)
    assert not math.isfinite(perplexity(model, tokenizer, ["w1"]))


def test_an_edit_that_cannot_be_made_ends_it_and_the_others_stay():
    editor = Growing(**MEMIT)
    editor.broken = True
    found = turns(tiny("gpt2"), editor)
    assert (found.done, found.stopped) == (2, "no finite solution")


def test_a_model_that_breaks_in_the_middle_is_put_back():
    model = tiny("llama")
    before = state(model)

    def stop(stage, done, total):
        if stage == "edits" and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        turns(model, progress=stop)
    assert same(model, before)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(UsageError, match="at least one edit"):
        turns(tiny("gpt2"), size=0)
    with pytest.raises(UsageError, match="all edits at once"):
        turns(tiny("gpt2"), Grace())
    with pytest.raises(UsageError, match="perplexity above 1"):
        Guard(perplexity=1.0)
    assert Guard().crossed(float("nan"), None)
    assert Guard().crossed(0.1, float("inf"))
    assert Guard().crossed(0.1, 1.1) is None
