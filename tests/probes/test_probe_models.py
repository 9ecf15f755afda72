"""Probes that look into a real, tiny model: the lens, perplexity, divergence; and the whole of smoke."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from safeedit.probes import PROBES
from safeedit.probes.base import Context, Figures, View
from safeedit.probes.controls import ControlFact, Controls
from safeedit.probes.runner import build_pack, judge, measure
from safeedit.probes.suite import load_suite
from safeedit.triples.catalogue import builtin_catalogue
from safeedit.triples.facts import Fact

PEOPLE = {
    "Ada Moss": "guitar",
    "Brigid Quill": "piano",
    "Cyril Yeo": "harp",
    "Dinah Wick": "flute",
    "Edgar Umber": "cello",
    "Flavia Rowan": "organ",
}
SEEN = ("The instrument of {subject} is the", "On stage {subject} plays the")
UNSEEN = ("{subject} plays the",)
PROSE = (
    "the rain came at noon and the dog slept by the door",
    "the dog came at noon and slept on stage by the harp",
    "on stage the rain slept and the door came by the dog",
    "at noon the door of the house is by the rain",
    "the house of the dog is by the door and the rain",
    "by the house the dog plays and the rain plays",
    "noon is the door of the rain and the dog is at the house",
    "the dog plays at the door and the rain is on the house",
)


def sentences() -> list[str]:
    facts = [f"{t.replace('{subject}', n)} {o}" for n, o in PEOPLE.items() for t in (*SEEN, *UNSEEN)]
    return [*facts, *PROSE]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    split = pre_tokenizers.WhitespaceSplit()
    vocabulary = sorted({word for text in sentences() for word in text.split()})
    extra = ["<s>", "</s>", "<unk>", *(f"w{i}" for i in range(40))]
    model = WordLevel({word: i for i, word in enumerate((*extra, *vocabulary))}, unk_token="<unk>")
    found = Tokenizer(model)
    found.pre_tokenizer = split
    return PreTrainedTokenizerFast(
        tokenizer_object=found, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@pytest.fixture(scope="module")
def taught(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A model of three blocks that has learnt the sentences by heart."""
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    model = LlamaForCausalLM(config)
    rows = [[*tokenizer(text)["input_ids"], 1] for text in sentences()]
    width = max(map(len, rows))
    ids = torch.tensor([row + [1] * (width - len(row)) for row in rows])
    labels = torch.tensor([row + [-100] * (width - len(row)) for row in rows])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def fact(name: str, object: str = "") -> Fact:
    return Fact(
        "erase",
        name,
        "instrument",
        object or PEOPLE[name],
        edit_templates=SEEN,
        probe_templates=UNSEEN,
    )


@pytest.fixture(scope="module")
def context() -> Context:
    controls = Controls(tuple(ControlFact(n, "instrument", o) for n, o in PEOPLE.items()), PROSE)
    return Context(tuple(fact(name) for name in PEOPLE), controls, builtin_catalogue(), 3)


def figures(name: str, context: Context, before: Any, after: Any, tokenizer: Any, **options: Any) -> Figures:
    probe = PROBES.get(name)(options)
    plan = probe.plan(context)
    first = probe.observe(plan, View(before, tokenizer, {}))
    second = probe.observe(plan, View(after, tokenizer, {}, first))
    return probe.figures(plan, first, second, dict.fromkeys(range(len(context.facts)), True))


def shaken(model: LlamaForCausalLM, size: float) -> LlamaForCausalLM:
    torch.manual_seed(2)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(size * torch.randn_like(parameter))
    return other


def test_the_lens_needs_every_telling_token_after_the_same_block(
    taught: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, context: Context
) -> None:
    """An object of which only the first token is known is no hit."""
    wrong = dataclasses.replace(context, facts=tuple(fact(n, f"{o} w7") for n, o in PEOPLE.items()))
    found = figures("forgetting.lens", wrong, taught, taught, tokenizer, k=1)
    # Of one instrument the model thinks for every unknown name, so that only the wrong token tells.
    assert found.after is not None
    assert found.after <= 1 / 6


def test_tokens_that_anybody_would_get_do_not_tell(
    taught: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, context: Context
) -> None:
    """`the` follows for every name, so a prompt that stops before it must still look for the instrument."""
    early = tuple(
        dataclasses.replace(f, object=f"the {f.object}", edit_templates=("The instrument of {subject} is",))
        for f in context.facts
    )
    found = figures(
        "forgetting.lens",
        dataclasses.replace(context, facts=early),
        taught,
        taught,
        tokenizer,
        k=1,
        placebos=12,
    )
    assert found.after == 1.0


def test_the_lens_refuses_what_is_not_finite(
    taught: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, context: Context
) -> None:
    broken = copy.deepcopy(taught)
    with torch.no_grad():
        broken.model.layers[1].mlp.down_proj.weight[0, 0] = math.nan
    for name in ("forgetting.lens", "utility.perplexity", "utility.kl"):
        with pytest.raises(Exception, match="not finite"):
            figures(name, context, taught, broken, tokenizer)


