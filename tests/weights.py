"""What a model holds, and what it says next."""

import torch
from words import word_tokenizer


def state(model):
    """A copy of every tensor."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(model, before):
    """Whether every tensor is bit for bit what `state` saw, and none came or went."""
    now = model.state_dict()
    return list(now) == list(before) and all(torch.equal(now[name], before[name]) for name in before)


def untouched(model, before):
    """Whether an edit left nothing behind: weights, gradients."""
    asks = all(p.requires_grad and p.grad is None for p in model.parameters())
    return same(model, before) and asks


@torch.no_grad()
def predicted(model, prompt):
    """(vocabulary,) probabilities of the token after a prompt of words."""
    ids = torch.tensor([word_tokenizer()(prompt)["input_ids"]], device=model.device)
    return model(input_ids=ids).logits[0, -1].softmax(-1)


def probability(model, prompt, word):
    """That of one word."""
    return float(predicted(model, prompt)[word_tokenizer().convert_tokens_to_ids(word)])
