"""Processor seconds of the ledger: appending, verifying, heads and proofs, by the number of entries.

OMP_NUM_THREADS=1 python -m benchmarks.ledger --entries 10000
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from safeedit.evidence.ledger import Ledger
from safeedit.evidence.merkle import verify_inclusion
from safeedit.evidence.pointers import view_ledger
from safeedit.runs.chain import Entry
from safeedit.runs.keys import STATE_VARIABLE

RUN = "01234567-0123-0123-0123-0123456789ab"


def filled(workspace: Path, entries: int) -> Ledger:
    """A ledger of so many pointers, written at once."""
    ledger = Ledger.of(workspace)
    ledger.begin()
    (last,) = ledger.entries()
    lines = []
    for count in range(1, entries):
        data = {"run": RUN, "log_length": count, "log_head": f"{count:064x}"}
        last = Entry.after(last, last.time, "edit.made", data, Ledger.genesis)
        lines.append(last.line() + b"\n")
    with ledger.path.open("ab") as stream:
        stream.write(b"".join(lines))
    return ledger


def seconds(action: Callable[[], object], times: int = 1) -> float:
    """Processor seconds of one `action`, the mean of so many."""
    begun = time.process_time()
    for _ in range(times):
        action()
    return (time.process_time() - begun) / times


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=10_000)
    entries = parser.parse_args().entries
    with tempfile.TemporaryDirectory() as folder:
        os.environ[STATE_VARIABLE] = folder
        workspace = Path(folder) / "runs"
        workspace.mkdir()
        ledger = filled(workspace, entries)
        view = view_ledger(workspace)
        if view is None or view.check.findings:
            raise SystemExit("the ledger does not verify")
        figures = {
            "verify the whole chain": seconds(lambda: view_ledger(workspace)),
            "head, from the file": seconds(lambda: Ledger(ledger.path).head()),
            "inclusion proof, from the file": seconds(lambda: Ledger(ledger.path).inclusion(entries // 2)),
        }
        head = ledger.head()
        path = ledger.inclusion(entries // 2)
        leaf = ledger.tree().leaf(entries // 2)
        figures |= {
            "inclusion proof": seconds(lambda: ledger.inclusion(entries // 2), 100),
            "consistency proof": seconds(lambda: ledger.consistency(entries // 2), 100),
            "check an inclusion proof": seconds(
                lambda: verify_inclusion(leaf, entries // 2, head, path), 100
            ),
            "append": seconds(lambda: ledger.append("edit.made", RUN), 50),
        }
    for name, taken in figures.items():
        print(f"{name:32} {1000 * taken:10.3f} ms")


if __name__ == "__main__":
    main()