def test_perplexity_and_divergence_of_a_model_from_itself(
    taught: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, context: Context
) -> None:
    ratio = figures("utility.perplexity", context, taught, taught, tokenizer)
    assert (ratio.n, ratio.before, ratio.after, ratio.upper95) == (8, 1.0, 1.0, 1.0)
    kl = figures("utility.kl", context, taught, taught, tokenizer)
    assert kl.after == pytest.approx(0, abs=1e-9)
    assert kl.detail["likeliest_agrees"] == 1.0
    assert not kl.doubtful


def test_m8_a_wreck_is_seen_and_worse_wrecks_are_seen_more(
    taught: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, context: Context
) -> None:
    ratios, divergences = [], []
    for size in (0.02, 0.2, 1.0):
        other = shaken(taught, size)
        ratio = figures("utility.perplexity", context, taught, other, tokenizer)
        kl = figures("utility.kl", context, taught, other, tokenizer)
        assert ratio.upper95 is not None
        assert ratio.after is not None
        assert kl.after is not None
        assert ratio.upper95 >= ratio.after
        assert kl.detail["p99"] <= kl.detail["largest"]
        ratios.append(ratio.after)
        divergences.append(kl.after)
    assert ratios[2] > ratios[1] > 1.01
    assert divergences == sorted(divergences)
    assert divergences[1] > 0.01


def test_perplexity_agrees_with_the_models_own_loss(
    taught: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, context: Context
) -> None:
    found = figures("utility.perplexity", context, taught, taught, tokenizer)
    nats = tokens = 0.0
    for text in PROSE:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            nats += taught(input_ids=ids, labels=ids).loss.item() * (ids.shape[1] - 1)
        tokens += ids.shape[1] - 1
    assert found.detail["perplexity_after"] == pytest.approx(math.exp(nats / tokens), rel=1e-4)
    assert found.detail["tokens"] == tokens


def test_kept_tokens_never_overstate_the_divergence(
    taught: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    context: Context,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import safeedit_probes.utility_kl as module

    other = shaken(taught, 0.1)
    whole = figures("utility.kl", context, taught, other, tokenizer).after
    monkeypatch.setattr(module, "WHOLE", 0)
    kept = [figures("utility.kl", context, taught, other, tokenizer, top=top).after for top in (4, 16, 60)]
    assert whole is not None
    assert [*kept, whole] == sorted(x for x in (*kept, whole) if x is not None)
    assert kept[-1] == pytest.approx(whole, rel=0.05)
    # Without the base model's tokens the two cannot be compared, and that is an error.
    probe = PROBES.get("utility.kl")({"top": 4})
    plan = probe.plan(context)
    first = probe.observe(plan, View(taught, tokenizer, {}))
    second = probe.observe(plan, View(other, tokenizer, {}))
    with pytest.raises(Exception, match="against the base model"):
        probe.figures(plan, first, second, {})


def test_a_noisy_machine_makes_a_pass_doubtful(
    taught: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    context: Context,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    probe = PROBES.get("utility.kl")
    monkeypatch.setattr(probe, "_noise", lambda *_: 0.01)
    found = figures("utility.kl", context, taught, taught, tokenizer)
    assert found.doubtful
    assert found.before == 0.01


def test_one_short_text_is_not_enough_to_judge(
    taught: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, context: Context
) -> None:
    single = dataclasses.replace(context, controls=Controls(context.controls.facts, ("the dog slept", "dog")))
    for name in ("utility.perplexity", "utility.kl"):
        assert figures(name, single, taught, taught, tokenizer).verdict == "INCONCLUSIVE"
    none = dataclasses.replace(context, controls=Controls(context.controls.facts, ("dog",)))
    with pytest.raises(Exception, match="no retained text"):
        figures("utility.perplexity", none, taught, taught, tokenizer)


def test_the_whole_smoke_suite_on_a_real_model(
    taught: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, context: Context
) -> None:
    catalogue = builtin_catalogue()
    small = catalogue.with_overrides(
        {
            "instrument": catalogue["instrument"].model_copy(
                update={"cloze": [*SEEN, *UNSEEN], "questions": []}
            )
        }
    )
    pack = build_pack(load_suite("smoke"), [fact("Ada Moss")], context.controls, small, 1)
    steps: list[tuple[int, int]] = []
    before = measure(pack, taught, tokenizer, lambda done, total: steps.append((done, total)))
    assert before.known == {0: True}
    assert not before.errors
    assert steps[-1] == (steps[-1][1],) * 2
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    unchanged = judge(pack, before, measure(pack, taught, tokenizer, base=before))
    assert (unchanged.verdict, unchanged.grade) == ("FAIL", "G0")
    wreck = judge(pack, before, measure(pack, shaken(taught, 1.0), tokenizer, base=before))
    assert wreck.verdict == "FAIL"
    assert next(r for r in wreck.results if r.id == "utility.perplexity").verdict == "FAIL"
    broken = copy.deepcopy(taught)
    with torch.no_grad():
        broken.lm_head.weight[5] = math.nan
    report = judge(pack, before, measure(pack, broken, tokenizer, base=before))
    assert report.verdict == "ERROR"
    assert "PASS" not in {result.verdict for result in report.results}
