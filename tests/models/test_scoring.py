"""Scores of continuations agree with plain forward passes, one at a time, for every decoder shape."""

import math

import pytest
import torch
from families import FAMILIES, tiny
from words import word_tokenizer

from safeedit.errors import ModelError, ProbeError, UsageError
from safeedit.models import scoring
from safeedit.models.scoring import PLAIN, Sampler, score, score_candidates

PAIRS = [
    (f"w{i} " * (1 + i % 5) + f"w{3 * i}", "".join(f" w{5 * i + k}" for k in range(1 + i % 4)))
    for i in range(15)
]
PROMPTS = ["w1 w2", "w3", "w7 w8 w9 w10 w11", "w4 w5 w6"]
CANDIDATES = [
    [" w1", " w2 w3", " w2 w4", " w2 w3 w5 w6"],
    [" w9"],
    [" w1 w1", " w1 w2", " w1 w1"],
    [],
]


def alone(model, tokenizer, prompt, continuation):
    """One plain pass over one row: each token's log-probabilities, and what they are of."""
    before = len(tokenizer(prompt)["input_ids"])
    ids = torch.tensor([tokenizer(prompt + continuation)["input_ids"]])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0].float()
    return logits[before - 1 : -1], ids[0, before:]


def expected(model, tokenizer, prompt, continuation):
    logits, wanted = alone(model, tokenizer, prompt, continuation)
    log_p = logits.log_softmax(-1).gather(1, wanted[:, None])[:, 0]
    return log_p.tolist(), (logits.argmax(-1) == wanted).tolist()


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("side", ["left", "right"])
def test_agrees_with_single_rows(family, side):
    model, tokenizer = tiny(family), word_tokenizer()
    tokenizer.padding_side = side
    for budget in (8192, 30):
        found = score(model, tokenizer, PAIRS, token_budget=budget)
        for pair, scored in zip(PAIRS, found, strict=True):
            log_p, top = expected(model, tokenizer, *pair)
            assert scored.log_p == pytest.approx(log_p, abs=1e-4)
            assert scored.top == tuple(top)
            assert scored.total == pytest.approx(sum(log_p), abs=1e-4)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_candidates_agree_with_single_rows(family):
    model, tokenizer = tiny(family), word_tokenizer()
    for budget in (8192, 20):
        found = score_candidates(model, tokenizer, PROMPTS, CANDIDATES, token_budget=budget)
        assert [len(own) for own in found] == [len(own) for own in CANDIDATES]
        for prompt, own, scores in zip(PROMPTS, CANDIDATES, found, strict=True):
            for continuation, scored in zip(own, scores, strict=True):
                log_p, top = expected(model, tokenizer, prompt, continuation)
                assert scored.log_p == pytest.approx(log_p, abs=1e-4)
                assert scored.top == tuple(top)


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3-local", "gemma2"])
def test_bfloat16(family):
    """Rounding differs with the batch, by less than what eight bits of mantissa explain."""
    model, tokenizer = tiny(family).bfloat16(), word_tokenizer()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    together = score(model, tokenizer, PAIRS)
    [grouped, *_] = score_candidates(model, tokenizer, PROMPTS[:1], CANDIDATES[:1])
    for pair, scored in [
        *zip(PAIRS, together, strict=True),
        *zip([(PROMPTS[0], c) for c in CANDIDATES[0]], grouped, strict=True),
    ]:
        log_p, _ = expected(model, tokenizer, *pair)
        assert scored.log_p == pytest.approx(log_p, abs=0.15)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_candidates_share_is_computed_once():
    model, tokenizer = tiny("llama"), word_tokenizer()
    columns = []
    model.model.layers[0].register_forward_pre_hook(
        lambda _, args, kwargs: columns.append((args[0] if args else kwargs["hidden_states"]).shape[:2]),
        with_kwargs=True,
    )
    many = [f" w{i}" for i in range(60)]
    score_candidates(model, tokenizer, ["w1 w2 w3"], [many])
    assert columns == [(1, 3)]  # one token each: the prompt's own pass has all of them
    columns.clear()
    score_candidates(model, tokenizer, ["w1 w2 w3"], [[f"{c} w7 w8" for c in many]])
    assert columns == [(1, 3), (60, 2)]


def reference(logits, sampler):
    """A sampler's distribution by its definition, one row at a time, in plain Python."""
    weights = [math.exp(x / sampler.temperature - max(logits) / sampler.temperature) for x in logits]
    order = sorted(range(len(weights)), key=lambda i: -weights[i])
    kept = order[: sampler.top_k] if sampler.top_k else order
    mass, nucleus = 0.0, []
    for i in kept:
        if mass >= sampler.top_p * sum(weights[j] for j in kept):
            break
        nucleus.append(i)
        mass += weights[i]
    return [weights[i] / mass if i in nucleus else 0.0 for i in range(len(weights))]


