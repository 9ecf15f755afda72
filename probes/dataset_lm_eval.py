"""Tasks of the LM Evaluation Harness, before and after."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field

from safeedit.errors import ProbeError, UsageError
from safeedit.exams.exam import Exam, ExamOptions, ExamPlan, Item, Seen
from safeedit.exams.paired import Key, Sample, Summary
from safeedit.exams.sources import Source
from safeedit.policy.problems import nearest
from safeedit.probes.base import Context, View

if TYPE_CHECKING:
    from safeedit.models.scoring import Scored

PACKAGE = "lm_eval"
PREFERRED = ("acc_norm", "acc", "exact_match", "f1")
"""Marks by which tasks are usually compared, the first that a task has."""
PLAIN_FILTER = "none"


class LmEvalOptions(ExamOptions):
    """Settings of the harness."""

    num_fewshot: int | None = Field(default=None, ge=0)
    """Examples before each question; without it, what each task says."""
    batch_size: int = Field(default=16, ge=1)
    """Rows of one forward pass."""


@dataclass(frozen=True, repr=False)
class HarnessPlan(ExamPlan):
    """The tasks; the harness itself decides what they ask, the same for both models."""

    tasks: tuple[str, ...] = ()
    version: str = ""

    def material(self) -> object:
        """As JSON values."""
        return {"tasks": list(self.tasks), "version": self.version, "seed": self.seed}


class LmEval(Exam):
    """Tasks of the LM Evaluation Harness: each task's own marks, paired by document.

    Metric: every mark that a task gives each document, by task (`hellaswag_acc_norm`); the first task's
    usual one stands as `before` and `after`. Both models must have been asked the same documents,
    by their hashes. Unit: document. Protocol: the harness's, its version in the plan. Source:
    github.com/EleutherAI/lm-evaluation-harness; the `lm-eval` extra installs it, and its tasks are
    downloaded by it.
    """

    id = "dataset.lm-eval"
    family = "utility"
    metric = "task_mark"
    unit = "document"
    headline = ()
    local = False
    options: LmEvalOptions
    options_model = LmEvalOptions

    @property
    def new_tokens(self) -> int:
        """The harness generates for itself."""
        return 0

    @property
    def protocol(self) -> str:
        """Whose it is."""
        return "lm-eval"

    @property
    def tasks(self) -> tuple[str, ...]:
        """Their names, as `--dataset lm-eval:TASK,TASK` or the suite's `paths` give them."""
        found = (task.strip() for path in self.options.paths for task in path.split(","))
        return tuple(dict.fromkeys(task for task in found if task))

    def settings(self) -> Mapping[str, Any]:
        """With the tasks, which decide."""
        return {**super().settings(), "tasks": list(self.tasks)}

    def sources(self) -> Sequence[Source]:
        """None: tasks are no files."""
        return ()

    def load(self, sources: Sequence[Source]) -> str:
        """The harness's version; nothing is downloaded yet.

        Raises:
            UsageError: it is not installed, or has no task of that name.
        """
        harness = _harness()
        known = frozenset(harness.TaskManager().all_tasks)
        for task in self.tasks:
            if task not in known:
                meant = nearest(task, known)
                hint = f"; did you mean {meant!r}?" if meant else "; `lm-eval ls tasks` lists them"
                raise UsageError(f"lm-eval has no task {task!r}{hint}")
        return harness.version

    def ask(self, loaded: str, context: Context) -> Iterable[Item]:
        """Nothing: the harness asks."""
        return ()

    def plan(self, context: Context) -> HarnessPlan:
        """The tasks."""
        version: str = self.read()
        return HarnessPlan((), context.seed, {}, tasks=self.tasks, version=version)

    def observe(self, plan: ExamPlan, view: View) -> Seen:
        """The marks that the harness gives each document."""
        from safeedit.models.hooks import frozen

        harness = _harness()
        # The harness sets a tokenizer's padding; the model's own stays as it is.
        tokenizer = copy.deepcopy(view.tokenizer)
        training = view.model.training
        try:
            with frozen(view.model), _silent():
                model = harness.HFLM(
                    pretrained=view.model, tokenizer=tokenizer, batch_size=self.options.batch_size
                )
                results = harness.simple_evaluate(
                    model=model,
                    tasks=list(self.tasks),
                    num_fewshot=self.options.num_fewshot,
                    limit=self.options.n,
                    log_samples=True,
                    bootstrap_iters=0,
                    random_seed=plan.seed,
                    numpy_random_seed=plan.seed,
                    torch_random_seed=plan.seed,
                    fewshot_random_seed=plan.seed,
                )
        finally:
            view.model.train(training)
        samples = (results or {}).get("samples") or {}
        if not samples:
            raise ProbeError("the harness gave no marks")
        return _seen(samples)

    def marks_of(self, item: Item, text: str | None, scored: Sequence[Scored]) -> Mapping[str, float]:
        """Nothing is asked here."""
        raise AssertionError("the harness marks for itself")

    def is_share(self, mark: str) -> bool:
        """A task's marks may be anything."""
        return mark in PREFERRED

    def summary(self, sample: Sample) -> Summary:
        """The mean of each mark of each task."""
        return {f"{task}_{mark}": sample.mean(task, mark) for task, mark in sample.marks}

    def main_figure(self, found: Summary) -> str | None:
        """The usual mark of the first task that has one, or else any mark."""
        names = [f"{task}_{mark}" for task in self.tasks for mark in PREFERRED]
        return next((name for name in names if name in found), next(iter(found), None))


@dataclass(frozen=True)
class _Harness:
    """The parts of the package that are used."""

    simple_evaluate: Any
    HFLM: Any
    TaskManager: Any
    version: str


def _harness() -> _Harness:
    try:
        from importlib.metadata import PackageNotFoundError, version

        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        try:
            number = version(PACKAGE)
        except PackageNotFoundError:
            number = "unknown"
        return _Harness(simple_evaluate, HFLM, TaskManager, number)
    except ImportError:
        pass
    raise UsageError("tasks of lm-eval need that package (pip install 'safeedit[lm-eval]')")


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """The harness draws bars and logs; what a run shows is the caller's to say."""
    logger = logging.getLogger(PACKAGE)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def _seen(samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> Seen:
    """Every number among a document's marks, and a hash of which documents there were."""
    marks: dict[Key, dict[int, float]] = {}
    asked = hashlib.sha256()
    for task, documents in sorted(samples.items()):
        for one in documents:
            unit, filtered = int(one["doc_id"]), str(one.get("filter", PLAIN_FILTER))
            asked.update(
                f"{task}|{unit}|{filtered}|{one.get('doc_hash')}|{one.get('prompt_hash')}\n".encode()
            )
            for mark in one["metrics"]:
                value = one[mark]
                if isinstance(value, bool | int | float):
                    name = mark if filtered == PLAIN_FILTER else f"{mark}_{filtered}"
                    marks.setdefault((task, name), {})[unit] = float(value)
    if not marks:
        raise ProbeError("the tasks give no mark for each document, so nothing can be paired")
    return Seen(marks, asked=asked.hexdigest())
