"""Every mutant of the zoo and the twin, over several seeds: what the suite missed, and what it cried about.

Each seed has a village, a base model and a twin of its own; a mutant is missed if a probe that must fail it
did not, and the twin is a false alarm if any forgetting gate fails it. A seed's figures are kept in the
cache's folder and not made twice; delete its file after a probe has changed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# Before this folder, for this file's name is a module's name there.
sys.path.insert(0, str(HERE.parent / "tests" / "probes"))

Found = Mapping[str, Mapping[str, str]]
"""By model and probe, the verdict."""


def one_seed(seed: int, cache: Path, only: tuple[str, ...]) -> Found:
    """Everything that one seed shows: from the cache, or made now."""
    import torch
    import zoo_rows
    from lessons import Lab
    from village import trained, village
    from zoo import MUTANTS, mutant

    from safeedit.errors import SafeEditError
    from safeedit.probes.runner import judge, measure

    file = cache / f"zoo-{seed}.json"
    kept: dict[str, dict[str, str]] = json.loads(file.read_text("utf-8")) if file.exists() else {}
    missing = [name for name in MUTANTS if name not in kept and (not only or name in only)]
    if not missing:
        return kept
    torch.set_num_threads(1)
    place = village(seed)
    base, tokenizer = trained(place, seed, cache=cache)
    twin, _ = trained(place, seed, place.person, cache=cache)
    lab = Lab(place, base, twin, tokenizer, seed)
    # Dictionaries keep their order, so that the suite is the same for every seed.
    wanted = dict.fromkeys(p for row in zoo_rows.ROWS.values() for p in row if zoo_rows.exists(p))
    pack = zoo_rows.pack_of(lab, list(wanted))
    before = measure(pack, base, tokenizer)
    for name in missing:
        started = time.process_time()
        try:
            report = judge(pack, before, measure(pack, mutant(name, lab), tokenizer, base=before))
            kept[name] = {result.id: result.verdict for result in report.results}
            kept[name] |= {"verdict": report.verdict, "grade": report.grade}
        except SafeEditError as error:
            kept[name] = {"verdict": type(error).__name__}
        _write(file, kept)
        took = time.process_time() - started
        print(f"seed {seed} {name} {kept[name]['verdict']} {took:.0f} s", file=sys.stderr, flush=True)
    return kept


def _write(file: Path, value: Any) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=1) + "\n", "utf-8")
    temporary.replace(file)


def table(found: Mapping[int, Found]) -> Iterable[str]:
    """What was wanted and what came, over all seeds, as Markdown."""
    from zoo_rows import ROWS, exists

    yield "| model | probe | wanted | seeds | otherwise |"
    yield "| --- | --- | --- | --- | --- |"
    for name, row in ROWS.items():
        seeds = [seed for seed in found if name in found[seed]]
        for probe, wanted in row.items():
            if not exists(probe):
                yield f"| {name} | {probe} | {wanted} | 0 | not written |"
                continue
            other = [(seed, found[seed][name].get(probe, "none")) for seed in seeds]
            wrong = ", ".join(f"{verdict} ({seed})" for seed, verdict in other if verdict != wanted)
            yield f"| {name} | {probe} | {wanted} | {len(seeds)} | {wrong or '-'} |"


def summary(found: Mapping[int, Found]) -> Iterable[str]:
    """How many mutants were missed, and how many twins were taken for liars."""
    from zoo_rows import FORGETTING, ROWS

    mutants = missed = alarms = twins = 0
    for models in found.values():
        for name, verdicts in models.items():
            faults = [p for p, wanted in ROWS[name].items() if wanted in ("FAIL", "ERROR") and p in verdicts]
            if name == "M1":
                twins += 1
                alarms += any(verdicts.get(probe) in ("FAIL", "ERROR") for probe in FORGETTING)
            elif faults:
                mutants += 1
                missed += any(verdicts[probe] != ROWS[name][probe] for probe in faults)
    yield f"Missed mutants: {missed} of {mutants}. False alarms on the twin: {alarms} of {twins}."


def main() -> None:
    """Make what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--jobs", type=int, default=1, help="seeds at a time, one thread each")
    parser.add_argument("--cache", type=Path, required=True, help="folder for models and figures")
    parser.add_argument("--only", nargs="*", default=[], metavar="MUTANT", help="these alone")
    args = parser.parse_args()
    args.cache.mkdir(parents=True, exist_ok=True)
    seeds = range(args.first, args.first + args.seeds)
    work = partial(one_seed, cache=args.cache, only=tuple(args.only))
    if args.jobs == 1:
        found = dict(zip(seeds, map(work, seeds), strict=True))
    else:
        with ProcessPoolExecutor(args.jobs) as pool:
            found = dict(zip(seeds, pool.map(work, seeds), strict=True))
    print("\n".join(table(found)))
    print()
    print("\n".join(summary(found)))


if __name__ == "__main__":
    main()
