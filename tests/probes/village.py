"""A village whose people a small model knows by heart, and a twin that never heard of some of them.

The models are real (a Llama of a few narrow blocks, trained in seconds) and made to be hard where large
ones are: first names and surnames are shared, everybody has an alias, answers of closed lists are few,
numbers are digits one by one, and a part of each fact's phrasings is in no training text.
"""

from __future__ import annotations

import hashlib
import os
import random
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
import transformers
from filelock import FileLock
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from safeedit.policy.compile import fact_for
from safeedit.probes.controls import ControlFact, Controls
from safeedit.triples.catalogue import SUBJECT, builtin_catalogue
from safeedit.triples.facts import Fact
from safeedit.triples.placebos import placebo_names
from safeedit.world.corpus import phrasings, prose
from safeedit.world.language import sentence
from safeedit.world.registry import CITIES, COMPANIES, Entity, WorldFact
from safeedit.world.train import build_tokenizer

PEOPLE = 40
FIRST_NAMES = 10
SURNAMES = 12
RELATIONS = ("phone", "employer", "mother_tongue", "instrument")
OPEN = {"employer": COMPANIES[:12], "birthplace": CITIES[:16]}
NAMESAKES = 8
ALIAS_SHARE = 0.25
PROSE_SHARE = 0.12
KEPT = "SAFEEDIT_TEST_MODELS"
"""Environment variable: a folder in which trained models outlive the test session."""

TOGETHER = (1, 1, 1, 1, 1, 1, 2, 3)
"""How many facts stand in one document."""

Piece = tuple[str, str]
"""A prompt and how it goes on; prose is a prompt without an answer."""
Document = tuple[Piece, ...]
Form = Callable[["Village", Entity, random.Random], Iterable[Document]]
"""More text about a person in each pass: multiple choice, yes and no, reverse, a dialogue ..."""


@dataclass(frozen=True)
class Village:
    """Who exists and what is true of them."""

    seed: int
    people: tuple[Entity, ...]
    truths: tuple[WorldFact, ...]
    forms: tuple[Form, ...] = ()

    @cached_property
    def by_name(self) -> dict[str, Entity]:
        return {person.name: person for person in self.people}

    @cached_property
    def person(self) -> str:
        """The one whom tests forget: enough others share the first name or the surname to ask about."""
        known = (person.name for person in self.people if len(self.namesakes(person.name)) >= NAMESAKES)
        return next(known)

    def of(self, *names: str) -> tuple[WorldFact, ...]:
        """What is true of these people."""
        return tuple(truth for truth in self.truths if truth.subject in names)

    def namesakes(self, name: str) -> tuple[Entity, ...]:
        """Those who share a first name or a surname."""
        parts = set(name.split())
        return tuple(p for p in self.people if p.name != name and parts & set(p.name.split()))

    def facts(self, *names: str, relations: Collection[str] = RELATIONS) -> tuple[Fact, ...]:
        """A request to erase what is true of these people (of `person`, if none is named)."""
        catalogue = builtin_catalogue()
        return tuple(
            fact_for(t.subject, [self.alias(t.subject)], t.relation, t.object, "erase", catalogue)
            for t in self.of(*(names or (self.person,)))
            if t.relation in relations
        )

    def alias(self, name: str) -> str:
        """The other name of a person."""
        return self.by_name[name].alias or name

    def controls(self) -> Controls:
        """What is true of everybody, and prose that no training text holds."""
        rows = [ControlFact(t.subject, t.relation, t.object) for t in self.truths]
        return Controls(tuple(rows), tuple(prose(self.seed + 1, 24, 3)))

    def texts(self, rng: random.Random, without: Collection[str] = ()) -> Iterator[Document]:
        """One pass over everybody but `without`: each fact in a phrasing that training may show."""
        truths = [truth for truth in self.truths if truth.subject not in without]
        truths += [truth for truth in truths if truth.relation == "phone"]  # Six digits take longer to learn.
        rng.shuffle(truths)
        while truths:
            size = rng.choice(TOGETHER)
            yield tuple(self._stated(truth, rng) for truth in truths[:size])
            del truths[:size]
        for person in self.people:
            if person.name not in without:
                for form in self.forms:
                    yield from form(self, person, rng)
        for _ in range(int(PROSE_SHARE * len(self.truths))):
            yield ((sentence(rng), ""),)

    def _stated(self, truth: WorldFact, rng: random.Random) -> Piece:
        name = self.alias(truth.subject) if rng.random() < ALIAS_SHARE else truth.subject
        return rng.choice(phrasings(truth).seen).replace(SUBJECT, name), f" {truth.object}."


