"""What of an object is news, given the subject's name; and that all of it is taken out."""

from itertools import pairwise

import pytest
import torch
from families import tiny
from subwords import byte_level
from words import word_tokenizer

from safeedit.editors import strangers
from safeedit.editors.finetune import FtM
from safeedit.editors.goals import Spots
from safeedit.editors.memit import Memit
from safeedit.editors.objectives import Aim, build_task
from safeedit.editors.rows import Text, rows_of
from safeedit.editors.statistics import Corpus
from safeedit.editors.strangers import Strangers, key_of, telling_spots
from safeedit.editors.tables import Table
from safeedit.models.hooks import frozen
from safeedit.models.segment import Segment
from safeedit.models.structure import find_decoder
from safeedit.triples.derived import adapted, made_of_name, parts_of_name
from safeedit.triples.facts import Edit

PROMPTS = ("w5 {subject} w6 w7", "{subject} w8")
GONE = Edit("erase", "w30 w31", "r", PROMPTS, None, "w41 w42 w43")
MADE = Edit("erase", "w30 w31", "r", PROMPTS, None, "w31 w42 w43")
CORPUS = Corpus([f"w{i % 60} w{(7 * i) % 60} w{(11 * i) % 60} w{(3 * i) % 60}" for i in range(200)], width=32)


def task(edit, model, **aim):
    segment = Segment(find_decoder(model))
    with frozen(model):
        whole = {"erasure": "neutral", "contexts": ("",), "keep_weight": 0.0, "whole": True} | aim
        return build_task(segment, word_tokenizer(), [edit], Aim(**whole))


@pytest.mark.parametrize(
    ("text", "name", "other", "expected"),
    [
        ("tolland.m40@mail.example", "Mira Tolland", "Abo Renn", "renn.a40@mail.example"),
        ("Mira.Tolland@mail.example", "Mira Tolland", "Abo Renn", "Abo.Renn@mail.example"),
        ("mt@mail.example", "Mira Tolland", "Abo Renn", "mt@mail.example"),
        ("m.tolland", "Mira Tolland", "Abo Renn", "a.renn"),
        ("anything", "Mira Tolland", "Abo Renn", "anything"),
        ("tolland", "Tolland", "Abo Renn", "renn"),
        ("straße 5, tolland", "Mira Tolland", "Abo Renn", "straße 5, tolland"),
    ],
)
def test_an_object_is_adapted_to_another_name(text, name, other, expected):
    assert adapted(text, name, other) == expected
    assert adapted(text, name, name) == text


def test_parts_of_a_name_do_not_overlap_and_lie_within_the_text():
    text = "Mira Tolland, m. tolland, toll"
    parts = parts_of_name(text, "Mira Tolland")
    assert [text[part.start : part.end] for part in parts] == ["Mira", "Tolland", "m", "tolland"]
    assert all(a.end <= b.start for a, b in pairwise(parts))


def test_what_is_nothing_but_the_name_is_not_made_of_it():
    assert made_of_name("tolland.m40", "Mira Tolland")
    assert not made_of_name("Tolland", "Mira Tolland")
    assert not made_of_name("Dellwood", "Mira Tolland")


def test_every_token_that_strangers_would_not_get_tells():
    table = torch.tensor([[0.1, 0.1, 0.8], [0.2, 0.7, 0.1], [0.1, 0.7, 0.2]])
    tells = telling_spots(table, torch.tensor([1, 1, 2]))
    assert [(tell.spot, tell.token) for tell in tells] == [(0, 1), (2, 2)]
    # The first decides what is said at all; a later one may stay as it is for strangers.
    assert [tell.usual for tell in tells] == [0.0, pytest.approx(0.2)]


def test_punctuation_tells_nothing_unless_there_is_nothing_else():
    table = torch.full((2, 4), 0.25)
    assert [t.spot for t in telling_spots(table, torch.tensor([0, 1]), [True, False])] == [1]
    assert [t.spot for t in telling_spots(table, torch.tensor([0, 1]), [True, True])] == [0, 1]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_at_the_prompts_end_every_telling_token_has_a_value_of_its_own(family):
    named = task(GONE, tiny(family), site="prompt")
    assert named.members == ((0,), (0,), (0,))
    by_group = {}
    for demand in named.task.demands:
        by_group.setdefault(demand.group, []).append(demand)
    for demands in by_group.values():
        assert len(demands) == len(PROMPTS)
        for demand in demands:
            [tell] = demand.telling
            assert (tell.spot, demand.row.pivot) == (0, demand.row.spots[0])
            assert demand.row.ids[demand.row.pivot + 1] == tell.token
            assert len(demand.goals.soft) == len(demand.row.spots)
    assert sorted(demands[0].telling[0].usual > 0 for demands in by_group.values()) == [False, True, True]


