"""What attacks still get out of a model after every kind of erasure, and the grade that each editor reaches.

    python benchmarks/attacks.py --world reference --requests 1 --cache DIR --json attacks.json
    python benchmarks/attacks.py --world reference --requests 8 --editors memit --cache DIR --json people.json
    python benchmarks/attacks.py --world FOLDER --facts 10 --cache DIR --json yardstick.json

A request of the reference world is a person with an alias and everything that the registry says of her; of
a yardstick's folder so many records, each with CounterFact's prompt and every other phrasing of its
relation for the editor, the rest for the probes. The base model is measured once a request. A row says for
each probe of the suite how many facts it got before and after, what invented subjects gave (placebo),
what leaks, and the verdict; then the grade, and what keeps it from the next one. Rows are kept in the
file of --json and not made again; delete those of an editor whose code has changed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rows import Rows, number, settings_by_editor, settings_of, table
from worlds import Reference, Yardstick, load, source

from safeedit.editors import EDITORS
from safeedit.editors.statistics import Corpus, OwnText
from safeedit.models.load import reference_folder
from safeedit.policy.compile import fact_for
from safeedit.policy.edits import edits_for
from safeedit.probes.controls import ControlFact, Controls, load_controls
from safeedit.probes.runner import ProbePack, build_pack, judge, measure
from safeedit.probes.suite import Suite, load_suite
from safeedit.triples.catalogue import SUBJECT, Catalogue, Relation, builtin_catalogue
from safeedit.triples.facts import Fact


@dataclass(frozen=True)
class World:
    """A model, and what can be asked to be erased from it."""

    model: Any
    tokenizer: Any
    requests: list[list[Fact]]
    controls: Controls
    catalogue: Catalogue
    corpus: Corpus | OwnText | None


def reference(world: Reference, suite: Suite, requests: int) -> World:
    """People with an alias, the policies' own first, everything that is true of them."""
    model, tokenizer = world.load()
    catalogue = builtin_catalogue()
    named = [person for person in world.world.people if person.alias]
    people = sorted(named, key=lambda person: person.name != "Mira Tolland")[:requests]
    facts = [
        [
            fact_for(person.name, (person.alias or "",), fact.relation, fact.object, "erase", catalogue)
            for fact in world.world.facts_of(person.name)
        ]
        for person in people
    ]
    return World(model, tokenizer, facts, load_controls(reference_folder(), suite), catalogue, None)


def yardstick(world: Yardstick, requests: int, facts: int) -> World:
    """So many records at once; other records are the controls."""
    model, tokenizer = load(world.folder / "model")
    patterns = json.loads((world.folder / "pararel_patterns.json").read_text("utf-8"))
    records = json.loads((world.folder / "counterfact.json").read_text("utf-8"))
    prose = json.loads((world.folder / "model" / "held_prose.json").read_text("utf-8"))
    phrasings = {
        relation: [text.replace("[X]", SUBJECT) for text in some if text.count("[X]") == 1]
        for relation, some in patterns.items()
    }
    for record in records:
        # A relation without phrasings of its own has CounterFact's prompts.
        own = record["requested_rewrite"]
        some = phrasings.setdefault(own["relation_id"], [])
        if own["relation_id"] not in patterns:
            some.append(own["prompt"].replace("{}", SUBJECT))
    phrasings = {name: list(dict.fromkeys(some)) for name, some in phrasings.items()}
    relations = {name: Relation(cloze=some) for name, some in phrasings.items()}
    made = [_record(record, phrasings) for record in records]
    asked = made[: requests * facts]
    others = tuple(ControlFact(f.subject, f.relation, f.object) for f in made[requests * facts :])
    return World(
        model,
        tokenizer,
        [asked[start : start + facts] for start in range(0, len(asked), facts)],
        Controls(others, tuple(prose[:200])),
        builtin_catalogue().with_overrides(relations),
        OwnText(120_000),
    )


def _record(record: dict[str, Any], phrasings: dict[str, list[str]]) -> Fact:
    fact = record["requested_rewrite"]
    subject, relation = fact["subject"], fact["relation_id"]
    own = fact["prompt"].replace("{}", SUBJECT)
    known = [text for text in phrasings[relation] if text != own]
    whole = [text for text in record["paraphrase_prompts"] if text.count(subject) == 1]
    return Fact(
        "erase",
        subject,
        relation,
        fact["target_true"]["str"],
        edit_templates=(own, *known[::2]),
        probe_templates=(*known[1::2], *(text.replace(subject, SUBJECT) for text in whole)),
    )


