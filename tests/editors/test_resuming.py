"""An edit by any editor that is cut short goes on where it was, and ends bit for bit as one in one go."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from families import tiny
from weights import state, untouched
from words import word_tokenizer

from safeedit.behaviours import Behaviour
from safeedit.editors import EDITORS
from safeedit.editors.base import Editor, Job, Made
from safeedit.editors.base import Params as BaseParams
from safeedit.editors.direction import Outlook
from safeedit.editors.statistics import Corpus
from safeedit.patch import Patch
from safeedit.runs import resume
from safeedit.runs.vault import Vault
from safeedit.tensors.digest import model_digest
from safeedit.triples.facts import Edit

CORPUS = Corpus([f"w{i % 60} w{(7 * i) % 60} w{(11 * i) % 60} w{(3 * i) % 60}" for i in range(200)], width=32)
PROMPTS = ("w5 {subject} w6 w7", "{subject} w8", "w9 {subject} w6")
STARTS = (20, 24, 30, 33)
EDITS = {
    "insert": [Edit("insert", f"w{i} w{i + 1}", "r", PROMPTS, f"w{i + 20}", None) for i in STARTS],
    "erase": [Edit("erase", f"w{i} w{i + 1}", "r", PROMPTS, None, f"w{i + 20}") for i in STARTS],
    "detox": [Behaviour(f"w5 w{i} w6 w7", f"w{i + 20}", f"w{i + 22} w{i + 23}").edit() for i in STARTS],
}
_CLOSED: dict[str, Any] = {"passes": 2, "steps": 3, "anchors": 1, "batch_rows": 8}
_WISE: dict[str, Any] = {"contexts": 2, "text_tokens": 200}
# Taken when tests are collected, for others register editors of their own.
SHIPPED = frozenset(EDITORS.names())
CASES: list[tuple[str, dict[str, Any]]] = [
    ("memit", _CLOSED),
    ("pmet", _CLOSED),
    ("alphaedit", _CLOSED),
    ("emmet", _CLOSED),
    ("rome", _CLOSED | {"passes": 1, "anchors": 0}),
    ("r-rome", _CLOSED | {"passes": 1, "anchors": 0}),
    ("ultraedit", {"turns": 12, "stop": 0.001}),
    ("ultraedit", {"turns": 1, "turn_rows": 1, "contexts": 0}),
    ("grace", {"steps": 4, "batch_rows": 4}),
    ("wise", _WISE | {"steps": 12, "site": "prompt", "group": 3, "stop": 1.0, "rate": 0.5}),
    ("wise", _WISE | {"preset": "paper", "steps": 3, "group": 2, "replay": True}),
    ("ft-l", {"epochs": 4}),
    ("ft-m", {"epochs": 4, "batch_rows": 4}),
    ("lora", {"epochs": 4, "rank": 4}),
    ("dinm", {"steps": 6, "batch_rows": 2, "distance": "relative", "text_tokens": 200}),
    ("direction", {"text_tokens": 200}),
    ("dinm", {"preset": "paper", "steps": 3, "text_tokens": 200}),
    ("npo", {"epochs": 4, "batch_rows": 4, "leak": 1e-9}),
    (
        "prune",
        {"steps": 12, "rate": 10.0, "random_masks": 1, "leak": 0.0, "check_every": 3, "text_tokens": 400},
    ),
]
"""Editors with settings with which there is something to keep: several batches, turns, groups, steps."""
ROUNDED = [i for i, (name, _) in enumerate(CASES) if name in ("memit", "grace", "lora", "prune")]
"""Those of them that are tried in bfloat16, too: one for each way of keeping things."""
BATCH = 6
"""Steps that may be lost: those of one batch."""
MODELS = {"float32": ("llama", torch.float32), "bfloat16": ("gpt2", torch.bfloat16)}


@pytest.fixture
def vault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Vault:
    """A run's vault; everything is written into it as soon as it is found."""
    monkeypatch.setenv("SAFEEDIT_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(resume, "EVERY", 0.0)
    monkeypatch.setattr(resume, "REST", 0.0)
    return Vault.create(tmp_path, "00000000-0000-4000-8000-000000000000")


class Steps:
    """Counts the steps of whatever is searched or trained: gradients that are asked for."""

    def __init__(self) -> None:
        self.count, self.last = 0, 10**9

    def taken(self, work: Any) -> Any:
        """`work`, but that it ends at the last step."""

        def counted(*args: Any, **kwargs: Any) -> Any:
            if self.count == self.last:
                raise KeyboardInterrupt
            self.count += 1
            return work(*args, **kwargs)

        return counted


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    found = Steps()
    for name in ("grad", "backward"):
        monkeypatch.setattr(torch.autograd, name, found.taken(getattr(torch.autograd, name)))
    # What is chosen without a gradient: a look at each choice.
    monkeypatch.setattr(Outlook, "look", found.taken(Outlook.look))
    return found


class Case:
    """One edit that may be done over and over."""

    def __init__(self, name: str, params: dict[str, Any], kind: str, steps: Steps) -> None:
        family, dtype = MODELS[kind]
        self.name, self.params, self.steps = name, params, steps
        self.model = tiny(family).to(dtype)
        self.before = state(self.model)
        self.edits = next(EDITS[op] for op in EDITS if op in EDITORS.get(name).operations)

    def done(self, stop: int = 10**9, edits: list[Edit] | None = None, seed: int = 0, **params: Any) -> Patch:
        """The patch, unless it is interrupted after `stop` steps; the model is left in any case."""
        self.steps.count, self.steps.last = 0, stop
        editor = EDITORS.get(self.name)(**{**self.params, **params})
        try:
            return editor.edit(self.model, word_tokenizer(), edits or self.edits, corpus=CORPUS, seed=seed)
        finally:
            assert untouched(self.model, self.before)

    def cut_short(self, vault: Vault, stop: int, about: dict[str, object] | None = None) -> None:
        with pytest.raises(KeyboardInterrupt), resume.resumable(vault, about or {}):
            self.done(stop)


def left(vault: Vault) -> list[str]:
    return [name for name in vault.names() if name.startswith(resume.PREFIX)]


def test_every_editor_is_among_the_cases() -> None:
    assert {name for name, _ in CASES} == SHIPPED


@pytest.mark.parametrize(
    ("number", "kind"), [(i, "float32") for i in range(len(CASES))] + [(i, "bfloat16") for i in ROUNDED]
)
def test_an_edit_that_is_cut_short_goes_on_bit_for_bit(
    number: int, kind: str, vault: Vault, steps: Steps
) -> None:
    case = Case(*CASES[number], kind, steps)
    whole = case.done().digest
    total = steps.count
    assert total >= 8, "there is something to be cut short"
    # Twice, so that what was found before the first time must last until the second.
    third = total // 3 + 1
    case.cut_short(vault, third)
    assert left(vault)
    case.cut_short(vault, third)
    with resume.resumable(vault, {}):
        assert case.done().digest == whole
    assert steps.count <= total - 2 * third + BATCH, "what was done before is not done again"
    assert not left(vault), "the patch says what was found"


@pytest.mark.parametrize("name", ["memit", "grace", "ft-m"])
def test_what_has_changed_is_done_again(name: str, vault: Vault, steps: Steps) -> None:
    case = Case(name, next(params for one, params in CASES if one == name), "float32", steps)
    about: dict[str, object] = {"base": model_digest(case.model)}
    case.done()
    total, stop = steps.count, 2 * steps.count // 3
    edits = [*case.edits[:3], replace(case.edits[3], target="w44")]
    for change in ({"rate": 0.11}, {"edits": edits}):
        expected = case.done(**change).digest
        case.cut_short(vault, stop, about)
        with resume.resumable(vault, about):
            assert case.done(**change).digest == expected
    case.cut_short(vault, stop, about)
    with resume.resumable(vault, {**about, "versions": "others"}):
        case.done()
    assert steps.count == total
    case.cut_short(vault, stop, about)
    with torch.no_grad():
        case.model.model.layers[3].mlp.down_proj.weight[0, 0] += 0.5
    case.before = state(case.model)
    expected, total = case.done().digest, steps.count
    with resume.resumable(vault, {"base": model_digest(case.model)}):
        assert case.done().digest == expected
    assert steps.count == total


class Told(Editor):
    """Tells what a journal would find its work by."""

    name = "told"
    summary, paper, operations = "tells", "0000.00000", frozenset({"insert"})

    class Params(BaseParams):
        """One setting."""

        size: int = 1

    about: str

    def _edit(self, job: Job) -> Made:
        self.about = job.notes.about
        return Made()


def test_the_digest_of_an_edit_tells_all_that_it_is_given(vault: Vault) -> None:
    model, tokenizer = tiny("llama"), word_tokenizer()
    usual: dict[str, Any] = {"edits": EDITS["insert"], "corpus": CORPUS, "controls": ["w1 w2"], "seed": 3}

    def about(given: Any = model, by: Any = tokenizer, size: int = 1, **options: Any) -> str:
        editor = Told(size=size)
        with resume.resumable(vault, {}):
            editor.edit(given, by, **{**usual, **options})
        return editor.about

    other = tiny("llama")
    other.config.rope_theta = 5000.0
    words = deepcopy(tokenizer)
    words.add_tokens(["w90"])
    lame = replace(EDITS["insert"][0], keep=("{subject} w1",))
    found = [
        about(),
        about(tiny("llama", 1)),
        about(other),
        about(by=words),
        about(size=2),
        about(seed=4),
        about(controls=["w1 w3"]),
        about(corpus=replace(CORPUS, width=16)),
        about(corpus=None),
        about(basis="0" * 64),
        about(edits=[lame, *EDITS["insert"][1:]]),
        about(edits=EDITS["insert"][::-1]),
    ]
    assert len(set(found)) == len(found)
    tokenizer(["w1", "w1 w2"], padding=True, truncation=True, max_length=2)
    assert about() == found[0], "how a call pads is no part of what an edit is"
    editor = Told()
    editor.edit(model, tokenizer, **usual)
    assert not editor.about, "nothing is digested where no journal is kept"