@pytest.mark.parametrize(
    "sampler",
    [
        Sampler(0.5),
        Sampler(2.0, top_k=3),
        Sampler(top_p=0.5),
        Sampler(0.7, 0.9, 20),
        Sampler(top_k=1),
        Sampler(top_p=1e-9),
        Sampler(top_k=500),
    ],
)
def test_a_sampler_renormalises(sampler):
    model, tokenizer = tiny("gpt2"), word_tokenizer()
    for pair, scored in zip(PAIRS, score(model, tokenizer, PAIRS, sampler=sampler), strict=True):
        logits, wanted = alone(model, tokenizer, *pair)
        for row, token, log_p in zip(logits.tolist(), wanted.tolist(), scored.log_p, strict=True):
            assert math.exp(log_p) == pytest.approx(reference(row, sampler)[token], abs=1e-5)
    [grouped] = score_candidates(model, tokenizer, PROMPTS[:1], CANDIDATES[:1], sampler=sampler)
    single = score(model, tokenizer, [(PROMPTS[0], c) for c in CANDIDATES[0]], sampler=sampler)
    assert [s.total for s in grouped] == pytest.approx([s.total for s in single], abs=1e-4)


def test_a_token_outside_the_nucleus_is_impossible_and_not_undefined():
    model, tokenizer = tiny("gpt2"), word_tokenizer()
    found = score(model, tokenizer, PAIRS, sampler=Sampler(top_k=1))
    assert {x for scored in found for x in scored.log_p} <= {0.0, -math.inf}
    assert -math.inf in {scored.total for scored in found}
    assert [s.top for s in found] == [tuple(x == 0 for x in s.log_p) for s in found]
    assert Sampler() == PLAIN


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.0},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_k": -1},
    ],
)
def test_bad_samplers_are_refused(settings):
    with pytest.raises(UsageError, match=next(iter(settings))):
        Sampler(**settings)


@pytest.mark.parametrize("grouped", [False, True])
def test_fails_closed(grouped):
    def ask(model, prompt, continuation):
        if grouped:
            return score_candidates(model, word_tokenizer(), [prompt], [[continuation, " w5 w6"]])
        return score(model, word_tokenizer(), [(prompt, continuation)])

    model = tiny("gpt2")
    with pytest.raises(ProbeError, match="no token of its own"):
        ask(model, "w1 w2", " ")
    with pytest.raises(ProbeError, match="no token stands before"):
        ask(model, "", "w1")
    with torch.no_grad():
        model.lm_head.weight[5] = torch.nan
    with pytest.raises(ModelError, match="not finite"):
        ask(model, "w1 w2", " w3 w4")


def test_the_limit_on_logits_changes_no_figure(monkeypatch):
    model, tokenizer, steps = tiny("llama"), word_tokenizer(), []
    whole = score(model, tokenizer, PAIRS)
    grouped = score_candidates(model, tokenizer, PROMPTS, CANDIDATES)
    monkeypatch.setattr(scoring, "LOGITS_AT_ONCE", 1)
    single = score(model, tokenizer, PAIRS, progress=lambda *seen: steps.append(seen))
    assert steps == [(i + 1, len(PAIRS)) for i in range(len(PAIRS))]
    assert [s.total for s in single] == pytest.approx([s.total for s in whole], abs=1e-4)
    again = score_candidates(model, tokenizer, PROMPTS, CANDIDATES, progress=lambda *seen: steps.append(seen))
    for one, other in zip(grouped, again, strict=True):
        assert [s.total for s in one] == pytest.approx([s.total for s in other], abs=1e-4)
    assert steps[-1] == (3, 3)


def test_nothing_to_score():
    assert score(tiny("gpt2"), word_tokenizer(), []) == []
    assert score_candidates(tiny("gpt2"), word_tokenizer(), [], []) == []


def test_a_prompt_whose_first_token_depends_on_what_follows():
    """Without a beginning-of-text token nothing at all may be common to two continuations."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = ["<pad>", "<unk>", "a", "b", "ab", "c"]
    bpe = Tokenizer(models.BPE({n: i for i, n in enumerate(names)}, [("a", "b")], unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", unk_token="<unk>")
    model = tiny("gpt2")
    with pytest.raises(ProbeError, match="stands before"):
        score_candidates(model, tokenizer, ["a"], [["c", "bc"]])
    [found] = score_candidates(model, tokenizer, ["c a"], [["c", "bc"]])
    assert [len(s.log_p) for s in found] == [1, 2]  # "ab" holds characters of both: it is the answer's
    assert [s.total for s in found] == pytest.approx(
        [s.total for s in score(model, tokenizer, [("c a", "c"), ("c a", "bc")])], abs=1e-5
    )