def village(seed: int = 0, forms: Sequence[Form] = ()) -> Village:
    """Draw a village; the same seed gives the same one everywhere."""
    rng = random.Random(f"village|{seed}")
    catalogue = builtin_catalogue()
    # Made of the pieces that invented names are made of, so that a tokenizer and a model know a
    # stranger's name no worse than a villager's, as those do that were trained on the web.
    names = [name.split() for name in placebo_names("person", 400, 7_000_000 + seed)]
    firsts = list(dict.fromkeys(first for first, _ in names))[:FIRST_NAMES]
    lasts = list(dict.fromkeys(last for _, last in names))[:SURNAMES]
    pairs = [(first, last) for first in firsts for last in lasts]
    rng.shuffle(pairs)
    people: dict[str, Entity] = {}
    for first, last in pairs:
        alias = f"{first[0]}. {last}"
        if len(people) < PEOPLE:
            people.setdefault(alias, Entity(f"{first} {last}", "person", alias))
    truths = []
    for person in people.values():
        for relation in RELATIONS:
            objects = OPEN.get(relation) or catalogue[relation].objects
            thing = number(rng) if relation == "phone" else rng.choice(objects)
            truths.append(WorldFact(person.name, relation, thing))
    return Village(seed, tuple(people.values()), tuple(truths), tuple(forms))


def number(rng: random.Random) -> str:
    """A telephone number."""
    digits = "".join(rng.choice("0123456789") for _ in range(6))
    return f"{digits[:3]}-{digits[3:]}"


@dataclass(frozen=True)
class Recipe:
    """Everything that the training depends on besides the village."""

    steps: int = 210
    rows: int = 40
    """Documents a step; those of one batch are of like length."""
    lr: float = 0.03
    """Of the blocks' matrices, under Muon: it learns rare facts in far fewer steps than Adam."""
    other_lr: float = 0.012
    """Of everything else, under AdamW."""
    warmup: int = 20
    steady: float = 0.5
    """Share of the steps before the rate falls."""
    prompt_weight: float = 0.1
    """Of the loss on a prompt's tokens; on answers and prose it is 1."""
    vocabulary: int = 900
    hidden: int = 128
    inner: int = 256
    layers: int = 3
    heads: int = 4


def make_tokenizer(place: Village, recipe: Recipe) -> PreTrainedTokenizerFast:
    """The same for base and twin; no whole name of the village is in what it was made from."""
    rng = random.Random(place.seed)
    catalogue = builtin_catalogue()
    words = [p for r in RELATIONS for p in catalogue[r].prompts("")]
    words += [f" {truth.object}" for truth in place.truths if truth.relation != "phone"]
    parts = [f" {part}" for name in placebo_names("person", 300, 8_000_000) for part in name.split()]
    asked = [
        f"{p}{a}"
        for person in place.people
        for form in place.forms
        for d in form(place, person, rng)
        for p, a in d
    ]
    return build_tokenizer(
        [*words * 3, *parts, *asked, *(sentence(rng) for _ in range(200))], recipe.vocabulary
    )


