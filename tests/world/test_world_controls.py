"""The controls beside the reference model: made by the code, of what the model was taught and never read."""

from __future__ import annotations

import random
from pathlib import Path

from safeedit.models.load import reference_folder
from safeedit.probes.controls import CONTROLS_FILE, RETAINED_FILE, load_controls
from safeedit.probes.suite import load_suite
from safeedit.world.controls import write_controls
from safeedit.world.corpus import documents
from safeedit.world.registry import reference_world


def test_the_shipped_files_are_what_the_code_writes(tmp_path: Path) -> None:
    write_controls(tmp_path)
    for name in (CONTROLS_FILE, RETAINED_FILE):
        assert (tmp_path / name).read_bytes() == (reference_folder() / name).read_bytes(), name


def test_they_hold_the_facts_of_people_companies_and_places_and_of_no_placebo() -> None:
    world = reference_world()
    found = load_controls(reference_folder(), load_suite("smoke"))
    assert {(f.subject, f.relation, f.object) for f in found.facts} == {
        (f.subject, f.relation, f.object) for f in world.facts
    }
    assert not {f.subject for f in found.facts} & {person.name for person in world.placebos}
    assert {"phone", "headquarters", "country"} <= {f.relation for f in found.facts}


def test_the_prose_is_in_no_training_text_and_names_nobody() -> None:
    world = reference_world()
    texts = load_controls(reference_folder(), load_suite("smoke")).texts
    assert len(set(texts)) == len(texts) == 64
    shown = {text for seed in range(5) for text in documents(world, random.Random(seed))}
    assert not shown & set(texts)
    words = {word for person in world.people for word in person.name.split()}
    assert not words & {word for text in texts for word in text.replace(".", " ").split()}