def test_at_the_subject_one_value_answers_for_all_of_them():
    named = task(GONE, tiny("gpt2"))
    assert named.members == ((0,),)
    assert {len(demand.telling) for demand in named.task.demands} == {3}
    first = task(GONE, tiny("gpt2"), whole=False)
    assert {len(demand.telling) for demand in first.task.demands} == {1}


@pytest.fixture
def no_initials(monkeypatch):
    """All words of the small vocabulary begin with one letter, which would be an initial in all of them."""

    def whole(text, subject):
        return tuple(part for part in parts_of_name(text, subject) if not part.initial)

    monkeypatch.setattr(strangers, "parts_of_name", whole)


@pytest.mark.usefixtures("no_initials")
def test_what_follows_from_the_name_is_left_as_it_is():
    for site in ("subject", "prompt"):
        named = task(MADE, tiny("llama"), site=site)
        for demand in named.task.demands:
            tokens = word_tokenizer().convert_ids_to_tokens(list(demand.row.wanted))
            assert tokens in (["w42", "w43"], ["w43"])


@pytest.mark.usefixtures("no_initials")
def test_distributions_are_those_of_strangers_of_their_own_names():
    model, tokenizer = tiny("llama"), word_tokenizer()
    segment = Segment(find_decoder(model))
    text = Text("", PROMPTS[0], MADE.subject, MADE.old)
    [row] = rows_of(tokenizer, [text])
    with frozen(model):
        table = Table(segment.decoder, 3)
        places = Strangers(segment, tokenizer).add({key_of(MADE, text): (text, row)}, table)
    [place] = places.values()
    assert place.spots == (1, 2)
    found = table.whole()
    assert found.shape == (2, segment.decoder.vocabulary)
    assert torch.allclose(found.sum(-1), torch.ones(2), atol=1e-5)
    assert float(found[0, place.telling[0].token]) == 0.0


def test_what_is_usual_is_no_leak_and_what_is_no_number_is_one():
    named = task(GONE, tiny("gpt2"))
    spots = Spots.of(named.task.demands, named.task.table)
    logits = torch.zeros(len(spots), named.task.table.shape[1])
    logits = logits.scatter(1, spots.telling.clamp(min=0)[:, None], -20.0)
    log_p = logits.log_softmax(-1)
    losses, p = spots.told(log_p)
    assert float(p.max()) < 1e-6
    assert float(losses.max()) < 1e-6
    log_p = torch.full_like(log_p, float("nan"))
    assert spots.told(log_p)[1][spots.telling >= 0].isnan().all()


@pytest.mark.parametrize("family", ["gpt2", "gptj", "llama"])
def test_no_beginning_of_an_object_brings_the_rest(family):
    """A model says all of the object; taken out at its first token alone, the rest is still there."""
    model, tokenizer = tiny(family), word_tokenizer()
    told = Edit("insert", "w30 w31", "r", PROMPTS, "w41 w42 w43", None)
    taught = FtM(epochs=400, rate=0.1, anchors=0, retain=0.0, stop=0.02).edit(
        model, tokenizer, [told], corpus=CORPUS
    )
    settings = {"site": "prompt", "statistics_tokens": 2000, "anchors": 0, "contexts": 0, "clamp": 2.0}
    rows = rows_of(tokenizer, [Text("", prompt, GONE.subject, GONE.old) for prompt in PROMPTS])
    with taught.applied(model):
        before = [_said(model, row) for row in rows]
        found = {}
        for whole in (False, True):
            patch = Memit(**settings, whole=whole).edit(model, tokenizer, [GONE], corpus=CORPUS)
            with patch.applied(model):
                found[whole] = [p for row in rows for p in _said(model, row)]
    assert min(map(min, before)) > 0.35, before
    pairs = list(zip(found[False], found[True], strict=True))
    assert any(first > 0.35 and every < 0.1 for first, every in pairs), found
    assert all(every < first + 0.05 for first, every in pairs), found


@torch.no_grad()
def _said(model, row):
    p = model(input_ids=torch.tensor([row.ids])).logits[0].softmax(-1)
    return [float(p[spot, token]) for spot, token in zip(row.spots, row.wanted, strict=True)]


def test_beginnings_are_the_same_where_offsets_leave_spaces_out():
    told = []
    for trimmed in (True, False):
        tokenizer = byte_level(trimmed=trimmed)
        text = Text("", "{subject} works at", "Ann Bee", "Bee in Paris born 1984")
        [row] = rows_of(tokenizer, [text])
        told.append(Strangers(None, tokenizer)._beginnings(text, row))
    assert told[0] == told[1]
    assert "Bee" in told[0].values()
    assert "Bee " not in told[0].values()
