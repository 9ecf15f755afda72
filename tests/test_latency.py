"""The script that times side memories measures what it says, on runs that only pretend to take time."""

import importlib
import json
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from families import tiny
from words import word_tokenizer

from safeedit.memories import Codebook
from safeedit.models.structure import find_decoder
from safeedit.models.tokens import pad
from safeedit.patch import Patch

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))
latency = importlib.import_module("latency")


def patch_of(model):
    projection = find_decoder(model).projections[1]
    parts = {
        "keys": torch.full((3, projection.inner), 50.0),
        "values": torch.zeros(3, projection.outer),
        "radii": torch.ones(3),
    }
    return Patch.of(model, {}, editor="grace", memories={projection.name: Codebook(parts)})


def test_pairs_alternate_and_one_of_each_has_the_edit(monkeypatch):
    now, on, order = [0.0], [False], []

    def once():
        order.append(on[0])
        now[0] += (1.1 if on[0] else 1.0) * (50.0 if len(order) in (4, 5) else 1.0)

    @contextmanager
    def edited():
        on[0] = True
        yield
        on[0] = False
        now[0] += 1000.0

    monkeypatch.setitem(latency.CLOCKS, "wall", lambda: now[0])
    pairs = latency.timed(once, edited, 6, "wall")
    assert order[2:6] == [False, True, True, False]
    assert len(pairs) == sum(order) - 1 == 6
    timing = latency.Timing(pairs)
    assert timing.quartiles()[1] == pytest.approx(0.1)
    assert timing.base() == pytest.approx(1.0)


def test_a_row_has_the_time_of_every_pass_but_the_first_and_leaves_no_hook(monkeypatch):
    model, tokenizer = tiny("llama"), word_tokenizer()
    batch = pad([[4, 5, 6], [7]], 0, "left")
    spec = {"tokens": 5, "clock": "wall", "runs": 2}
    timing = latency.measured(model, patch_of(model), batch, tokenizer, spec)
    assert (len(timing.pairs), len(timing.hook)) == (2, 4)
    assert all(0 < t < 5 for pair in timing.pairs for t in pair)
    assert all(0 < t < 5 for t in timing.hook)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_patches_are_made_once_and_rows_are_kept(tmp_path, monkeypatch, capsys):
    made = []

    class Counted(latency.EDITORS.get("grace")):
        def edit(self, *args, **kwargs):
            made.append(len(args[2]))
            return super().edit(*args, **kwargs)

    monkeypatch.setattr(latency, "EDITORS", type("Found", (), {"get": staticmethod(lambda _: Counted)}))
    args = ["--editors", "grace", "--t", "2", "--runs", "1", "--tokens", "3", "--cache", str(tmp_path / "c")]
    args += ["--json", str(tmp_path / "rows.json"), "--set", "grace.steps=2"]
    latency.main(args)
    first = capsys.readouterr().out
    assert made == [2]
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row["prompts"] for row in rows.values()] == ["half", "others"]
    assert all(row["keys"] >= 2 and len(row["hook"]) == 2 for row in rows.values())
    latency.main(args)
    assert capsys.readouterr().out == first
    latency.main([*args[:-6], *args[-2:], "--clock", "wall", "--cache", str(tmp_path / "c")])
    assert made == [2]
    assert "| grace | 2 |" in first
    [folder] = [f for f in (tmp_path / "c").iterdir() if f.is_dir()]
    latency.main(["--patch", str(folder), "--t", "2", "--runs", "1", "--tokens", "3"])
    assert folder.name in capsys.readouterr().out
