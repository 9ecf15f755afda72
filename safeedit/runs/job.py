"""A run as it was asked for: everything chosen and checked that can be before anything is written."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safeedit.editors.base import Editor
from safeedit.errors import UsageError
from safeedit.exams.own import OwnData, own_data, with_own_data
from safeedit.policy import Policy
from safeedit.probes.suite import Suite, load_suite
from safeedit.runs import lineage, stored
from safeedit.runs.conflicts import Compared, compare
from safeedit.runs.corpus import chosen_corpus
from safeedit.runs.folder import RunFolder
from safeedit.runs.machine import Stopwatch
from safeedit.runs.measuring import Progress
from safeedit.runs.options import (
    ModelSource,
    Request,
    check_model,
    chosen_editor,
    default_out,
    read_request,
    suite_source,
)
from safeedit.runs.record import RunRecord, model_name
from safeedit.runs.targets import check_folder
from safeedit.seeds import check_seed

if TYPE_CHECKING:
    from safeedit.editors.statistics import Corpus, OwnText


@dataclass(frozen=True, repr=False)
class Job:
    """One run to be done."""

    request: Request
    out: Path
    """Where its folder shall be."""
    model: str
    """The public name of the model that it starts from."""
    editor: Editor
    suite: Suite
    suite_source: str
    corpus: Corpus | OwnText | None
    seed: int
    save_model: bool
    parent: RunFolder | None
    """The run whose model it starts from."""
    compared: Compared
    """What of the request that run, and those below it, have settled already."""
    tell: Progress
    own: OwnData = field(default_factory=OwnData)
    """Where the data lies that the request brings."""
    statistics: str | None = None
    """Where `corpus` is from, as the caller said it."""
    replaces: RunRecord | None = None
    """The run that it takes the place of."""

    def __repr__(self) -> str:
        return f"<Job {self.request.policy.metadata.id}>"

    def about(self) -> dict[str, Any]:
        """What the record says of the run from its start."""
        found: dict[str, Any] = {"model": self.model}
        if self.parent is not None:
            found["parent"] = lineage.parent_record(self.parent)
            found["position"] = self.parent.record.position + 1
        if self.replaces is not None:
            found["replaces"] = self.replaces.uuid
        return found

    @property
    def base(self) -> str | None:
        """The digest that the model must have, where that is known beforehand."""
        if self.parent is not None:
            return lineage.left_by(self.parent.record)
        return self.replaces.digests[stored.BASE] if self.replaces is not None else None


def prepare(
    policy: Policy | str | os.PathLike[str],
    source: ModelSource,
    out: str | os.PathLike[str] | None,
    *,
    kinds: str | Collection[str] | None,
    editor: str | None,
    params: Mapping[str, Any] | None,
    suite: str | os.PathLike[str] | None,
    seed: int,
    device: str,
    dtype: str,
    save_model: bool,
    statistics: str | os.PathLike[str] | None,
    on_conflict: str,
    datasets: Iterable[str] = (),
    own: OwnData | None = None,
    tell: Progress,
    watch: Stopwatch,
) -> Job:
    """The job that the arguments of `apply` describe; nothing is loaded and nothing written.

    `own`, where it is given, says where the request's data lies, in place of policy and `datasets`.

    Raises:
        UsageError: it cannot be done as asked.
        IntegrityError: the run whose model shall be changed, or one below it, does not verify.
    """
    check_seed(seed)
    with watch.timed("policy"):
        request = read_request(policy, kinds)
    chosen = chosen_editor(request, editor, params)
    probes = suite_source(request, suite)
    own = own_data(request.policy, request.folder, datasets) if own is None else own
    loaded_suite = with_own_data(load_suite(probes), own)
    if save_model and chosen.beside_weights:
        raise UsageError(
            f"editor {chosen.name} keeps what it learns beside the weights, which no checkpoint can "
            "hold; leave --save-model out and load the run itself"
        )
    parent = check_model(source, device, dtype)
    path = Path(out) if out is not None else default_out(request.policy)
    public = "local" if isinstance(source, tuple) else model_name(source)
    if parent is not None:
        public = parent.record.model
        lineage.check_place(path, parent)
        if save_model and lineage.beside_weights(parent):
            raise UsageError(
                f"{parent.path}: its model has memories beside the weights, which no checkpoint can "
                "hold; leave --save-model out and load the run itself"
            )
    check_folder(path, run=True)
    with watch.timed("conflicts"):
        compared = compare(request, parent, on_conflict)
    return Job(
        request=request,
        out=path,
        model=public,
        editor=chosen,
        suite=loaded_suite,
        suite_source=probes,
        corpus=chosen_corpus(statistics, chosen),
        seed=seed,
        save_model=save_model,
        parent=parent,
        compared=compared,
        tell=tell,
        own=own,
        statistics=os.fspath(statistics) if statistics is not None else None,
    )
