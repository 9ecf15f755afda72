"""Prompts for traces of untrained models, and the slow, plain way to restore states."""

from __future__ import annotations

import torch
from words import word_tokenizer

from safeedit.editors.rows import Text
from safeedit.locate.prompts import prompts_of
from safeedit.locate.trace import Settings, Work, trace_exact
from safeedit.models.hooks import first_tensor, frozen
from safeedit.models.segment import Segment
from safeedit.models.structure import find_decoder

TEXTS = (
    Text("", "w5 {subject} w6 w7", "w30 w31 w32", "w40"),
    Text("", "{subject} w8", "w33", "w41 w42"),
    Text("", "w5 w6 w7 {subject} w9 w10 w11", "w34 w35", "w43"),
    Text("", "w12 w13 {subject}", "w36 w37", "w44"),
)


def quiet(stage, done, total):
    pass


def prompts(texts=TEXTS, part="first"):
    found = prompts_of(word_tokenizer(), list(texts), range(len(texts)))
    return [prompt.measured(part) for prompt in found]


def work_for(model, asked, scale=None, **settings):
    """What traces share, with the noise of all prompts unless told otherwise; for use in `frozen`."""
    found = Work.of(Segment(find_decoder(model)), word_tokenizer(), asked, Settings(**settings), quiet)
    if scale is not None:
        object.__setattr__(found, "scale", scale)
    return found


def traced(model, asked, how=trace_exact, **settings):
    with frozen(model):
        return how(work_for(model, asked, **settings), asked)


def plainly_restored(work, prompt, kind, layers, token):
    """The object's probability with one state restored: whole forward passes of one prompt."""
    model, samples = work.segment.decoder.model, work.settings.samples
    ids = torch.tensor([prompt.ids])
    noise = work.noise([prompt], len(prompt.ids))
    modules = [work.sites.modules[kind][layer] for layer in layers]
    clean = []
    handles = [m.register_forward_hook(lambda _m, _a, out: clean.append(first_tensor(out))) for m in modules]
    model(input_ids=ids)
    for handle in handles:
        handle.remove()

    def restoring(state):
        def hook(_module, _args, output):
            moved = first_tensor(output).clone()
            moved[:, token] = state[:, token]
            return (moved, *output[1:]) if isinstance(output, tuple) else moved

        return hook

    handles = [m.register_forward_hook(restoring(s)) for m, s in zip(modules, clean, strict=True)]
    handles.append(work.sites.embedding.register_forward_hook(lambda _m, _a, out: out + noise))
    logits = model(input_ids=ids.expand(samples, -1)).logits[:, prompt.end :]
    for handle in handles:
        handle.remove()
    wanted = torch.tensor(prompt.wanted)
    log_p = logits.log_softmax(-1)[:, torch.arange(len(wanted)), wanted].sum(-1)
    return float(log_p.exp().mean())
