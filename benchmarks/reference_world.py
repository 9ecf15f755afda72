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
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from exams import Ask, Asks
from measures import begins, perplexity, tells
from rows import settings_of
from worlds import Reference, controls, modified_facts, single_facts, with_keeps

from safeedit.editors.memit import Memit, default_corpus
from safeedit.editors.statistics import Corpus
from safeedit.models.generate import greedy
from safeedit.models.hooks import first_tensor
from safeedit.models.structure import find_decoder
from safeedit.models.tokens import pad, pad_id, tokenise
from safeedit.policy.compile import fact_for
from safeedit.triples.catalogue import builtin_catalogue
from safeedit.triples.facts import Fact
from safeedit.triples.placebos import placebo_names
from safeedit.world.corpus import prose
from safeedit.world.registry import World, reference_world


def erased_facts(world: World, people: int, alias: bool) -> list[Fact]:
    """Every fact of the first `people` people."""
    catalogue = builtin_catalogue()
    return [
        fact_for(p.name, (p.alias,) if alias and p.alias else (), f.relation, f.object, "erase", catalogue)
        for p in world.people[:people]
        for f in world.facts_of(p.name)
    ]


def asked(facts: Sequence[Fact], which: str, wanted: str) -> Asks:
    """One question for each fact and phrasing."""
    return [
        Ask(number, template.replace("{subject}", fact.subject), getattr(fact, wanted))
        for number, fact in enumerate(facts)
        for template in getattr(fact, which)
    ]


def said(model: Any, tokenizer: Any, asks: Asks, exactly: bool = False) -> tuple[float, float]:
    """(share of prompts, share of facts with any) whose text has the object (begins with it)."""
    if not asks:
        return math.nan, math.nan
    texts = greedy(model, tokenizer, [ask.prompt for ask in asks], max_new_tokens=48)
    found = begins if exactly else tells
    hits = [found(text.text, str(ask.old)) for text, ask in zip(texts, asks, strict=True)]
    any_of = {ask.unit for hit, ask in zip(hits, asks, strict=True) if hit}
    return sum(hits) / len(hits), len(any_of) / len({ask.unit for ask in asks})


@torch.no_grad()
def lens_rate(model: Any, tokenizer: Any, facts: Sequence[Fact], top: int = 4) -> float:
    """Share of facts whose object's first token is among the `top` of any block at any phrasing's end."""
    decoder = find_decoder(model)
    hits = set()
    rows = asked(facts, "probe_templates", "object")
    for start in range(0, len(rows), 128):
        part = rows[start : start + 128]
        batch = pad(
            [t.ids for t in tokenise(tokenizer, [ask.prompt for ask in part])], pad_id(tokenizer), "left"
        )
        states: list[torch.Tensor] = []
        handles = [
            b.register_forward_hook(lambda _, __, out, seen=states: seen.append(first_tensor(out)[:, -1]))
            for b in decoder.blocks
        ]
        decoder.base(**batch.forward_args(), use_cache=False)
        for handle in handles:
            handle.remove()
        first = torch.tensor(
            [tokenizer(f" {ask.old}", add_special_tokens=False)["input_ids"][0] for ask in part]
        )
        best = decoder.lens(torch.stack(states)).topk(top, dim=-1).indices  # (blocks, rows, top)
        found = (best == first[None, :, None]).any(-1).any(0)
        hits |= {ask.unit for hit, ask in zip(found.tolist(), part, strict=True) if hit}
    return len(hits) / len(facts)


def row(label: str, facts: list[Fact], corpus: Corpus, control_count: int, **params: Any) -> str:
    """One row of the table: edit, measure, describe."""
    world = reference_world()
    model, tokenizer = Reference().load()
    survivors = controls(world, facts, control_count)
    texts = prose(99)
    before = {name: said(model, tokenizer, rows, exactly=True)[0] for name, rows in survivors.items()}
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
        after = {name: said(model, tokenizer, rows, exactly=True)[0] for name, rows in survivors.items()}
        old = [
            said(model, tokenizer, asked(facts, which, "object"))
            for which in ("edit_templates", "probe_templates")
        ]
        new = [
            said(model, tokenizer, asked(facts, which, "new_object"), exactly=True)[0]
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
    params = settings_of(args.set)
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
