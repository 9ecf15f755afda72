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
    from lessons import Lab
    from village import trained, village
    from zoo import MUTANTS, mutant
    from zoo_rows import ROWS, Bench, exists

    file = cache / f"zoo-{seed}.json"
    kept: dict[str, dict[str, str]] = json.loads(file.read_text("utf-8")) if file.exists() else {}
    missing = {
        name: [probe for probe in ROWS[name] if exists(probe) and probe not in kept.get(name, {})]
        for name in MUTANTS
        if not only or name in only
    }
    if not any(missing.values()):
        return kept
    torch.set_num_threads(1)
    place = village(seed)
    base, tokenizer = trained(place, seed, cache=cache)
    twin, _ = trained(place, seed, place.person, cache=cache)
    lab = Lab(place, base, twin, tokenizer, seed)
    bench = Bench(lab)
    for name, probes in missing.items():
        started = time.process_time()
        model = mutant(name, lab) if probes else None
        for probe in probes:
            kept.setdefault(name, {})[probe] = bench.verdict(probe, model).verdict
            _write(file, kept)
        if probes:
            print(f"seed {seed} {name} {time.process_time() - started:.0f} s", file=sys.stderr, flush=True)
    return kept


def _write(file: Path, value: Any) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=1) + "\n", "utf-8")
    temporary.replace(file)


def table(found: Mapping[int, Found]) -> Iterable[str]:
    """What was wanted and what came, over all seeds, as Markdown."""
    from zoo_rows import ROWS, deserved

    yield "| model | probe | wanted | seeds | otherwise |"
    yield "| --- | --- | --- | --- | --- |"
    for name, row in ROWS.items():
        for probe, wanted in row.items():
            came = {
                seed: models[name][probe] for seed, models in found.items() if probe in models.get(name, {})
            }
            wrong = ", ".join(f"{v} ({seed})" for seed, v in came.items() if not deserved(wanted, v))
            yield f"| {name} | {probe} | {wanted} | {len(came)} | {wrong or '-'} |"


def summary(found: Mapping[int, Found]) -> Iterable[str]:
    """How many mutants were missed, and how many twins were taken for liars."""
    from zoo_rows import FORGETTING, ROWS, deserved

    mutants = missed = alarms = twins = 0
    for models in found.values():
        for name, verdicts in models.items():
            faults = [p for p, wanted in ROWS[name].items() if wanted in ("FAIL", "ERROR") and p in verdicts]
            if name == "M1":
                twins += 1
                alarms += any(verdicts.get(probe) in ("FAIL", "ERROR") for probe in FORGETTING)
            elif faults:
                mutants += 1
                missed += not all(deserved(ROWS[name][probe], verdicts[probe]) for probe in faults)
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
