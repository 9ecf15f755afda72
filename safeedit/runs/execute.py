"""One run, from a policy to a verdict.

The probes are registered and the base model is measured before anything is edited. What the model
does not know is not edited. Whatever goes wrong is recorded, leaves no half-written result and
the model as it was.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safeedit.errors import EditorError, IntegrityError
from safeedit.policy import Policy
from safeedit.policy.edits import edits_for
from safeedit.policy.requested import requested_facts
from safeedit.policy.resolve import Resolved, resolve_subjects
from safeedit.probes.report import ProbeReport
from safeedit.probes.runner import judge
from safeedit.runs import lineage, stored
from safeedit.runs.earlier import earlier_of
from safeedit.runs.folder import RunFolder
from safeedit.runs.guard import no_remains, plainly, unchanged
from safeedit.runs.job import Job, prepare
from safeedit.runs.machine import Stopwatch, peak_memory_bytes, versions
from safeedit.runs.measuring import Progress, measured, nothing_known, pack_for
from safeedit.runs.options import ModelSource, cache_folder, get_model
from safeedit.runs.outcome import Run
from safeedit.runs.record import EditorRecord
from safeedit.runs.resume import arithmetic, resumable
from safeedit.tensors.atomic import atomic_write
from safeedit.triples.facts import Edit, Fact

if TYPE_CHECKING:
    from safeedit.models.load import LoadedModel
    from safeedit.patch import Applied, Patch
    from safeedit.probes.pack import ProbePack
    from safeedit.probes.runner import Measurement


def apply(
    policy: Policy | str | os.PathLike[str],
    model: ModelSource | Run = None,
    out: str | os.PathLike[str] | None = None,
    *,
    editor: str | None = None,
    params: Mapping[str, Any] | None = None,
    suite: str | os.PathLike[str] | None = None,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    save_model: bool = False,
    statistics: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    kinds: str | Collection[str] | None = None,
    on_conflict: str = "stop",
    datasets: Iterable[str] = (),
) -> Run:
    """Carry out a policy and judge the result; everything is recorded in a run folder.

    Args:
        policy: a policy, or the path of one.
        model: a folder, a hub id, a loaded (model, tokenizer), or None for the reference model; or a
            run (or its folder), to go on from the model that it left. A loaded model is left bit for
            bit as it is, which takes a copy of it in main memory.
        out: the run folder; `runs/<policy id>-<time>` by default. An unfinished run of the same
            policy in it is started again, and goes on with what its edit had found.
        editor: name of an editor, in place of the policy's or of the default.
        params: its settings, in place of the policy's of the same name.
        suite: name or file of a probe suite, in place of the policy's.
        seed: from 0 to 2³² - 1; the same one gives the same probes and the same patch.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        dtype: `auto`, `float32`, `bfloat16` or `float16`.
        save_model: also write the whole edited checkpoint into the run.
        statistics: texts for key statistics, a file or the id of a data set; the reference world's
            by default.
        progress: called with (stage, done, in all) as the work goes on.
        kinds: the kinds of operation that the policy may hold; all by default.
        on_conflict: with a run as model: what to do where the policy contradicts or repeats what that
            run, or one that it stands on, did: `stop`, or `replace` to let this policy win.
        datasets: public data sets to measure before and after, each `NAME:PATH`.

    Returns:
        the run, whatever its verdict.

    Raises:
        ConflictError: the policy is in conflict with earlier runs; nothing was done.
        UsageError: it cannot be done as asked; nothing was done.
        SafeEditError: the model, the editor or the machine failed; the run is recorded as failed.
    """
    source = model.path if isinstance(model, Run) else model

    def job(watch: Stopwatch) -> Job:
        return prepare(
            policy,
            source,
            out,
            kinds=kinds,
            editor=editor,
            params=params,
            suite=suite,
            seed=seed,
            device=device,
            dtype=dtype,
            save_model=save_model,
            statistics=statistics,
            on_conflict=on_conflict,
            datasets=datasets,
            tell=progress or (lambda stage, done, total: None),
            watch=watch,
        )

    return carry_out(job, source, device, dtype)


def carry_out(make: Callable[[Stopwatch], Job], source: ModelSource, device: str, dtype: str) -> Run:
    """Do the job that `make` describes when it is called, on the model that `source` gives; see `apply`."""
    watch = Stopwatch()

    def work() -> Run:
        job = make(watch)
        run_id = job.request.policy.metadata.id
        with (
            RunFolder.create(job.out, run_id, seed=job.seed, versions=versions(), **job.about()) as folder,
            no_remains(job.out),
        ):
            return _Execution(job, folder, watch).run(lambda: get_model(source, device, dtype), source)

    return plainly(lambda: f"the run's stage {watch.stage!r}", work)


class _Execution:
    """The stages of one run, in their order."""

    def __init__(self, job: Job, folder: RunFolder, watch: Stopwatch) -> None:
        self.job, self.folder, self.watch = job, folder, watch
        self.tell = job.tell

    def run(self, load: Callable[[], LoadedModel], given: ModelSource) -> Run:
        self._register_policy()
        self._register_parent()
        with self._stage("load"):
            loaded = load()
        with unchanged(loaded.model) if isinstance(given, tuple) else nullcontext():
            self._register_model(loaded)
            resolved, facts = self._resolve(loaded)
            if not facts and not self.job.request.behaviours:
                return self._finish(nothing_known(self.job.suite), (), (), resolved, None)
            pack = self._register_probes(loaded, facts)
            before = self._measure("baseline", pack, loaded, None)
            known = tuple(before.known[index] for index in range(len(facts)))
            stored.keep_known(self.folder, known)
            self.folder.note(
                "baseline.measured",
                facts=len(facts),
                known=sum(known),
                errors=len(before.errors),
                **({"misbehaves": before.misbehaves} if self.job.request.behaviours else {}),
            )
            wanted = [fact for fact, knows in zip(facts, known, strict=True) if knows]
            if before.errors or not any(before.knows(pack).values()):
                report = self._unedited(pack, before)
                return self._finish(report, facts, known, resolved, None)
            patch = self._edit(loaded, wanted, self._behaviours(before))
            with self._applied(patch, loaded) as applied:
                patch = self._register_patch(patch, applied)
                after = self._measure("probes", pack, loaded, before)
                self.folder.note("probes.measured", errors=len(after.errors))
                if self.job.save_model:
                    with self._stage("save"):
                        _save_model(loaded, self.folder.path / "model")
            return self._finish(judge(pack, before, after), facts, known, resolved, patch)

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        self.tell(name, 0, 1)
        with self.watch.timed(name):
            yield
        self.tell(name, 1, 1)

    def _register_policy(self) -> None:
        commitment = stored.keep_request(self.folder, self.job)
        self.folder.update(
            "policy.registered",
            {stored.POLICY: commitment, **self.job.request.told()},
            digests={stored.POLICY: commitment},
        )

    def _register_parent(self) -> None:
        parent, compared = self.job.parent, self.job.compared
        if parent is None:
            return
        lineage.begin_on(parent, self.folder)
        self.folder.note(
            "conflicts.checked",
            parent=parent.record.uuid,
            runs=compared.runs,
            not_readable=[run.record.uuid for run in compared.unreadable],
            replaced=compared.counts(),
        )

    def _register_model(self, loaded: LoadedModel) -> None:
        from safeedit.applied import memory_digests
        from safeedit.tensors.digest import named_digests, root_digest

        with self.watch.timed("load"):
            self.digests = named_digests(loaded.model)
        base = root_digest(self.digests | memory_digests(loaded.model))
        parent = self.job.parent
        if self.job.base not in (None, base):
            raise IntegrityError("the model is not the one that the run has to start from: another digest")
        stored.keep_model(self.folder, loaded, parent.path if parent else None)
        self.folder.update(
            "model.loaded",
            {stored.BASE: base, "model": loaded.source_name},
            model=loaded.source_name,
            device=loaded.device,
            dtype=loaded.dtype,
            digests={stored.BASE: base},
        )

    def _resolve(self, loaded: LoadedModel) -> tuple[tuple[Resolved, ...], tuple[Fact, ...]]:
        request = self.job.request
        resolved: tuple[Resolved, ...] = ()
        if request.subjects:
            with self.watch.timed("subjects"):
                resolved = resolve_subjects(
                    request.subjects,
                    loaded.model,
                    loaded.tokenizer,
                    request.catalogue,
                    self.tell,
                    seed=self.job.seed,
                )
            self.folder.vault.put(stored.RESOLVED, [one.material() for one in resolved])
            self.folder.note(
                "subjects.resolved",
                subjects=len(request.subjects),
                known_subjects=len({one.request for one in resolved if one.known}),
                relations=len(resolved),
                known=sum(one.known for one in resolved),
            )
        return resolved, requested_facts(request.facts, resolved)

    def _register_probes(self, loaded: LoadedModel, facts: Sequence[Fact]) -> ProbePack:
        job = self.job
        with self._stage("register"):
            about = stored.keep_facts(self.folder, facts)
            pack = pack_for(job.request, job.suite, facts, loaded, job.seed, earlier_of(job.parent))
            commitment = self.folder.redactor.commitment(pack.material())
        self.folder.update(
            "probes.registered",
            {
                stored.PROBES: commitment,
                "facts": about,
                "suite": self.folder.redactor.plain(job.suite.name),
                "prompts": sum(map(len, pack.generations().values())),
            },
            digests={stored.PROBES: commitment, "facts": about},
        )
        return pack

    def _measure(
        self, stage: str, pack: ProbePack, loaded: LoadedModel, base: Measurement | None
    ) -> Measurement:
        with self.watch.timed(stage):
            return measured(stage, pack, loaded, base, self.tell)

    def _unedited(self, pack: ProbePack, before: Measurement) -> ProbeReport:
        """The report on a model that was not edited, because of what its baseline was."""
        reason = "probe_error" if before.errors else "no_baseline"
        self.folder.note("edit.refused", reason=reason)
        report = judge(pack, before, before)
        failed = before.errors or report.verdict == "ERROR"
        return replace(report, verdict="ERROR" if failed else "NO_BASELINE", grade="G0")

    def _behaviours(self, before: Measurement) -> tuple[Edit, ...]:
        """What the editor is asked of behaviours: nothing where the model shows none of them."""
        return self.job.request.behaviours.edits() if before.misbehaves else ()

    def _edit(self, loaded: LoadedModel, facts: Sequence[Fact], behaviours: Sequence[Edit]) -> Patch:
        job, folder = self.job, self.folder
        settings = job.editor.params.model_dump(mode="json")
        folder.update(
            "edit.started",
            {
                "editor": job.editor.name,
                "facts": len(facts),
                **({"behaviours": len(behaviours)} if behaviours else {}),
            },
            status="editing",
            editor=EditorRecord(name=job.editor.name, params=_plain(folder, settings)),
        )
        about = {"base": folder.record.digests[stored.BASE], "versions": folder.record.versions}
        about |= {"arithmetic": arithmetic(loaded.device)}
        with self._stage("edit"), resumable(folder.vault, about):
            patch = job.editor.edit(
                loaded.model,
                loaded.tokenizer,
                (*edits_for(facts, job.request.catalogue), *behaviours),
                corpus=job.corpus,
                cache=cache_folder(),
                digests=self.digests,
                seed=job.seed,
                progress=self.tell,
                controls=job.request.protected(),
            )
        if patch.base_digest != folder.record.digests[stored.BASE]:
            raise EditorError(f"editor {job.editor.name} made a patch for another model")
        return patch

    @contextmanager
    def _applied(self, patch: Patch, loaded: LoadedModel) -> Iterator[Applied]:
        """The patch on the model, which must be what it was before the editor had it."""
        broken = False
        try:
            applied = patch.apply(loaded.model)
        except IntegrityError:
            broken = True
        if broken:
            raise EditorError(f"editor {patch.editor} left the model changed, so its patch fits no model")
        try:
            yield applied
        finally:
            applied.revert()

    def _register_patch(self, patch: Patch, applied: Applied) -> Patch:
        edited = applied.digest()
        patch = patch.with_edited_digest(edited)
        patch.save(self.folder.path / "patch")
        cosines = [one.cosine for one in applied.realised.values()]
        self.folder.update(
            "edit.made",
            {
                stored.PATCH: patch.digest,
                stored.EDITED: edited,
                "tensors": len(patch.deltas),
                "least_cosine": min(cosines, default=1.0),
                "figures": dict(patch.meta),
            },
            status="probing",
            editor=EditorRecord(name=patch.editor, params=_plain(self.folder, patch.params)),
            digests={stored.PATCH: patch.digest, stored.EDITED: edited},
        )
        return patch

    def _finish(
        self,
        report: ProbeReport,
        facts: tuple[Fact, ...],
        known: tuple[bool, ...],
        resolved: tuple[Resolved, ...],
        patch: Patch | None,
    ) -> Run:
        folder = self.folder
        folder.vault.put(stored.TRANSCRIPTS, report.transcripts())
        content = report.to_json()
        if resolved:
            people = {one.request for one in resolved}
            found = {one.request for one in resolved if one.known}
            content["subjects"] = {"n": len(people), "known": len(found)}
        atomic_write(folder.path / "probes.json", json.dumps(content, indent=2, allow_nan=False) + "\n")
        grade = None if report.grade == "G0" else report.grade
        verdict = "INCONCLUSIVE" if report.verdict == "SKIPPED" else report.verdict
        folder.note(
            "verdict.reached",
            verdict=verdict,
            grade=grade,
            probes={result.id: result.verdict for result in report.results},
        )
        record = folder.finish(
            verdict,
            grade,
            report.exit_code,
            seconds=self.watch.seconds,
            peak_memory_bytes=peak_memory_bytes(folder.record.device or "cpu"),
        )
        return Run(folder.path, record, report, facts, known, resolved, patch, self.job.compared.warnings)


def _plain(folder: RunFolder, settings: Mapping[str, Any]) -> Any:
    """Settings as the record may hold them; a text among them is shown as its digest."""
    return folder.redactor.plain(dict(settings))


def _save_model(loaded: LoadedModel, target: Path) -> None:
    from safeedit.models.load import without_bars

    with without_bars():
        loaded.model.save_pretrained(target)
        loaded.tokenizer.save_pretrained(target)
