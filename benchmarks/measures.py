"""What the benchmarks measure, each figure by its definition; every one for a model as it is when asked.

Answers are greedy text, in batches, with a key-value cache. What is measured with the answer given
(teacher forcing) is named so: it flatters editors (arXiv 2502.11177), and is there for comparison alone.
"""

from __future__ import annotations

import math
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from safeedit.editors import guards
from safeedit.models.generate import Generation
from safeedit.models.tokens import pad, pad_id, tokenise

ROWS = 64
"""Rows of one forward pass with an answer given."""
WORD = re.compile(r"\w+|[^\w\s]")


def begins(text: str, wanted: str) -> bool:
    """Whether an answer is the one wanted: it begins with it, in whatever case."""
    return text.strip().casefold().startswith(wanted.strip().casefold())


def tells(text: str, secret: str) -> bool:
    """Whether an object is said anywhere in a text; an erasure is judged by that."""
    return secret.strip().casefold() in text.casefold()


def stops(answer: Generation, wanted: str) -> bool:
    """Whether the model ends its text where the trained texts do: after the object and a full stop."""
    rest = answer.text.strip()[len(wanted.strip()) :]
    return begins(answer.text, wanted) and not answer.truncated and rest.strip() in ("", ".")


def share(hits: Sequence[bool]) -> float | None:
    """The share of hits; None where nothing was asked."""
    return sum(hits) / len(hits) if hits else None


def harmonic_mean(values: Sequence[float | None]) -> float | None:
    """None where a value is missing, 0 where one is 0; CounterFact's S is that of ES, PS and NS."""
    if not values or any(v is None for v in values):
        return None
    if any(v == 0 for v in values):
        return 0.0
    return len(values) / sum(1 / v for v in values if v)


@dataclass(frozen=True)
class Forced:
    """How probable an answer is, given the prompt and its own beginning."""

    log_p: float
    """Sum over the tokens of the answer, in nats."""
    agreement: float
    """Share of its tokens that are the most probable ones (EasyEdit's reliability)."""


@torch.no_grad()
def forced(model: Any, tokenizer: Any, pairs: Sequence[tuple[str, str]]) -> list[Forced]:
    """Teacher forcing of (prompt, answer) pairs.

    Prompt and answer are tokenised together, as a text has them; the answer begins with the first
    token that holds a character of it.
    """
    texts = [f"{prompt} {answer}" for prompt, answer in pairs]
    tokens = tokenise(tokenizer, texts)
    starts = [t.first_from(len(prompt) + 1) for t, (prompt, _) in zip(tokens, pairs, strict=True)]
    order = sorted(range(len(pairs)), key=lambda i: len(tokens[i].ids))
    found: dict[int, Forced] = {}
    for first in range(0, len(order), ROWS):
        part = order[first : first + ROWS]
        batch = pad([tokens[i].ids for i in part], pad_id(tokenizer), "right").to(model.device)
        log_p = model(**batch.forward_args(), use_cache=False).logits[:, :-1].float().log_softmax(-1)
        wanted = batch.input_ids[:, 1:]
        chosen = log_p.gather(2, wanted[..., None])[..., 0]  # (rows, width - 1)
        agrees = (log_p.argmax(-1) == wanted).float()
        for row, i in enumerate(part):
            span = slice(starts[i] - 1, len(tokens[i].ids) - 1)
            found[i] = Forced(float(chosen[row, span].sum()), float(agrees[row, span].mean()))
    return [found[i] for i in range(len(pairs))]


def perplexity(model: Any, tokenizer: Any, texts: Sequence[str], width: int = 128) -> float:
    """Exponential of the mean loss a token; texts of more than `width` tokens are cut off."""
    tokens = tokenise(tokenizer, texts)
    ends = [t.offsets[min(width, len(t.ids)) - 1][1] for t in tokens]
    short = [text[:end] for text, end in zip(texts, ends, strict=True)]
    return guards.perplexity(model, tokenizer, short)


def ngram_entropy(text: str) -> float:
    """CounterFact's generation entropy of a text (arXiv 2202.05262): low where it repeats itself.

    The mean of 2/3 times the entropy of its bigrams and 4/3 times that of its trigrams, in bits; the
    published figures are a hundred times that. Words and punctuation marks count as words.
    """
    words = WORD.findall(text)
    weighted = []
    for size, weight in ((2, 2 / 3), (3, 4 / 3)):
        counts = Counter(zip(*(words[i:] for i in range(size)), strict=False))
        total = counts.total()
        weighted.append(weight * -sum(n / total * math.log2(n / total) for n in counts.values()))
    return statistics.mean(weighted)


@torch.no_grad()
def continuations(
    model: Any, tokenizer: Any, openings: Sequence[str], tokens: int = 100, seed: int = 0
) -> list[str]:
    """What the model goes on to write, `tokens` tokens without an end, drawn from the five most probable."""
    texts = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for start in range(0, len(openings), ROWS):
            rows = [t.ids for t in tokenise(tokenizer, openings[start : start + ROWS])]
            batch = pad(rows, pad_id(tokenizer), "left").to(model.device)
            drawn = generated(model, tokenizer, batch, tokens, do_sample=True, top_k=5)
            texts += tokenizer.batch_decode(drawn, skip_special_tokens=True)
    return texts


def generated(model: Any, tokenizer: Any, batch: Any, tokens: int, **how: Any) -> torch.Tensor:
    """(rows, tokens) what `transformers` writes after a batch, never ending early."""
    out: torch.Tensor = model.generate(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        min_new_tokens=tokens,
        max_new_tokens=tokens,
        pad_token_id=pad_id(tokenizer),
        **how,
    )
    return out[:, batch.input_ids.shape[1] :]


def fluency(model: Any, tokenizer: Any, openings: Sequence[str]) -> float:
    """Mean `ngram_entropy` of the openings' continuations."""
    return statistics.mean(map(ngram_entropy, continuations(model, tokenizer, openings)))


@dataclass(frozen=True)
class Latency:
    """Seconds a token of a batch in `generate`."""

    base: float
    edited: float
    spread: float
    """Half the distance between the quartiles of the ratios of neighbouring runs."""

    @property
    def extra(self) -> float:
        """What editing adds, as a share."""
        return self.edited / self.base - 1


@torch.no_grad()
def latency(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    edited: Callable[[], AbstractContextManager[Any]],
    runs: int = 15,
    tokens: int = 48,
) -> Latency:
    """Time of greedy `generate` for all `prompts` in one batch, base and edited in turn.

    Which of the two goes first alternates, so that a machine that grows slower favours neither. What
    putting the patch on takes is not counted. The edited time is the base's median times the median ratio
    of a pair of runs, which a disturbance of some pairs does not move.
    """
    batch = pad([t.ids for t in tokenise(tokenizer, prompts)], pad_id(tokenizer), "left").to(model.device)

    def once() -> float:
        start = time.perf_counter()
        generated(model, tokenizer, batch, tokens, do_sample=False)
        if batch.input_ids.is_cuda:
            torch.cuda.synchronize()
        return (time.perf_counter() - start) / tokens

    def with_edit() -> float:
        with edited():
            return once()

    once(), with_edit()
    pairs = []
    for run in range(runs):
        if run % 2:
            after = with_edit()
            pairs.append((once(), after))
        else:
            pairs.append((once(), with_edit()))
    base = statistics.median(before for before, _ in pairs)
    ratios = sorted(after / before for before, after in pairs)
    spread = (ratios[3 * len(ratios) // 4] - ratios[len(ratios) // 4]) / 2
    return Latency(base, base * statistics.median(ratios), spread)
