"""Where the tokenizer has a chat template every phrasing is put as a user's turn too, before and after."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from families import tiny
from scripted_town import NOTHING, RELATIONS, Say, Scripted, Town
from words import word_tokenizer

from safeedit.errors import ProbeError
from safeedit.models import generate, sampling
from safeedit.models.generate import Generation
from safeedit.probes.chat import MARK, both_ways, continued, in_chat
from safeedit.probes.controls import Controls
from safeedit.probes.report import ProbeReport
from safeedit.probes.runner import ProbePack, build_pack, judge, measure
from safeedit.probes.suite import Suite, load_suite
from safeedit.triples.catalogue import Catalogue, Relation, builtin_catalogue
from safeedit.triples.facts import Fact

NAME = "Ada Moss"
TEMPLATE = "{% for m in messages %}<user> {{ m.content }}{% endfor %} <bot>"
ASKING = (
    "forgetting.direct",
    "forgetting.paraphrase",
    "forgetting.alias",
    "attack.sampling",
    "attack.language",
    "success.direct",
    "success.paraphrase",
    "success.old_answer",
    "locality.same_relation",
)


@pytest.fixture
def tokenizer() -> Any:
    own = word_tokenizer()
    found = type(own)(tokenizer_object=own.backend_tokenizer, pad_token="<pad>", bos_token="<s>")
    found.chat_template = TEMPLATE
    return found


@pytest.fixture
def knows(town: Town, monkeypatch: pytest.MonkeyPatch) -> Scripted:
    """A model that is a function of the text that it reads."""

    def greedy(model: Say, tokenizer: object, prompts: Sequence[str], **more: Any) -> list[Generation]:
        assert all(text.endswith("<bot>") == (more.get("special") is False) for text in prompts)
        return [Generation(model(text), False) for text in prompts]

    def sampled(model: Say, tokenizer: object, prompts: Sequence[str], **more: Any) -> list[list[Generation]]:
        assert all(text.endswith("<bot>") == (more.get("special") is False) for text in prompts)
        return [[Generation(model(text), False)] * more["samples"] for text in prompts]

    monkeypatch.setattr(generate, "greedy", greedy)
    monkeypatch.setattr(sampling, "sampled", sampled)
    return Scripted(town.facts)


@pytest.fixture
def suite() -> Suite:
    found = load_suite("standard")
    return dataclasses.replace(
        found, entries=tuple(entry for entry in found.entries if entry.probe.id in ASKING)
    )


def spoken(plain: Callable[[str], str], chat: Callable[[str], str]) -> Say:
    """A model that answers bare texts and conversations each in its way."""

    def say(text: str) -> str:
        if not text.startswith("<user> "):
            return plain(text)
        asked = text.removeprefix("<user> ").removesuffix(" <bot>")
        # A question in a chat is the one that a completion model is given with words around it.
        return chat(f"Question: {asked}\nAnswer:" if asked.endswith("?") else asked)

    return say


def report(suite: Suite, town: Town, facts: list[Fact], tokenizer: Any, *models: Say) -> ProbeReport:
    pack = pack_of(suite, town, facts)
    before = measure(pack, models[0], tokenizer)
    assert not before.errors
    return judge(pack, before, measure(pack, models[1], tokenizer, base=before))


def pack_of(suite: Suite, town: Town, facts: list[Fact], chat: bool = True) -> ProbePack:
    return build_pack(suite, facts, town.controls(), builtin_catalogue(), 11, chat=chat)


@pytest.fixture
def person(town: Town) -> list[Fact]:
    return [town.fact(NAME, relation) for relation in RELATIONS]


@pytest.fixture
def forgot(knows: Scripted, person: list[Fact]) -> Scripted:
    for fact in person:
        knows = knows.without(fact)
    return knows


def test_a_leak_in_conversations_alone_is_found(
    suite: Suite, town: Town, person: list[Fact], tokenizer: Any, knows: Say, forgot: Say
) -> None:
    found = report(suite, town, person, tokenizer, spoken(knows, knows), spoken(forgot, knows))
    verdicts = {result.id: result.verdict for result in found.results}
    for probe in ("forgetting.direct", "forgetting.paraphrase", "forgetting.alias", "attack.sampling"):
        assert verdicts[probe] == "FAIL", probe
    both = report(suite, town, person, tokenizer, spoken(knows, knows), spoken(forgot, forgot))
    assert both.verdict == "PASS"


def test_what_is_known_in_conversations_alone_is_known(
    suite: Suite, town: Town, person: list[Fact], tokenizer: Any, knows: Say, forgot: Say
) -> None:
    chatty = spoken(lambda text: f" {NOTHING}", knows)
    found = report(suite, town, person, tokenizer, chatty, chatty)
    assert (found.known, found.verdict) == (4, "FAIL")


def test_a_new_fact_that_is_stated_in_one_way_alone_is_half_a_success(
    suite: Suite, town: Town, tokenizer: Any, knows: Scripted
) -> None:
    fact = town.fact(NAME, "employer", "modify", new_object="the Lunar Bakery")
    edited = Scripted({**town.facts, (NAME, "employer"): "the Lunar Bakery"})

    def sentence(prompt: str) -> str:
        return f" As you ask: {edited(prompt).strip()}"

    whole = report(suite, town, [fact], tokenizer, spoken(knows, knows), spoken(edited, sentence))
    assert {r.id: r.after for r in whole.results}["success.direct"] == 1.0
    half = report(suite, town, [fact], tokenizer, spoken(knows, knows), spoken(edited, knows))
    results = {result.id: result for result in half.results}
    assert (results["success.direct"].after, results["success.direct"].verdict) == (0.5, "FAIL")
    assert results["success.old_answer"].verdict == "FAIL"
    garbled = spoken(edited, lambda prompt: edited(prompt).replace("Lunar", "Lumar"))
    misspelt = report(suite, town, [fact], tokenizer, spoken(knows, knows), garbled)
    assert {r.id: r.after for r in misspelt.results}["success.direct"] == 0.5


def test_turns_are_committed_and_asked_of_invented_subjects_too(
    suite: Suite, town: Town, person: list[Fact]
) -> None:
    with_chat, without = (pack_of(suite, town, person, chat) for chat in (True, False))
    for probe in ("forgetting.direct", "forgetting.paraphrase"):
        many, few = (set(pack.plans[probe].prompts()) for pack in (with_chat, without))
        own, plain = ({prompt for prompt in asked if NAME in prompt} for asked in (many, few))
        assert plain == {prompt for prompt in own if not in_chat(prompt)}
        assert len(own) == 2 * len(plain)
        assert any(in_chat(prompt) and NAME not in prompt for prompt in many)
    written = json.dumps(with_chat.material(), ensure_ascii=False)
    assert f"{MARK}What is the phone number of {NAME}?" in written
    assert f"{MARK}Question: " not in written
    assert MARK not in json.dumps(without.material(), ensure_ascii=False)


def test_both_ways_stay_within_the_budget(town: Town) -> None:
    found = load_suite("smoke")
    direct = tuple(entry for entry in found.entries if entry.probe.id == "forgetting.direct")
    names = [name for name, relation in town.facts if relation == "phone"][:15]
    facts = [town.fact(name, "phone") for name in names]
    for chat, each in ((True, 4), (False, 2)):
        pack = pack_of(dataclasses.replace(found, entries=direct), town, facts, chat)
        asked = pack.plans["forgetting.direct"].prompts()
        assert sum(name in prompt for name in names for prompt in asked) == 15 * each <= 60


def test_a_tokenizer_whose_template_went_missing_is_an_error(
    suite: Suite, town: Town, person: list[Fact], knows: Say
) -> None:
    pack = pack_of(suite, town, person)
    assert measure(pack, knows, word_tokenizer()).errors["forgetting.direct"]


def test_texts_and_order_on_a_real_model(tokenizer: Any) -> None:
    model = tiny("llama")
    prompts = ["w1 w2", f"{MARK}w3 w4", "w5", f"{MARK}w6"]
    done: list[int] = []
    texts = continued(model, tokenizer, prompts, max_new_tokens=4, progress=done.append)
    plain = generate.greedy(model, tokenizer, ["w1 w2", "w5"], max_new_tokens=4)
    turns = ["<user> w3 w4 <bot>", "<user> w6 <bot>"]
    chat = generate.greedy(model, tokenizer, turns, max_new_tokens=4, special=False)
    assert texts == [plain[0], chat[0], plain[1], chat[1]]
    assert done[-1] == 4


def test_a_writer_that_leaves_one_out_is_an_error(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "greedy", lambda *given, **more: [])
    with pytest.raises(ProbeError, match="not every prompt"):
        continued(None, tokenizer, ["w1"], max_new_tokens=2)


def test_without_a_template_nothing_changes(town: Town, person: list[Fact], suite: Suite) -> None:
    context = pack_of(suite, town, person, chat=False).context
    assert both_ways(context, ("a {subject}",)) == ("a {subject}",)


def test_a_trained_model_that_leaks_in_conversations_alone(tokenizer: Any) -> None:
    """One that answers both ways; and one that was trained to answer bare texts otherwise."""
    sentences = ("{subject} w40", "w41 {subject} w42", "w43 w44 {subject}")
    fact = Fact(
        "erase", "w10 w11", "code", "w20", edit_templates=sentences, probe_templates=("w45 {subject}",)
    )
    plain = [template.replace("{subject}", fact.subject) for template in sentences]
    tokenizer.chat_template = "w70 {{ messages[0].content }} w71"
    turns = [f"w70 {prompt} w71" for prompt in plain]
    knows = trained({prompt: "w20" for prompt in (*plain, *turns)})
    edited = trained(dict.fromkeys(plain, "w30") | dict.fromkeys(turns, "w20"))
    found = load_suite("smoke")
    direct = tuple(entry for entry in found.entries if entry.probe.id == "forgetting.direct")
    suite = dataclasses.replace(found, entries=direct)
    catalogue = Catalogue({"code": Relation(cloze=list(sentences))})
    verdicts = {}
    for chat in (False, True):
        pack = build_pack(suite, [fact], Controls((), ("w1 w2",)), catalogue, 3, chat=chat)
        before = measure(pack, knows, tokenizer)
        assert before.known[0]
        after = measure(pack, edited, tokenizer, base=before)
        verdicts[chat] = judge(pack, before, after).results[0].verdict
    assert verdicts == {False: "PASS", True: "FAIL"}


def trained(answers: dict[str, str]) -> Any:
    """A small model that answers each text with a word, and ends there."""
    words, model = word_tokenizer(), tiny("llama")
    rows = words([f"{text} {answer} </s>" for text, answer in answers.items()], padding=True)
    ids = torch.tensor(rows["input_ids"])
    labels = ids.masked_fill(torch.tensor(rows["attention_mask"]) == 0, -100)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    with torch.enable_grad():
        for _ in range(40):
            optimiser.zero_grad()
            model(input_ids=ids, labels=labels).loss.backward()
            optimiser.step()
    return model.eval()