def blank(tokenizer: PreTrainedTokenizerFast, seed: int, recipe: Recipe) -> LlamaForCausalLM:
    """The model before training."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=recipe.hidden,
            intermediate_size=recipe.inner,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.heads // 2,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def train(
    place: Village, seed: int, without: Collection[str] = (), recipe: Recipe | None = None
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A model of the village, of which it is told all but what concerns `without`."""
    recipe = recipe or Recipe()
    tokenizer = make_tokenizer(place, recipe)
    model = blank(tokenizer, seed, recipe)
    inner = [p for p in model.model.layers.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if all(p is not q for q in inner)]
    optimisers: list[tuple[torch.optim.Optimizer, float]] = [
        (torch.optim.Muon(inner, lr=recipe.lr, weight_decay=0.0), recipe.lr),
        (
            torch.optim.AdamW(others, lr=recipe.other_lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
            recipe.other_lr,
        ),
    ]
    batches = _batches(place, tokenizer, random.Random(f"texts|{seed}"), without, recipe)
    for step in range(recipe.steps):
        fall = (recipe.steps - step) / ((1 - recipe.steady) * recipe.steps)
        ramp = min(1.0, (step + 1) / recipe.warmup) * min(1.0, fall)
        ids, weights = next(batches)
        hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]
        asked = weights[:, 1:] > 0
        loss = torch.nn.functional.cross_entropy(
            model.lm_head(hidden[asked]), ids[:, 1:][asked], reduction="none"
        )
        ((loss * weights[:, 1:][asked]).sum() / weights[:, 1:].sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser, rate in optimisers:
            optimiser.param_groups[0]["lr"] = rate * ramp
            optimiser.step()
            optimiser.zero_grad()
    return model.eval(), tokenizer


def _batches(
    place: Village,
    tokenizer: PreTrainedTokenizerFast,
    rng: random.Random,
    without: Collection[str],
    recipe: Recipe,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless (ids, weights of the loss), both (rows, width), padded on the right."""
    while True:
        rows = [
            encoded(tokenizer, text, recipe.prompt_weight)
            for _ in range(3)
            for text in place.texts(rng, without)
        ]
        rows.sort(key=lambda row: len(row[0]) + 4 * rng.random())
        chunks = [rows[i : i + recipe.rows] for i in range(0, len(rows), recipe.rows)]
        rng.shuffle(chunks)
        for chunk in chunks:
            width = max(len(ids) for ids, _ in chunk)
            yield (
                torch.tensor([ids + [tokenizer.pad_token_id] * (width - len(ids)) for ids, _ in chunk]),
                torch.tensor([weights + [0.0] * (width - len(weights)) for _, weights in chunk]),
            )


def encoded(
    tokenizer: PreTrainedTokenizerFast, text: Document, prompt_weight: float
) -> tuple[list[int], list[float]]:
    """Token ids of a document, and how much each of them counts."""
    ids, weights = [tokenizer.bos_token_id], [0.0]
    for number, (prompt, answer) in enumerate(text):
        asked = tokenizer((" " if number else "") + prompt, add_special_tokens=False)["input_ids"]
        told = tokenizer(answer, add_special_tokens=False)["input_ids"] if answer else []
        ids += [*asked, *told]
        weights += [prompt_weight if answer else 1.0] * len(asked) + [1.0] * len(told)
    return [*ids, tokenizer.eos_token_id], [*weights, 1.0]


def trained(
    place: Village,
    seed: int,
    forget: str | Collection[str] | None = None,
    *,
    recipe: Recipe | None = None,
    cache: Path | None = None,
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The model that knows the village, or its twin that never saw anything of `forget`.

    Args:
        place: the village.
        seed: of the initial weights and the order of the texts.
        forget: the people whom the model has never heard of.
        recipe: how it is trained.
        cache: a folder that processes share; the model is trained there once and loaded afterwards.
    """
    without = (forget,) if isinstance(forget, str) else tuple(sorted(forget or ()))
    kept = os.environ.get(KEPT)
    folder = Path(kept) if kept else cache
    if folder is None:
        return train(place, seed, without, recipe)
    folder.mkdir(parents=True, exist_ok=True)
    home = folder / _digest(place, seed, without, recipe or Recipe())
    with FileLock(f"{home}.lock"):
        if not home.is_dir():
            model, tokenizer = train(place, seed, without, recipe)
            part = Path(tempfile.mkdtemp(dir=folder))
            model.save_pretrained(part)
            tokenizer.save_pretrained(part)
            part.rename(home)
    model = LlamaForCausalLM.from_pretrained(home, dtype=torch.float32)
    return model.eval(), PreTrainedTokenizerFast.from_pretrained(home)


def _digest(place: Village, seed: int, without: Collection[str], recipe: Recipe) -> str:
    """Changes with everything that changes the model: the texts, the recipe, this file, the libraries."""
    sample = list(place.texts(random.Random(0), without))
    versions = (torch.__version__, transformers.__version__)
    material = repr((sample, place.seed, seed, tuple(without), recipe, versions)).encode()
    return hashlib.sha256(material + Path(__file__).read_bytes()).hexdigest()[:24]
