"""How fit scorers of toxic text are (`toxicity.instrument`), and how far ours are from Detoxify's figures.

    python benchmarks/judges.py embedded linear:FILE.safetensors detoxify:FILE.ckpt [--texts FILE]

The table has what the probe finds on its shipped sentences, and the processor seconds of one pass over them.
Below it, for checkpoints in Detoxify's format, the largest difference of any label's probability between
`detoxify.Detoxify` itself and the scorer, in batches and one by one: over sentences like those that the small
one learnt, and those of `--texts` (a field `text` a row). What is longer than a window is left out, since
Detoxify cuts it. In single precision Detoxify differs from itself as much, by what stands beside a text.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from pathlib import Path

from safeedit_probes.toxicity_instrument import Instrument
from torch import nn

from safeedit.exams.sources import open_source
from safeedit.probes.base import Context, Figures, View
from safeedit.probes.controls import Controls
from safeedit.toxicity import public_name, scorer
from safeedit.toxicity.fit import examples
from safeedit.triples.catalogue import builtin_catalogue

HEAD = ("scorer", "AUC", "least BPSN", "least BNSP", "final", "least over limit", "lower 95 %", "null")
HEAD += ("for a release", "s")
BATCH = 64
ALONE = 200
"""Texts that are scored one by one."""


def judged(spec: str) -> tuple[Figures, float]:
    """The probe's figures, and the processor seconds of one pass."""
    probe = Instrument({"scorer": spec})
    plan = probe.plan(Context((), Controls((), ()), builtin_catalogue(), 0))
    started = time.process_time()
    seen = probe.observe(plan, View(nn.Linear(1, 1), None, {}))
    seconds = time.process_time() - started
    return probe.figures(plan, seen, seen, {}), seconds


def row(spec: str) -> str:
    """One line of the first table."""
    figures, seconds = judged(spec)
    detail = figures.detail
    least = [min(v for k, v in detail.items() if k.startswith(f"{kind}_")) for kind in ("bpsn", "bnsp")]
    numbers = (detail["auc"], *least, detail["final"], figures.after, figures.lower95, detail["null"])
    release = "yes" if detail["fit_for_release"] else "no"
    name = " ".join(dict.fromkeys((public_name(spec), Path(spec).name)))
    return f"| {name} | {' | '.join(f'{n:.3f}' for n in numbers)} | {release} | {seconds:.2f} |"


def differences(file: str, texts: Sequence[str]) -> tuple[int, float, float]:
    """How many texts fit into a window; the largest difference in batches, and one by one."""
    from detoxify import Detoxify

    theirs, ours = Detoxify(checkpoint=file), scorer(f"detoxify:{file}")
    limit = ours.window  # type: ignore[attr-defined]
    whole = [text for text in texts if len(theirs.tokenizer(text)["input_ids"]) <= limit]
    mine = ours.scores(whole)

    def largest(places: Sequence[int]) -> float:
        found = theirs.predict([whole[i] for i in places] if len(places) > 1 else whole[places[0]])
        each = {label: values if isinstance(values, list) else [values] for label, values in found.items()}
        pairs = [(mine[label][i], p) for label, ps in each.items() for i, p in zip(places, ps, strict=True)]
        return max(abs(a - b) for a, b in pairs)

    everywhere = range(len(whole))
    batched = max(largest(everywhere[start : start + BATCH]) for start in everywhere[::BATCH])
    some = random.Random(0).sample(everywhere, min(ALONE, len(whole)))
    return len(whole), batched, max(largest([i]) for i in some)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("specs", nargs="+", metavar="SCORER")
    parser.add_argument("--texts", type=Path)
    given = parser.parse_args()
    print(f"| {' | '.join(HEAD)} |\n| {' | '.join('---' for _ in HEAD)} |")
    for spec in given.specs:
        print(row(spec), flush=True)
    texts = examples(99, 500)[0]
    if given.texts is not None:
        source = open_source(given.texts)
        texts += [str(one.values["text"]) for part in source.parts for one in source.rows(part)]
    files = [spec.partition(":")[2] for spec in given.specs if spec.startswith("detoxify:")]
    for file in (file for file in files if Path(file).is_file()):
        n, batched, alone = differences(file, texts)
        print(f"\n{n} texts, all labels: {batched:.1e} from Detoxify in batches, {alone:.1e} one by one")


if __name__ == "__main__":
    main()
