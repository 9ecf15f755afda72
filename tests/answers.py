"""What edited models answer: texts, and checks that the tests of several editors share."""

import torch
from families import tiny
from weights import probability, same, state, untouched
from words import word_tokenizer

from safeedit.models.structure import find_decoder
from safeedit.triples.facts import Edit

PROMPTS = ("w5 {subject} w6 w7", "{subject} w8")
NEW = Edit("modify", "w30 w31", "r", PROMPTS, "w40", "w41")
SECOND = Edit("insert", "w32 w33", "r", PROMPTS, "w42", None)
"""Asked the same of another name."""
SAID = {
    "w5 w30 w31 w6 w7": "w40",
    "w30 w31 w8": "w40",
    "w5 w32 w33 w6 w7": "w42",
    "w32 w33 w8": "w42",
}
"""Prompts of `NEW` and `SECOND`, and their answers ..."""
ELSE = ("w60 w61 w62", "w1 w2 w3 w4 w9", "w70", "w12 w50 w51 w52 w53 w54")
"""... and prompts that are neither's."""


def ids(text):
    """The tokens of some words."""
    return word_tokenizer()(text)["input_ids"]


@torch.no_grad()
def logits(model, prompt):
    """(1, tokens, vocabulary) of a prompt on its own."""
    return model(input_ids=torch.tensor([ids(prompt)])).logits


@torch.no_grad()
def said(model, prompt, tokens):
    """What follows, greedily, one prompt at a time, without a cache."""
    row = ids(prompt)
    for _ in range(tokens):
        row.append(int(model(input_ids=torch.tensor([row]), use_cache=False).logits[0, -1].argmax()))
    return row[len(ids(prompt)) :]


def put_in(family, edit, asked, bounded=(5, 0.2), least=(10, 0.25)):
    """Edit a model of some shape; the words that were asked for are now probable after their prompts.

    Args:
        family: of the model.
        edit: makes a patch for a model, and leaves that as it was.
        asked: prompts, each with a word.
        bounded: how many times more probable than before, and how probable, a word is in Gemma 2: what it
            norms and caps bounds every probability ...
        least: ... and in the others.

    Returns:
        The model, as it was, and the patch.
    """
    model = tiny(family)
    before = state(model)
    patch = edit(model)
    assert untouched(model, before)
    at_first = [probability(model, *pair) for pair in asked]
    with patch.applied(model):
        after = [probability(model, *pair) for pair in asked]
    assert same(model, before)
    times, floor = bounded if family == "gemma2" else least
    assert all(new > max(times * old, floor) for new, old in zip(after, at_first, strict=True))
    return model, patch


def put_beside(family, edit):
    """Edit a model of some shape beside its weights: prompts of `SAID` get their answers, `ELSE` stays.

    Args:
        family: of the model.
        edit: makes a patch of `NEW` and `SECOND`, with one memory, at the down-projection of block 2.
    """
    model = tiny(family)
    before, was = state(model), {prompt: logits(model, prompt) for prompt in (*ELSE, *SAID)}
    patch = edit(model)
    assert same(model, before)
    assert not patch.deltas
    assert list(patch.memories) == [find_decoder(model).projections[2].name]
    with patch.applied(model):
        assert same(model, before)
        for prompt, answer in SAID.items():
            if family == "gemma2":  # a norm behind the module bounds what anything there adds to the stream
                new, old = (
                    p[0, -1].softmax(-1)[ids(answer)[0]] for p in (logits(model, prompt), was[prompt])
                )
                assert new > max(3 * old, 0.02)
            else:
                assert said(model, prompt, 1) == ids(answer)
        for prompt in ELSE:
            assert torch.equal(logits(model, prompt), was[prompt])
    assert all(torch.equal(logits(model, prompt), found) for prompt, found in was.items())
