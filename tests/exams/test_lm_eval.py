"""Tasks of lm-eval: paired by document, on the model as it is, without the harness being installed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from families import tiny
from words import word_tokenizer

from safeedit.errors import ProbeError, UsageError
from safeedit.exams import DATASETS
from safeedit.exams.exam import Exam
from safeedit.probes.base import Context, Figures, View
from safeedit.probes.controls import Controls
from safeedit.tensors.digest import named_digests
from safeedit.triples.catalogue import builtin_catalogue

TEXT = "Zenobia Harkaway"
Marks = Callable[[str, int], dict[str, Any]]


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The calls of the package that are used, as its version 0.4 has them."""
    package: Any = ModuleType("lm_eval")
    package.called, package.marks = [], lambda task, doc: {"acc": 1.0}
    package.hashes = lambda task, doc: f"{task}{doc}"

    class HFLM:
        def __init__(self, pretrained: Any, tokenizer: Any, batch_size: int) -> None:
            self.model, self.tokenizer = pretrained, tokenizer
            tokenizer.padding_side = "left"
            pretrained.eval()

    class TaskManager:
        all_tasks = ("arc_easy", "hellaswag", "wikitext")

    def simple_evaluate(model: HFLM, tasks: list[str], limit: int, **how: Any) -> dict[str, Any]:
        package.called.append((model, tasks, limit, how))
        print("a bar", file=sys.stderr)
        return {
            "results": {},
            "samples": {
                task: [
                    {
                        "doc_id": doc,
                        "doc": {"question": TEXT},
                        "filter": "none",
                        "doc_hash": package.hashes(task, doc),
                        "metrics": list(package.marks(task, doc)),
                        **package.marks(task, doc),
                    }
                    for doc in reversed(range(4))
                ]
                for task in tasks
            },
        }

    package.simple_evaluate = simple_evaluate
    models: Any = ModuleType("lm_eval.models.huggingface")
    models.HFLM = HFLM
    tasks: Any = ModuleType("lm_eval.tasks")
    tasks.TaskManager = TaskManager
    for name, module in (
        ("lm_eval", package),
        ("lm_eval.models", ModuleType("lm_eval.models")),
        ("lm_eval.models.huggingface", models),
        ("lm_eval.tasks", tasks),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    return package


def exam(*tasks: str, **options: Any) -> Exam:
    return DATASETS.get("lm-eval")({"paths": list(tasks), **options})


def measured(probe: Exam, package: Any, before: Marks, after: Marks) -> Figures:
    plan = probe.plan(Context((), Controls((), ()), builtin_catalogue(), 3))
    assert plan.prompts() == ()
    view = View(tiny("llama"), word_tokenizer(), {})
    digests = named_digests(view.model)
    seen = []
    for marks in (before, after):
        package.marks = marks
        seen.append(probe.observe(plan, view))
    assert named_digests(view.model) == digests
    return probe.figures(plan, seen[0], seen[1], {})


def test_tasks_are_measured_before_and_after_and_paired(harness: Any, capsys: Any) -> None:
    tokenizer = word_tokenizer()
    tokenizer.padding_side = "right"

    def before(task: str, doc: int) -> dict[str, Any]:
        return {"acc": float(doc < 3), "acc_norm": True, "likelihood": (-3.0, 4)}

    def after(task: str, doc: int) -> dict[str, Any]:
        return {"acc": float(doc < 2), "acc_norm": doc != 0, "likelihood": (-3.0, 4)}

    probe = exam("hellaswag, arc_easy", n=4, num_fewshot=2)
    found = measured(probe, harness, before, after)
    assert (found.n, found.before, found.after) == (8, 1.0, 0.75)
    assert found.detail["hellaswag_acc_before"] == 0.75
    assert found.detail["arc_easy_acc_after"] == 0.5
    assert found.detail["hellaswag_acc_change_high95"] <= 0.0
    assert "hellaswag_likelihood_after" not in found.detail  # A pair of numbers is no mark.
    model, tasks, limit, how = harness.called[0]
    assert (tasks, limit, how["num_fewshot"], how["log_samples"]) == (["hellaswag", "arc_easy"], 4, 2, True)
    assert model.tokenizer is not tokenizer
    assert tokenizer.padding_side == "right"
    assert "a bar" not in capsys.readouterr().err
    plan = probe.plan(Context((), Controls((), ()), builtin_catalogue(), 3))
    assert '"tasks": ["hellaswag", "arc_easy"]' in json.dumps(plan.material())
    assert probe.settings()["tasks"] == ["hellaswag", "arc_easy"]


def test_other_documents_cannot_be_paired(harness: Any) -> None:
    probe, counts = exam("arc_easy"), iter(range(100))
    harness.hashes = lambda task, doc: next(counts)
    with pytest.raises(ProbeError, match="not asked the same"):
        measured(probe, harness, lambda t, d: {"acc": 1.0}, lambda t, d: {"acc": 1.0})


def test_a_task_without_marks_by_document_is_an_error(harness: Any) -> None:
    with pytest.raises(ProbeError, match="no mark for each document"):
        measured(exam("wikitext"), harness, lambda t, d: {"p": (-1.0, 2)}, lambda t, d: {"p": (-1.0, 2)})


def test_a_task_that_is_unknown_is_told_at_once(harness: Any) -> None:
    with pytest.raises(UsageError, match="no task 'helaswag'; did you mean 'hellaswag'"):
        exam("helaswag").read()
    assert harness.called == []


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(UsageError, match=r"pip install 'safeedit\[lm-eval\]'"):
        exam("hellaswag").read()