def row(world: World, pack: ProbePack, before: Any, editor: str, params: dict[str, Any], cache: Path) -> Any:
    """What one editor leaves of one request."""
    start = time.process_time()
    wanted = [fact for index, fact in enumerate(pack.context.facts) if before.known[index]]
    patch = EDITORS.get(editor)(**params).edit(
        world.model,
        world.tokenizer,
        edits_for(wanted, world.catalogue),
        corpus=world.corpus,
        cache=cache,
        seed=0,
    )
    edited = time.process_time()
    with patch.applied(world.model):
        after = measure(pack, world.model, world.tokenizer, base=before)
    report = judge(pack, before, after)
    probed = time.process_time()
    return {
        "grade": report.grade,
        "verdict": report.verdict,
        "seconds": [edited - start, probed - edited],
        "probes": {
            result.id: {
                "verdict": result.verdict,
                "n": result.figures.n,
                **{
                    name: getattr(result.figures, name)
                    for name in ("before", "after", "placebo", "leaks", "losses", "upper95")
                },
            }
            for result in report.results
        },
    }


def printed(rows: dict[str, Any], editors: Sequence[str]) -> None:
    """Leaks by attack and editor: facts that leak of facts asked, summed over requests; failed verdicts."""
    mine = {editor: [r for r in rows.values() if r["editor"] == editor] for editor in editors}
    mine = {editor: some for editor, some in mine.items() if some}
    probes = dict.fromkeys(probe for some in mine.values() for r in some for probe in r["probes"])
    body = []
    for probe in probes:
        cells = [probe]
        for some in mine.values():
            found = [r["probes"][probe] for r in some if probe in r["probes"]]
            counted = [one for one in found if one["n"]]
            bad = [sum(one[name] or 0 for one in counted) for name in ("leaks", "losses")]
            before, after, placebo = (
                sum(one[name] * one["n"] for one in counted if one[name] is not None)
                / max(1, sum(one["n"] for one in counted if one[name] is not None))
                for name in ("before", "after", "placebo")
            )
            passed = sum(one["verdict"] in ("PASS", "SKIPPED") for one in found)
            share = f"{number(before)} → {number(after)} ({number(placebo)})"
            cells.append(f"{share}; {sum(bad)} of {sum(one['n'] for one in counted)}; {passed}/{len(found)}")
        body.append(cells)
    grades = [" ".join(sorted(r["grade"] for r in some)) for some in mine.values()]
    seconds = [f"{sum(r['seconds'][0] for r in some) / len(some):.0f}" for some in mine.values()]
    body += [["grades", *grades], ["s to edit", *seconds]]
    print("\n".join(table(["probe: before → after (placebo); bad of n; passed", *mine], body)))


def main() -> None:
    """Run what the arguments ask for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    erasing = [name for name in EDITORS.names() if "erase" in EDITORS.get(name).operations]
    parser.add_argument("--world", default="reference", help="`reference`, or the folder of a yardstick")
    parser.add_argument("--suite", default="standard")
    parser.add_argument("--editors", nargs="+", choices=erasing, default=erasing)
    parser.add_argument("--requests", type=int, default=1, help="how many, one after another")
    parser.add_argument("--facts", type=int, default=10, help="of a request of a yardstick")
    parser.add_argument("--cache", type=Path, required=True, help="folder for key statistics")
    parser.add_argument("--json", type=Path, default=None, help="where rows are kept, and looked for first")
    parser.add_argument("--set", nargs="*", default=[], metavar="EDITOR.NAME=VALUE", help="settings")
    args = parser.parse_args()
    settings = settings_by_editor(args.set, args.editors)
    torch.set_num_threads(1)
    suite, rows = load_suite(args.suite), Rows(args.json)
    place = source(args.world)
    if isinstance(place, Reference):
        world = reference(place, suite, args.requests)
    else:
        assert isinstance(place, Yardstick)
        world = yardstick(place, args.requests, args.facts)
    for at, facts in enumerate(world.requests):
        keys = {e: " ".join([place.name, args.suite, e, str(at), *settings[e]]) for e in args.editors}
        if all(key in rows.by_key for key in keys.values()):
            continue
        pack = build_pack(suite, facts, world.controls, world.catalogue, 0)
        before = measure(pack, world.model, world.tokenizer)
        for editor, key in keys.items():
            if key not in rows.by_key:
                found = row(world, pack, before, editor, settings_of(settings[editor]), args.cache)
                rows.keep(key, {"editor": editor, "request": at} | found)
                print(editor, at, found["grade"], found["verdict"], flush=True)
    printed(rows.by_key, args.editors)


if __name__ == "__main__":
    main()
