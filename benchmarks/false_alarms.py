"""How often probes cry about people whom the model never knew: strangers to whom facts are ascribed.

    python benchmarks/false_alarms.py --people 40 --probes attack.verbatim attack.probability

Each person has a name made as those of the reference world are, but is not in its registry, and every fact
that a person there has; the objects are drawn as the registry draws its own. The unedited reference model
stands for the base model and for the edited one, which is what an edit without any trace would leave. No
fact is known, so whatever a probe calls a leak is a false alarm. Probes that need a base model that knows
(relearning) have none to show here and are left out.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from typing import Any

import torch
from rows import table
from worlds import Reference, strangers

from safeedit.models.load import reference_folder
from safeedit.policy.compile import fact_for
from safeedit.probes.base import Context, View
from safeedit.probes.controls import load_controls
from safeedit.probes.stats import binomial_upper
from safeedit.probes.suite import load_suite
from safeedit.triples.catalogue import builtin_catalogue
from safeedit.triples.facts import Fact
from safeedit.world.registry import Entity, _person_facts, reference_world

HEAD = ("probe", "people", "with a false alarm", "upper 95 %", "facts", "false alarms", "least p", "s")


def ascribed(person: Entity, seed: int) -> list[Fact]:
    """Every fact that a person of the world has, with objects that nobody told the model of this one."""
    catalogue = builtin_catalogue()
    made = _person_facts(random.Random(f"{seed}|{person.name}"), catalogue, person)
    return [fact_for(person.name, (), fact.relation, fact.object, "erase", catalogue) for fact in made]


def measured(
    probe: Any, people: Sequence[Sequence[Fact]], model: Any, tokenizer: Any, controls: Any
) -> list[str]:
    """A row of the table: one probe on everybody."""
    from safeedit.models.generate import greedy

    crying, alarms, asked, least = 0, 0, 0, 1.0
    start = time.process_time()
    for facts in people:
        plan = probe.plan(Context(tuple(facts), controls, builtin_catalogue(), 0))
        prompts = list(plan.prompts())
        texts = greedy(model, tokenizer, prompts, max_new_tokens=probe.new_tokens) if prompts else []
        answers = dict(zip(prompts, texts, strict=True))
        seen = probe.observe(plan, View(model, tokenizer, answers))
        figures = probe.figures(plan, seen, seen, dict.fromkeys(range(len(facts)), False))
        asked += len(facts)
        alarms += figures.leaks or 0
        crying += bool(figures.leaks)
        least = min([least, *(v for k, v in figures.detail.items() if k in ("least_p", "smallest_p"))])
    upper = binomial_upper(crying, len(people))
    seconds = (time.process_time() - start) / len(people)
    cells = (len(people), crying, f"{upper:.3f}", asked, alarms, f"{least:.1e}", f"{seconds:.1f}")
    return [probe.id, *map(str, cells)]


def main() -> None:
    """Count false alarms."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--people", type=int, default=40)
    parser.add_argument("--suite", default="standard", help="where the probes' settings are from")
    parser.add_argument("--probes", nargs="+", required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    suite = load_suite(arguments.suite)
    model, tokenizer = Reference().load()
    controls = load_controls(reference_folder(), suite)
    world = reference_world()
    people = [ascribed(person, arguments.seed) for person in strangers(world, arguments.people)]
    probes = {entry.probe.id: entry.probe for entry in suite.entries}
    rows = []
    for name in arguments.probes:
        rows.append(measured(probes[name], people, model, tokenizer, controls))
        print(" ".join(rows[-1]), flush=True)
    print("\n".join(table(HEAD, rows)))


if __name__ == "__main__":
    main()
