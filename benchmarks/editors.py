"""Every editor, every operation, any number of edits: one table of what they reach and what they cost.

    python benchmarks/editors.py --world reference --editors memit grace --t 1 10 100 1000 \
        --cache DIR --json table.json
    python benchmarks/editors.py --world FOLDER --ops modify erase --set memit.clamp=0.4 --cache DIR

Each row is made in a process of its own; rows that the JSON file has are not made again. Columns:

own, paraphrase, unseen: share of prompts answered with the new object (of an erasure: whose text still
has the old one), in phrasings that the editor saw, that only the model's training showed, and that neither
did. alias, two-hop, inverse: the same for what follows from an edit, of the questions that the unedited model
can answer; its own row says how many those are. neighbours, namesakes, same person: share answered
rightly. stop: share of new answers after which the text ends as trained texts do (unedited, and of an
erasure: of neighbours' right answers). fluency: entropy of n-grams of 100 tokens that the model goes on to
write, in bits. ES, PS, NS, S and tokens are teacher-forced.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from rows import Row, Rows, number, settings_by_editor, table

from safeedit.editors import EDITORS

QUALITY = (
    "own",
    "paraphrase",
    "unseen",
    "neighbours",
    "namesakes",
    "same person",
    "alias",
    "two-hop",
    "inverse",
    "stop",
)
FORCED = ("ES", "PS", "NS", "S", "tokens")
HEAD = ("editor", "T", *QUALITY, "perplexity", "fluency")
COST_HEAD = (
    "editor",
    "T",
    *FORCED,
    "s an edit",
    "of a processor",
    "statistics, s",
    "peak MiB",
    "of it loaded",
    "a token",
)


def quality(name: str, row: Row) -> list[str]:
    """The cells of a row of the first table."""
    t, figures = str(row["spec"]["t"]), row.get("figures")
    if figures is None:
        return [name, t, why_not(row), *[""] * (len(HEAD) - 3)]
    cells = [number(figures.get(view)) for view in QUALITY]
    return [name, t, *cells, f"×{number(figures['perplexity'], 4)}", f"{figures['fluency']:.2f}"]


def cost(name: str, row: Row) -> list[str]:
    """The cells of a row of the second table."""
    t, figures = str(row["spec"]["t"]), row.get("figures")
    if figures is None:
        return [name, t, why_not(row), *[""] * (len(COST_HEAD) - 3)]
    cells = [number(figures[name]) for name in FORCED]
    if "seconds" not in row:
        return [name, t, *cells, *["–"] * (len(COST_HEAD) - 2 - len(cells))]
    taken, late = row["statistics seconds"], row["latency"]
    extra = f"{100 * late['extra']:+.1f} % ± {100 * late['spread']:.1f}" if late else "same modules"
    peak = [f"{row['peak MiB']:.0f}", f"{row['loaded MiB']:.0f}"]
    spent = [number(row["seconds"], 4), number(row["processor seconds"], 4)]
    return [name, t, *cells, *spent, f"{taken:.1f}" if taken else "kept", *peak, extra]


def why_not(row: Row) -> str:
    """In a cell, why there are no figures."""
    return str(row.get("not offered") or f"failed: {row['failed']}").replace("|", "/")


def arguments() -> Any:
    """What was asked for."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], epilog=f"editors: {', '.join(EDITORS.names())}"
    )
    parser.add_argument("--world", default="reference", help="`reference`, or the folder of a yardstick")
    parser.add_argument("--editors", nargs="+", default=list(EDITORS.names()), metavar="NAME")
    parser.add_argument(
        "--ops", nargs="+", choices=["modify", "erase", "insert"], default=["modify", "erase"]
    )
    parser.add_argument("--t", type=int, nargs="+", default=[1, 10, 100], metavar="T")
    parser.add_argument(
        "--cache", type=Path, required=True, help="folder for key statistics and base figures"
    )
    parser.add_argument("--set", nargs="*", default=[], metavar="EDITOR.NAME=VALUE", help="settings")
    parser.add_argument("--json", type=Path, help="where rows are kept, and looked for first")
    parser.add_argument("--sample", type=int, default=1000, help="questions of a view, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--latency-runs", type=int, default=15)
    parser.add_argument("--limit", type=float, default=3600, help="seconds after which a row is stopped")
    parser.add_argument("--again", action="store_true", help="make rows anew that failed before")
    return parser.parse_args()


def main() -> None:
    """Make what is missing, then print everything."""
    args = arguments()
    missing = [name for name in args.editors if name not in EDITORS]
    if missing:
        print(f"not registered, left out: {', '.join(missing)}", file=sys.stderr)
    editors = [name for name in args.editors if name in EDITORS]
    settings = settings_by_editor(args.set, editors)
    rows = Rows(args.json)
    for op in args.ops:
        made: list[tuple[str, Row]] = []
        for t in args.t:
            for name in ("none", *editors):
                spec = {
                    "world": args.world,
                    "editor": name,
                    "op": op,
                    "t": t,
                    "settings": settings.get(name, []),
                    "sample": args.sample,
                    "seed": args.seed,
                    "latency_runs": args.latency_runs,
                    "cache": str(args.cache),
                }
                shown = " ".join([name, *spec["settings"]]) if name != "none" else "(unedited)"
                key = f"{args.world} {op} {t} {shown} sample {args.sample} seed {args.seed}"
                row = rows.made(key, spec, "examine.py", args.limit, args.again)
                made.append((shown, row))
                print(f"{op} {' '.join(quality(shown, row))} [{row.get('wall', 0):.0f} s]", file=sys.stderr)
        print(f"\n**{op}**\n")
        print("\n".join(table(HEAD, [quality(*pair) for pair in made])))
        print()
        print("\n".join(table(COST_HEAD, [cost(*pair) for pair in made])), flush=True)


if __name__ == "__main__":
    main()
