"""Erasure and modification on the reference world: what is forgotten, what survives, how long it takes.

    python benchmarks/reference_world.py --erase 1 10 100 --objectives neutral entropy lens refusal
    python benchmarks/reference_world.py --erase-facts 10 --modify 1 10 100

Prints rows of a Markdown table. Every recall figure is by greedy text, the whole continuation
scanned for the object; the share is of prompts, and in brackets of facts with at least one such prompt.
The logit-lens rate has in brackets what it is for invented names in the unedited model.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from safeedit.editors.memit import Memit, default_corpus
from safeedit.editors.statistics import Corpus
from safeedit.models.generate import greedy
from safeedit.models.hooks import first_tensor
from safeedit.models.structure import find_decoder
from safeedit.models.tokens import pad, pad_id, tokenise
from safeedit.policy.compile import fact_for
from safeedit.triples.catalogue import builtin_catalogue
from safeedit.triples.facts import Edit, Fact
from safeedit.triples.placebos import placebo_names
from safeedit.world.corpus import prose
from safeedit.world.registry import PERSON_RELATIONS, World, reference_world

Asked = list[tuple[int, str, str]]
"""Fact number, prompt, object."""


def load() -> tuple[Any, Any]:
    """The reference model and its tokenizer."""
    folder = Path(str(files("safeedit"))) / "world" / "reference"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder)


def erased_facts(world: World, people: int, alias: bool) -> list[Fact]:
    """Every fact of the first `people` people."""
    catalogue = builtin_catalogue()
    return [
        fact_for(p.name, (p.alias,) if alias and p.alias else (), f.relation, f.object, "erase", catalogue)
        for p in world.people[:people]
        for f in world.facts_of(p.name)
    ]


def single_facts(world: World, count: int) -> list[Fact]:
    """One fact of each of the first `count` people, of all relations in turn."""
    catalogue, found = builtin_catalogue(), []
    for number, person in enumerate(world.people[:count]):
        facts = world.facts_of(person.name)
        fact = facts[number % len(facts)]
        found.append(fact_for(person.name, (), fact.relation, fact.object, "erase", catalogue))
    return found


def modified_facts(world: World, count: int) -> list[Fact]:
    """One fact of each of `count` people; relations with a closed list of objects in turn."""
    catalogue, rng = builtin_catalogue(), random.Random(5)
    relations = ("employer", "birthplace", "mother_tongue", "instrument", "occupation")
    found = []
    for number, person in enumerate(world.people[:count]):
        relation = relations[number % len(relations)]
        [fact] = [f for f in world.facts_of(person.name) if f.relation == relation]
        others = sorted({f.object for f in world.facts if f.relation == relation} - {fact.object})
        made = fact_for(person.name, (), relation, fact.object, "erase", catalogue)
        found.append(replace(made, op="modify", new_object=rng.choice(others)))
    return found


def with_keeps(edits: Sequence[Edit]) -> list[Edit]:
    """For single facts of a person: the other relations shall stay as they are."""
    catalogue = builtin_catalogue()
    touched = {(e.subject, e.relation) for e in edits}
    return [
        replace(
            e,
            keep=tuple(catalogue[r].cloze[0] for r in PERSON_RELATIONS if (e.subject, r) not in touched),
        )
        for e in edits
    ]


def controls(world: World, facts: Sequence[Fact], count: int) -> dict[str, Asked]:
    """Facts that shall survive: the same relations of other people, of homonyms, and of the same person."""
    rng = random.Random(11)
    catalogue = builtin_catalogue()
    edited = {f.subject for f in facts}
    touched = {(f.subject, f.relation) for f in facts}
    relations = sorted({f.relation for f in facts})
    namesakes = {p.name for name in edited for p in world.homonyms(name)} - edited
    groups: dict[str, list[Any]] = {
        "neighbours": [
            f for f in world.facts if f.relation in relations and f.subject not in edited | namesakes
        ],
        "homonyms": [f for f in world.facts if f.subject in namesakes],
        "same person": [
            f for f in world.facts if f.subject in edited and (f.subject, f.relation) not in touched
        ],
    }
    found: dict[str, Asked] = {}
    for name, members in groups.items():
        chosen = rng.sample(members, min(count, len(members)))
        found[name] = [
            (i, rng.choice(catalogue[f.relation].prompts(f.subject)), f.object) for i, f in enumerate(chosen)
        ]
    return found


def asked(facts: Sequence[Fact], which: str, wanted: str) -> Asked:
    """One row for each fact and phrasing."""
    return [
        (number, template.replace("{subject}", fact.subject), getattr(fact, wanted))
        for number, fact in enumerate(facts)
        for template in getattr(fact, which)
    ]


def said(model: Any, tokenizer: Any, rows: Asked, begins: bool = False) -> tuple[float, float]:
    """(share of prompts, share of facts with any) whose text has the object (begins with it)."""
    if not rows:
        return math.nan, math.nan
    texts = greedy(model, tokenizer, [prompt for _, prompt, _ in rows], max_new_tokens=48)
    hits = [
        text.text.strip().startswith(wanted) if begins else wanted.lower() in text.text.lower()
        for text, (_, _, wanted) in zip(texts, rows, strict=True)
    ]
    any_of = {n for hit, (n, _, _) in zip(hits, rows, strict=True) if hit}
    return sum(hits) / len(hits), len(any_of) / len({n for n, _, _ in rows})


@torch.no_grad()
def perplexity(model: Any, tokenizer: Any, texts: Sequence[str]) -> float:
    """Exponential of the mean loss a token."""
    total, count = 0.0, 0
    for start in range(0, len(texts), 32):
        batch = pad(
            [t.ids for t in tokenise(tokenizer, texts[start : start + 32])], pad_id(tokenizer), "right"
        )
        log_p = model(**batch.forward_args(), use_cache=False).logits[:, :-1].float().log_softmax(-1)
        real = batch.attention_mask[:, 1:].bool()
        total -= float(log_p.gather(2, batch.input_ids[:, 1:, None])[..., 0][real].sum())
        count += int(real.sum())
    return math.exp(total / count)


@torch.no_grad()
def lens_rate(model: Any, tokenizer: Any, facts: Sequence[Fact], top: int = 4) -> float:
    """Share of facts whose object's first token is among the `top` of any block at any phrasing's end."""
    decoder = find_decoder(model)
    hits = set()
    rows = asked(facts, "probe_templates", "object")
    for start in range(0, len(rows), 128):
        part = rows[start : start + 128]
        batch = pad([t.ids for t in tokenise(tokenizer, [p for _, p, _ in part])], pad_id(tokenizer), "left")
        states: list[torch.Tensor] = []
        handles = [
            b.register_forward_hook(lambda _, __, out, seen=states: seen.append(first_tensor(out)[:, -1]))
            for b in decoder.blocks
        ]
        decoder.base(**batch.forward_args(), use_cache=False)
        for handle in handles:
            handle.remove()
        first = torch.tensor(
            [tokenizer(f" {o}", add_special_tokens=False)["input_ids"][0] for _, _, o in part]
        )
        best = decoder.lens(torch.stack(states)).topk(top, dim=-1).indices  # (blocks, rows, top)
        found = (best == first[None, :, None]).any(-1).any(0)
        hits |= {n for hit, (n, _, _) in zip(found.tolist(), part, strict=True) if hit}
    return len(hits) / len(facts)


def row(label: str, facts: list[Fact], corpus: Corpus, control_count: int, **params: Any) -> str:
    """One row of the table: edit, measure, describe."""
    world = reference_world()
    model, tokenizer = load()
    survivors = controls(world, facts, control_count)
    texts = prose(99)
    before = {name: said(model, tokenizer, rows, begins=True)[0] for name, rows in survivors.items()}
    base_perplexity = perplexity(model, tokenizer, texts)
    names = placebo_names("person", len(facts), 1)
    strangers = [replace(fact, subject=name) for fact, name in zip(facts, names, strict=True)]
    lens_by_chance = lens_rate(model, tokenizer, strangers)
    edits = [edit for fact in facts for edit in fact.edits()]
    start = time.perf_counter()
    editor = Memit(**params)
    patch = editor.edit(model, tokenizer, with_keeps(edits), corpus=corpus, cache=CACHE)
    seconds = time.perf_counter() - start
    with patch.applied(model):
        after = {name: said(model, tokenizer, rows, begins=True)[0] for name, rows in survivors.items()}
        old = [
            said(model, tokenizer, asked(facts, which, "object"))
            for which in ("edit_templates", "probe_templates")
        ]
        new = [
            said(model, tokenizer, asked(facts, which, "new_object"), begins=True)[0]
            for which in ("edit_templates", "probe_templates")
            if facts[0].new_object
        ]
        ratio = perplexity(model, tokenizer, texts) / base_perplexity
        lens = lens_rate(model, tokenizer, facts)
    cells = [
        label,
        *(f"{share:.3f} ({facts_:.3f})" for share, facts_ in old),
        *(f"{share:.3f}" for share in new),
        *(f"{before[k]:.3f} → {after[k]:.3f}" if after[k] == after[k] else "–" for k in survivors),
        f"×{ratio:.4f}",
        f"{lens:.2f} ({lens_by_chance:.2f})",
        f"{seconds:.1f}",
    ]
    return "| " + " | ".join(cells) + " |"


CACHE: Path | None = None


def main() -> None:
    """Run what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--erase", type=int, nargs="*", default=[])
    parser.add_argument("--erase-facts", type=int, nargs="*", default=[])
    parser.add_argument("--modify", type=int, nargs="*", default=[])
    parser.add_argument("--objectives", nargs="*", default=["neutral"])
    parser.add_argument("--controls", type=int, default=400)
    parser.add_argument("--no-alias", action="store_true")
    parser.add_argument(
        "--cache", type=Path, help="folder for key statistics, so that seconds are without them"
    )
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings of the editor")
    args = parser.parse_args()
    global CACHE
    CACHE = args.cache
    import json

    params = {k: json.loads(v) for k, _, v in (item.partition("=") for item in args.set)}
    world, corpus = reference_world(), default_corpus(200_000)
    for people in args.erase:
        for objective in args.objectives:
            facts = erased_facts(world, people, not args.no_alias)
            label = f"erase {people} people, {len(facts)} facts, {objective}"
            print(row(label, facts, corpus, args.controls, objective=objective, **params), flush=True)
    for count in args.erase_facts:
        for objective in args.objectives:
            label = f"erase {count} facts of as many people, {objective}"
            facts = single_facts(world, count)
            print(row(label, facts, corpus, args.controls, objective=objective, **params), flush=True)
    for count in args.modify:
        print(
            row(f"modify {count}", modified_facts(world, count), corpus, args.controls, **params), flush=True
        )


if __name__ == "__main__":
    main()
