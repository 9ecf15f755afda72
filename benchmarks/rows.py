"""Rows of a benchmark: each made in a process of its own, kept in a JSON file, never made twice.

The process that starts the others imports no torch: on Linux a child's peak memory is never
less than what its parent held when it began.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent

Row = dict[str, Any]


class Rows:
    """Rows by key, in a file that is written anew after each of them."""

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self.by_key: dict[str, Row] = {}
        if file is not None and file.exists():
            self.by_key = json.loads(file.read_text("utf-8"))

    def made(self, key: str, spec: Mapping[str, Any], script: str, limit: float, again: bool = False) -> Row:
        """The row of `key`: from the file, or what `script` makes of `spec`.

        Args:
            key: what the row is found by.
            spec: what the script is given.
            script: a file of this folder that is called with the files of its spec and of its result.
            limit: seconds after which it is stopped.
            again: whether a row that failed is made anew.
        """
        known = self.by_key.get(key)
        if known is None or (again and "failed" in known):
            self.by_key[key] = {"spec": dict(spec)} | run_apart(script, spec, limit)
            self._save()
        return self.by_key[key]

    def keep(self, key: str, row: Row) -> None:
        """A row that was made in this process."""
        self.by_key[key] = row
        self._save()

    def _save(self) -> None:
        if self.file is None:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.file.with_name(f".{self.file.name}.{os.getpid()}")
        temporary.write_text(json.dumps(self.by_key, indent=1) + "\n", "utf-8")
        temporary.replace(self.file)


def run_apart(script: str, spec: Mapping[str, Any], limit: float) -> Row:
    """What a script wrote, and with it, if it did not come to its end, why: `failed`, in one line."""
    with tempfile.TemporaryDirectory() as folder:
        given, out = Path(folder) / "spec.json", Path(folder) / "result.json"
        given.write_text(json.dumps(dict(spec)), "utf-8")
        start = time.perf_counter()
        failed: Row = {}
        try:
            done = subprocess.run(
                [sys.executable, str(HERE / script), str(given), str(out)],
                capture_output=True,
                text=True,
                timeout=limit,
                check=False,
            )
            if done.returncode or not out.exists():
                failed = {"failed": reason(done.returncode, done.stderr)}
        except subprocess.TimeoutExpired:
            failed = {"failed": f"stopped after {limit:.0f} s"}
        wall = time.perf_counter() - start
        result: Row = json.loads(out.read_text("utf-8")) if out.exists() else {}
        return result | failed | {"wall": wall}


def reason(code: int, complaint: str) -> str:
    """In one line why a process failed."""
    if code < 0:
        return f"ended by signal {-code}" + (" (out of memory?)" if code == -9 else "")
    lines = [line for line in complaint.splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else f"ended with code {code}"


def settings_of(items: Sequence[str]) -> dict[str, Any]:
    """`name=value` as a dictionary; a value is JSON where it can be read so, else text."""
    found: dict[str, Any] = {}
    for item in items:
        name, _, text = item.partition("=")
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found


def settings_by_editor(items: Sequence[str], editors: Sequence[str]) -> dict[str, list[str]]:
    """`editor.name=value` as `name=value` by editor.

    Raises:
        SystemExit: an item is for no editor that was asked for.
    """
    found: dict[str, list[str]] = {editor: [] for editor in editors}
    for item in items:
        editor, dot, rest = item.partition(".")
        if editor not in found or not dot or "=" not in rest:
            raise SystemExit(f"--set {item}: give EDITOR.NAME=VALUE, for an editor of --editors")
        found[editor].append(rest)
    return found


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of a Markdown table."""
    yield "| " + " | ".join(head) + " |"
    yield "| " + " | ".join("---" for _ in head) + " |"
    for cells in body:
        yield "| " + " | ".join(cells) + " |"


def number(value: float | None, places: int = 3) -> str:
    """`.950`, `1.000`; a dash where there is none."""
    if value is None:
        return "–"
    text = f"{value:.{places}f}"
    return text.replace("0.", ".", 1) if value and abs(value) < 1 and "1." not in text else text
