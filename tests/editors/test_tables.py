"""Distributions beyond the budget: made again as they were, from a file that nobody else can read."""

import os

import pytest
import torch
from families import tiny
from words import word_tokenizer

from safeedit.editors import goals, strangers, tables
from safeedit.editors.goals import Spots
from safeedit.editors.memit import Memit
from safeedit.editors.objectives import Aim, build_task
from safeedit.editors.statistics import Corpus
from safeedit.editors.tables import Table
from safeedit.errors import EditorError
from safeedit.models.hooks import frozen
from safeedit.models.segment import Segment
from safeedit.models.structure import find_decoder
from safeedit.triples.facts import Edit

PROMPTS = ("w5 {subject} w6 w7", "{subject} w8")
EDITS = [
    Edit("erase", f"w{20 + i} w31", "r", PROMPTS, None, f"w{40 + i} w{50 + i % 3}", keep=("{subject} w9",))
    for i in range(9)
]
CORPUS = Corpus([f"w{i % 60} w{(7 * i) % 60} w{(11 * i) % 60}" for i in range(100)], width=32)


def task(model, erasure="neutral"):
    with frozen(model):
        segment = Segment(find_decoder(model))
        return build_task(segment, word_tokenizer(), EDITS, Aim(erasure, ("", "w1 w2 . "), 0.1)).task


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
@pytest.mark.parametrize("budget", [0, 5 * 4 * 96, 40 * 4 * 96])
def test_what_is_beyond_the_budget_is_made_again(monkeypatch, family, budget):
    model = tiny(family)
    whole = task(model).table
    assert isinstance(whole, torch.Tensor)
    monkeypatch.setattr(tables, "BUDGET", budget)
    monkeypatch.setattr(tables, "AT_ONCE", 1000)
    table = task(model).table
    assert isinstance(table, Table)
    assert len(table) == len(whole) == 9 * 4 + 9
    order = torch.randperm(len(whole)).repeat(2)
    assert torch.allclose(table[order], whole[order], atol=1e-6)
    assert torch.equal(table[order] == 0, whole[order] == 0), "an object that was taken out stays out"


def test_the_states_are_in_the_types_of_the_model(monkeypatch):
    model = tiny("llama").to(torch.bfloat16)
    whole = task(model).table
    monkeypatch.setattr(tables, "BUDGET", 0)
    every = torch.arange(len(whole))
    assert torch.allclose(task(model).table[every], whole, atol=1e-3)


@pytest.mark.parametrize("held", [0, 2048])
def test_rows_lose_the_same_whether_or_not_their_distributions_are_held(monkeypatch, held):
    model = tiny("llama")
    usual = task(model)
    monkeypatch.setattr(tables, "BUDGET", 0)
    monkeypatch.setattr(goals, "HELD", held)
    found = task(model)
    some = usual.demands[7:30]
    assert found.demands[7:30] == some
    spots = Spots.of(some, usual.table)
    log_p = torch.randn(len(spots), 96).log_softmax(-1)
    others = Spots.of(some, found.table)
    assert isinstance(others.table, torch.Tensor if held else Table)
    assert torch.allclose(spots.losses(log_p), others.losses(log_p), atol=1e-5)


@pytest.mark.parametrize("held", [0, 2048])
def test_an_editor_needs_no_table_in_memory(monkeypatch, held):
    model = tiny("llama")
    settings = {"site": "prompt", "passes": 2, "steps": 3, "preserve": 1.0, "contexts": 0, "leak": 1e-4}

    def change():
        patch = Memit(**settings).edit(model, word_tokenizer(), EDITS, corpus=CORPUS)
        return torch.cat([delta.dense().flatten() for delta in patch.deltas.values()])

    usual = change()
    monkeypatch.setattr(tables, "BUDGET", 0)
    monkeypatch.setattr(goals, "HELD", held)
    assert float((change() - usual).norm() / usual.norm()) < 1e-3


def test_batches_of_names_make_no_difference(monkeypatch):
    whole = task(tiny("llama")).table
    monkeypatch.setattr(strangers, "KEYS", 2)
    monkeypatch.setattr(strangers, "AT_ONCE", 700)
    assert torch.allclose(task(tiny("llama")).table, whole, atol=1e-6)


def test_nothing_can_be_read_in_the_file_and_nothing_is_left_of_it(monkeypatch, tmp_path):
    monkeypatch.setattr(tables.tempfile, "tempdir", str(tmp_path))
    store = tables._Store((2, 3), torch.float32)
    states = torch.arange(60, dtype=torch.float32).view(10, 2, 3)
    store.append(states[:4])
    store.append(states[4:])
    assert torch.equal(store.read([9, 0, 4, 4]), states[[9, 0, 4, 4]])
    written = os.pread(store._file.fileno(), 1 << 20, 0)
    assert len(written) == 10 * 32
    assert all(state.numpy().tobytes()[:12] not in written for state in states)
    assert not list(tmp_path.iterdir()), "it has no name"


def test_a_full_disk_ends_the_edit(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tables, "BUDGET", 0)
    monkeypatch.setattr(tables.os, "pwrite", full)
    with pytest.raises(EditorError, match="TMPDIR"):
        task(tiny("llama"))
