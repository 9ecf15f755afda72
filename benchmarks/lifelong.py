"""Editing one batch after another for a lifetime: what is left of all edits so far, as a table and a picture.

    python benchmarks/lifelong.py --world reference --editors wise grace alphaedit ultraedit memit \
        --t 1000 --batch 10 --at 1 10 30 100 300 1000 --cache DIR --json lifelong.json --svg lifelong.svg

Each batch is made on the model as the ones before left it (`safeedit.sequence`). At a checkpoint (the first
batch that reaches it) a sample of ALL edits so far is asked, not of the last batch alone. Reliability: the
prompts that the editor saw. Generalisation: phrasings that neither it nor the training showed. Locality:
facts of people whom no edit is about, of those that the unedited model knows.

Memories beside the weights do not add up. With `--memories anew` all edits so far are made at once on the
unedited model at every checkpoint, which is what keeping the edits and rebuilding the memory amounts to;
with `stacked` each batch has a memory of its own, one over the other. The table says which.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from curves import Line, picture
from rows import Row, Rows, number, settings_by_editor, table

from safeedit.editors import EDITORS

PANELS = ("reliability", "generalisation", "locality")
HEAD = (
    "editor",
    "T",
    *PANELS,
    "oldest … newest quarter",
    "namesakes",
    "same person",
    "perplexity",
    "s an edit",
    "peak MiB",
)


def cells(name: str, point: Mapping[str, Any]) -> list[str]:
    """A checkpoint in the table."""
    return [
        name,
        str(point["T"]),
        *(number(point[panel]) for panel in PANELS),
        " ".join(number(share, 2) for share in point["by age"]),
        number(point.get("namesakes")),
        number(point.get("same person")),
        f"×{number(point['perplexity'], 4)}",
        number(point["seconds"], 3),
        f"{point['peak MiB']:.0f}",
    ]


def ended(name: str, row: Row) -> list[list[str]]:
    """Why a lifetime has no more checkpoints, where it was not over."""
    stopped = row.get("stopped")
    why = row.get("not offered") or row.get("failed") or (stopped and stopped["why"])
    if not why:
        return []
    after = str(stopped["after"]) if stopped else "–"
    return [[name, after, str(why).replace("|", "/"), *[""] * (len(HEAD) - 3)]]


def line(name: str, row: Row) -> Line:
    """A lifetime in the picture."""
    points = row.get("points", [])
    return Line(name, {panel: [(p["T"], p[panel]) for p in points] for panel in PANELS})


def label(name: str, settings: Sequence[str], row: Row) -> str:
    """What an editor's rows are called."""
    beside = row.get("memories")
    return " ".join([name, *settings]) + (f" ({beside})" if beside else "")


def arguments() -> Any:
    """What was asked for."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], epilog=f"editors: {', '.join(EDITORS.names())}"
    )
    parser.add_argument("--world", default="reference", help="`reference`, or the folder of a yardstick")
    parser.add_argument(
        "--editors", nargs="+", default=["wise", "grace", "alphaedit", "ultraedit", "memit"], metavar="NAME"
    )
    parser.add_argument("--op", choices=["modify", "erase", "insert"], default="modify")
    parser.add_argument("--t", type=int, default=1000, help="edits in all")
    parser.add_argument("--batch", type=int, default=10, help="edits made at once")
    parser.add_argument("--at", type=int, nargs="+", default=[1, 10, 30, 100, 300, 1000], metavar="T")
    parser.add_argument("--memories", choices=["anew", "stacked"], default="anew")
    parser.add_argument("--guard", action="store_true", help="stop where the library's own guard would")
    parser.add_argument("--cache", type=Path, required=True, help="folder for key statistics")
    parser.add_argument("--set", nargs="*", default=[], metavar="EDITOR.NAME=VALUE", help="settings")
    parser.add_argument("--json", type=Path, help="where lifetimes are kept, and looked for first")
    parser.add_argument("--svg", type=Path, help="where the picture goes")
    parser.add_argument("--sample", type=int, default=300, help="edits and other facts asked, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=14_400, help="seconds after which one is stopped")
    parser.add_argument("--again", action="store_true", help="make those anew that failed before")
    return parser.parse_args()


def main() -> None:
    """Make what is missing, then print and draw everything."""
    args = arguments()
    for name in args.editors:
        if name not in EDITORS:
            print(f"not registered, left out: {name}", file=sys.stderr)
    editors = [name for name in args.editors if name in EDITORS]
    settings, rows = settings_by_editor(args.set, editors), Rows(args.json)
    body, lines = [], []
    for name in editors:
        spec = {
            "world": args.world,
            "editor": name,
            "op": args.op,
            "t": args.t,
            "batch": args.batch,
            "at": args.at,
            "memories": args.memories,
            "guard": args.guard,
            "settings": settings[name],
            "sample": args.sample,
            "seed": args.seed,
            "cache": str(args.cache),
        }
        key = " ".join(f"{k}={v}" for k, v in spec.items() if k != "cache")
        row = rows.made(key, spec, "lifetime.py", args.limit, args.again)
        shown = label(name, settings[name], row)
        body += [cells(shown, point) for point in row.get("points", [])] + ended(shown, row)
        lines.append(line(shown, row))
        print(f"{shown}: {row['wall']:.0f} s", file=sys.stderr)
    print(f"\n**{args.op}, {args.batch} at a time**\n")
    print("\n".join(table(HEAD, body)))
    if args.svg is not None:
        title = f"{args.op}, {args.batch} at a time: what is left of all edits so far"
        args.svg.write_text(picture(title, PANELS, lines), "utf-8")


if __name__ == "__main__":
    main()
