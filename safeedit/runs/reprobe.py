"""The probes again: on the model that a run left, or on any model and a policy."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from safeedit.errors import ProbeError, UsageError
from safeedit.exams.own import own_data, placed, with_own_data
from safeedit.policy import Policy
from safeedit.policy.requested import requested_facts
from safeedit.policy.resolve import resolve_subjects
from safeedit.probes.report import ProbeReport
from safeedit.probes.runner import judge
from safeedit.probes.suite import Suite, load_suite
from safeedit.runs import lineage, stored
from safeedit.runs.earlier import earlier_of, edited_by
from safeedit.runs.folder import RunFolder
from safeedit.runs.guard import plainly
from safeedit.runs.loading import base_model, edit_of, finished_run
from safeedit.runs.measuring import Progress, measured, nothing_known, pack_for
from safeedit.runs.options import (
    ModelSource,
    Request,
    check_model,
    get_model,
    read_request,
    suite_source,
)
from safeedit.seeds import check_seed


def probe(
    run: str | os.PathLike[str] | None = None,
    *,
    model: ModelSource = None,
    policy: Policy | str | os.PathLike[str] | None = None,
    suite: str | os.PathLike[str] | None = None,
    base: ModelSource = None,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    datasets: Iterable[str] = (),
    progress: Progress | None = None,
) -> ProbeReport:
    """Measure again, and judge by the gates of the suite.

    Of a run, the base model and the edited one are both measured anew, with the probes that the run
    registered; that is noted in its log, and what it recorded stays. Another `suite` is allowed.

    Of any `model`, the facts of a policy are asked for. With `base` the two are compared; without
    it the model is its own baseline, so that whatever it says counts as a leak and what it does not
    say is NO_BASELINE.

    Args:
        run: a finished run.
        model: as for `apply`; the reference model by default. Not together with `run`.
        policy: with `model`: whose facts are asked for.
        suite: in place of the run's or the policy's.
        base: the model before the edit; for a run, where its base model is now.
        seed: with `model`: from 0 to 2³² - 1; the same one gives the same probes.
        device: see `load_model`.
        dtype: with `model`: see `load_model`.
        datasets: public data sets to measure too, each `NAME:PATH`.
        progress: called with (stage, done, in all).

    Raises:
        UsageError: neither a run nor a policy, or both; the run's vault cannot be read.
        ProbeError: suite, controls or catalogue are not those that the run registered.
        IntegrityError: the run's model cannot be put together as recorded.
    """
    tell = progress or (lambda stage, done, total: None)

    def work() -> ProbeReport:
        if run is not None:
            if policy is not None or model is not None:
                raise UsageError("give a run, or a model and a policy, not both")
            return _probe_run(finished_run(run), suite, base, device, tuple(datasets), tell)
        if policy is None:
            raise UsageError("give a run, or a model together with a policy that says what to ask for")
        check_seed(seed)
        request = read_request(policy)
        own = own_data(request.policy, request.folder, datasets)
        chosen = with_own_data(load_suite(suite_source(request, suite)), own)
        check_model(model, device, dtype)
        return _probe_model(request, chosen, model, base, (device, dtype), seed, tell)

    return plainly(lambda: "the measurement", work)


def _probe_run(
    folder: RunFolder,
    suite: str | os.PathLike[str] | None,
    base: ModelSource,
    device: str,
    datasets: tuple[str, ...],
    tell: Progress,
) -> ProbeReport:
    if stored.FACTS not in folder.vault.names():
        raise UsageError(f"{folder.path}: the model knew nothing of the request, so nothing can be probed")
    facts = stored.kept_facts(folder)
    policy, registered = stored.kept_request(folder)
    request = read_request(policy)
    kept = stored.kept_own(folder)
    own = replace(kept, datasets=tuple(dict.fromkeys((*kept.datasets, *placed(datasets)))))
    source = load_suite(registered if suite is None else suite)
    # More data sets are checked, as everything is, before a model is loaded.
    chosen, more = with_own_data(source, kept), with_own_data(source, own)
    loaded = base_model(folder, base, device)
    told = base if isinstance(base, str | Path) and lineage.is_run(base) else None
    earlier = edited_by(lineage.ancestors(folder, told))
    pack = pack_for(request, chosen, facts, loaded, folder.record.seed or 0, earlier)
    commitment = folder.redactor.commitment(pack.material())
    same = commitment == folder.record.digests[stored.PROBES]
    if not same and suite is None:
        raise ProbeError(
            f"{folder.path}: the probes are not those that the run registered: the suite, the controls or "
            "the relation catalogue have changed since, or a run below it can no longer be read; choose a "
            "suite to measure with it instead"
        )
    if own != kept:
        # Beside what was registered, which still holds, they make another measurement.
        pack, same = pack_for(request, more, facts, loaded, folder.record.seed or 0, earlier), False
        commitment = folder.redactor.commitment(pack.material())
    before = measured("baseline", pack, loaded, None, tell)
    patch = edit_of(folder)
    if patch is None:
        after = before
    else:
        with patch.applied(loaded.model, check="none"):
            after = measured("probes", pack, loaded, before, tell)
    report = judge(pack, before, after)
    folder.update(
        "probes.repeated",
        {
            stored.PROBES: commitment,
            "suite": folder.redactor.plain(chosen.name),
            "as_registered": same,
            "verdict": report.verdict,
            "grade": report.grade,
            "probes": {result.id: result.verdict for result in report.results},
        },
    )
    return report


def _probe_model(
    request: Request,
    suite: Suite,
    model: ModelSource,
    base: ModelSource,
    how: tuple[str, str],
    seed: int,
    tell: Progress,
) -> ProbeReport:
    first = model if base is None else base
    below = check_model(first, *(("auto", "auto") if isinstance(first, tuple) else how))
    loaded = get_model(first, *how)
    resolved = resolve_subjects(
        request.subjects, loaded.model, loaded.tokenizer, request.catalogue, tell, seed=seed
    )
    facts = requested_facts(request.facts, resolved)
    if not facts and not request.behaviours:
        return nothing_known(suite)
    pack = pack_for(request, suite, facts, loaded, seed, earlier_of(below))
    before = after = measured("baseline", pack, loaded, None, tell)
    if base is not None:
        loaded = get_model(model, *how)
        after = measured("probes", pack, loaded, before, tell)
    return judge(pack, before, after)
