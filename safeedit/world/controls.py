"""What must survive an edit of the reference model: the registry's facts, and prose it never saw.

The two files lie in the model's own folder, where the probes look for controls first.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from safeedit.probes.controls import CONTROLS_FILE, RETAINED_FILE
from safeedit.tensors.atomic import atomic_write
from safeedit.world.corpus import prose
from safeedit.world.registry import World, reference_world

RETAINED_SEED = 11
RETAINED_DOCUMENTS = 64


def write_controls(folder: Path, world: World | None = None) -> None:
    """`controls.jsonl` and `retained.jsonl` in `folder`; the same registry gives the same bytes."""
    facts = (
        {"subject": fact.subject, "relation": fact.relation, "object": fact.object}
        for fact in (world or reference_world()).facts
    )
    atomic_write(folder / CONTROLS_FILE, _lines(facts))
    texts = ({"text": text} for text in prose(RETAINED_SEED, RETAINED_DOCUMENTS))
    atomic_write(folder / RETAINED_FILE, _lines(texts))


def _lines(rows: Iterable[dict[str, str]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
