"""Every row that `editors.py` has kept, with all its columns, as a page.

    python benchmarks/tables.py reference.json yardstick.json > benchmarks/tables.md

Where two files have a row of the same spec, the later file's is printed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from editors import COST_HEAD, HEAD, cost, quality
from rows import Row, table

OPERATIONS = ("modify", "erase", "insert")
HEADING = """# Every row of the table of editors

Made by `benchmarks/tables.py` of what `benchmarks/editors.py` kept; its docstring says what the columns are,
and [BENCHMARKS.md](../BENCHMARKS.md) what to think of them. Rows were made at different times, beside other
work: seconds of a processor can be compared, wall seconds and latency (three runs) only roughly.
"""


def name_of(row: Row) -> str:
    """An editor, with the settings that are not its defaults."""
    spec = row["spec"]
    return " ".join([spec["editor"], *spec["settings"]]) if spec["editor"] != "none" else "(unedited)"


def place(row: Row) -> tuple[int, bool, str]:
    """Where a row stands: by how many edits; the unedited model first."""
    name = name_of(row)
    return row["spec"]["t"], name != "(unedited)", name


def page(rows: Sequence[Row]) -> Iterator[str]:
    """The lines: two tables for each data set and operation."""
    yield from HEADING.splitlines()
    for world in dict.fromkeys(Path(row["spec"]["world"]).name for row in rows):
        for op in OPERATIONS:
            some = [r for r in rows if Path(r["spec"]["world"]).name == world and r["spec"]["op"] == op]
            some = sorted((row for row in some if "not offered" not in row), key=place)
            if some:
                yield f"\n## {world}, {op}\n"
                yield from table(HEAD, [quality(name_of(row), row) for row in some])
                yield ""
                yield from table(COST_HEAD, [cost(name_of(row), row) for row in some])


def main() -> None:
    """Print the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, help="what `editors.py --json` wrote")
    found: dict[str, Row] = {}
    for file in parser.parse_args().files:
        found |= json.loads(file.read_text("utf-8"))
    print("\n".join(page(list(found.values()))))


if __name__ == "__main__":
    main()
