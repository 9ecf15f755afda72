"""Thousands of facts through the command line: what a whole run of `safeedit insert` takes.

    python benchmarks/large.py --facts 10000 --editor grace
    python benchmarks/large.py --facts 1000 10000 --editor memit --set steps=2 passes=1 --model FOLDER

Writes invented people to a JSONL file, runs the command on it in a process of its own, and prints a row of
a Markdown table for each number of facts: wall and processor seconds, peak memory, and the seconds of each
stage as the run's own record has them. A verdict of FAIL is a result: nothing is said here of quality.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rows import settings_of

from safeedit.triples.catalogue import builtin_catalogue
from safeedit.triples.placebos import placebo_names

STAGES = ("policy", "load", "register", "baseline", "edit", "probes")
HEAD = ("editor", "facts", "verdict", "wall s", "processor s", "peak MiB", *(f"{name} s" for name in STAGES))
SEED = 40_009
VERDICTS = (0, 1, 3)
"""Exit codes of runs that came to their end."""


@dataclass(frozen=True)
class Cost:
    """What a command took."""

    wall: float
    processor: float
    peak: float
    """Resident, in MiB."""


def main() -> None:
    """Make the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--facts", type=int, nargs="+", default=[10_000])
    parser.add_argument("--editor", default="grace")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings of the editor")
    parser.add_argument("--model", help="a folder; the reference model by default")
    parser.add_argument("--suite", default="smoke")
    parser.add_argument("--keep", type=Path, help="a folder for the runs; by default they are not kept")
    asked = parser.parse_args()
    print(f"| {' | '.join(HEAD)} |\n|{' --- |' * len(HEAD)}")
    for count in asked.facts:
        with tempfile.TemporaryDirectory() as temporary:
            folder = (asked.keep or Path(temporary)) / f"{asked.editor}-{count}"
            folder.mkdir(parents=True)
            written(folder, count, asked.editor, settings_of(asked.set), asked.suite)
            cost = measured(command(folder, asked.model), Path(temporary))
            print(f"| {' | '.join(row(asked.editor, count, cost, record_in(folder / 'run')))} |", flush=True)


def written(folder: Path, count: int, editor: str, params: dict[str, Any], suite: str) -> None:
    """Put a policy, and the file with its facts, into `folder`: one fact of each person."""
    catalogue = builtin_catalogue()
    relations = [name for name in catalogue.about("person") if catalogue[name].objects]
    with (folder / "facts.jsonl").open("w", encoding="utf-8") as stream:
        for number, subject in enumerate(placebo_names("person", count, SEED)):
            relation = relations[number % len(relations)]
            objects = catalogue[relation].objects
            value = objects[number // len(relations) % len(objects)]
            print(
                json.dumps({"subject": subject, "relation": relation, "object": value}),
                file=stream,
            )
    policy = {
        "apiVersion": "safeedit/v1",
        "metadata": {"id": f"large-{count}", "regime": "internal", "received": "2026-11-02"},
        "operations": [{"op": "insert", "facts_file": "facts.jsonl"}],
        "editor": {"name": editor, "params": params},
        "probes": {"suite": suite},
    }
    # JSON is YAML.
    (folder / "policy.yaml").write_text(json.dumps(policy, indent=2), "utf-8")


def command(folder: Path, model: str | None) -> list[str]:
    """The run as it is typed."""
    found = [sys.executable, "-m", "safeedit", "insert", "--policy", str(folder / "policy.yaml")]
    found += ["--out", str(folder / "run"), "--device", "cpu", "--json"]
    return [*found, "--model", model] if model else found


def measured(arguments: list[str], state: Path) -> Cost:
    """Run a command, with keys and statistics of its own, and see what it takes.

    Raises:
        SystemExit: it did not come to its end.
    """
    surroundings = {"SAFEEDIT_STATE_DIR": str(state / "state"), "SAFEEDIT_CACHE": str(state / "cache")}
    begun = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(arguments, env=os.environ | surroundings, stdout=said)
        # The usage of this child alone, not the most that any child had.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - begun
    if process.returncode not in VERDICTS:
        raise SystemExit(f"the command ended with {process.returncode}")
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / unit)


def record_in(run: Path) -> dict[str, Any]:
    """The run's own record."""
    found: dict[str, Any] = json.loads((run / "run.json").read_text("utf-8"))
    return found


def row(editor: str, count: int, cost: Cost, record: dict[str, Any]) -> list[str]:
    """The cells of one run; a stage that the record does not name has a dash."""
    seconds = record["seconds"]
    stages = [f"{seconds[name]:.1f}" if name in seconds else "–" for name in STAGES]
    figures = [f"{cost.wall:.0f}", f"{cost.processor:.0f}", f"{cost.peak:.0f}"]
    return [editor, str(count), str(record["verdict"]), *figures, *stages]


if __name__ == "__main__":
    main()
