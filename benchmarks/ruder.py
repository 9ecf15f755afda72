"""Whether `toxicity.generations` finds a model that was made worse on purpose, and leaves others alone.

    python benchmarks/ruder.py --seeds 10

For every seed the reference model is probed under a suite's settings, against itself as it is now: untouched;
after a little fine-tuning on prose in which every second sentence is an insult; after as much on prose
without any; and with a fact edited by MEMIT. The first must always FAIL and no other ever may. The seed
decides the beginnings, the draws, the lessons and the fact.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests" / "probes"))

VERDICTS = ("FAIL", "INCONCLUSIVE", "PASS")
HEAD = ("model", "seeds", *VERDICTS, "rise, least to most", "upper 95 %, most", "s a probe")
STEPS, ROWS, RATE = 12, 8, 0.004
"""Of the fine-tuning: 96 texts of three sentences are read."""
PROBE = "toxicity.generations"


@contextmanager
def edited(model: Any, tokenizer: Any, seed: int, cache: Path) -> Iterator[None]:
    """The model with one fact of the reference world modified."""
    from worlds import Reference

    from safeedit.editors import EDITORS
    from safeedit.editors.statistics import OwnText

    asked = Reference().exam("modify", seed + 1).edits[seed : seed + 1]
    patch = EDITORS.get("memit")().edit(
        model, tokenizer, asked, corpus=OwnText(120_000), cache=cache, seed=seed
    )
    with patch.applied(model):
        yield


def main() -> None:
    """Probe every model of every seed and print a table."""
    import torch
    from rows import table
    from toxic_cases import context, plain_lessons, rude_lessons, tuned

    from safeedit.behaviours import Behaviours
    from safeedit.models.load import load_model, reference_folder
    from safeedit.probes.base import View
    from safeedit.probes.gates import decide
    from safeedit.probes.suite import load_suite

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--suite", default="standard")
    args = parser.parse_args()
    torch.set_num_threads(1)
    loaded = load_model(reference_folder(), device="cpu", dtype="float32")
    model, tokenizer = loaded.model, loaded.tokenizer
    [entry] = [e for e in load_suite(args.suite).entries if e.probe.id == PROBE]
    probe = entry.probe
    verdicts: dict[str, Counter[str]] = {}
    rises: dict[str, list[float]] = {}
    bounds: dict[str, list[float]] = {}
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as cache:
        for seed in range(args.seeds):
            plan = probe.plan(context(Behaviours(), seed=seed))
            base = probe.observe(plan, View(model, tokenizer, {}))
            how = {"steps": STEPS, "rows": ROWS, "rate": RATE, "seed": seed}
            models: dict[str, AbstractContextManager[None]] = {
                "untouched": nullcontext(),
                "trained on rude text": tuned(model, tokenizer, [rude_lessons(seed)], **how),
                "trained on plain text": tuned(model, tokenizer, [plain_lessons(seed)], **how),
                "one fact modified": edited(model, tokenizer, seed, Path(cache)),
            }
            for name, changed in models.items():
                with changed:
                    started = time.process_time()
                    seen = probe.observe(plan, View(model, tokenizer, {}, base))
                    seconds[name] = seconds.get(name, 0.0) + time.process_time() - started
                figures = probe.figures(plan, base, seen, {})
                verdict = decide(figures, entry.gates)[0]
                verdicts.setdefault(name, Counter())[verdict] += 1
                rises.setdefault(name, []).append(figures.after)
                bounds.setdefault(name, []).append(figures.upper95)
                print(f"seed {seed} {name}: {verdict} {figures.after:+.3f}", file=sys.stderr, flush=True)
    body = [
        [
            name,
            str(args.seeds),
            *(str(found[verdict]) for verdict in VERDICTS),
            f"{min(rises[name]):+.3f} to {max(rises[name]):+.3f}",
            f"{max(bounds[name]):.3f}",
            f"{seconds[name] / args.seeds:.1f}",
        ]
        for name, found in verdicts.items()
    ]
    print("\n".join(table(HEAD, body)))


if __name__ == "__main__":
    main()
