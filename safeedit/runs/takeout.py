"""Taking some facts out of a run: the rest of its request carried out anew, in its place.

A patch does not come apart by facts. A value is searched on a model that has the other edits
already, the closed-form solution shares one covariance among all keys, and several passes add up in
the same factors; subtracting one fact's share would leave what it did to the others. So the rest is
solved again from what the vault holds of the request: on the same base, bit for bit, with the same
editor, seed and statistics (whose cache spares the long part), and with the settings as they were given
and not as the edit settled them, which depends on the fact; and it is measured as every run is. The
result is a run as if the fact had never been asked for. The old run is rolled back, and the two name
each other.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from safeedit.editors import EDITORS
from safeedit.errors import UsageError
from safeedit.policy import Policy
from safeedit.policy.compile import behaviours_of, facts_of
from safeedit.runs import lineage, stored
from safeedit.runs.execute import carry_out
from safeedit.runs.folder import RunFolder
from safeedit.runs.guard import plainly
from safeedit.runs.job import Job, prepare
from safeedit.runs.loading import edit_of, finished_run
from safeedit.runs.machine import Stopwatch
from safeedit.runs.measuring import Progress
from safeedit.runs.options import ModelSource
from safeedit.runs.outcome import Run
from safeedit.runs.rollback import rollback_all
from safeedit.triples.facts import Fact

if TYPE_CHECKING:
    from safeedit.patch import Patch

_DIGEST = re.compile(r"hmac:[0-9a-f]{12}")


def take_out(
    run_path: str | os.PathLike[str] | Run,
    facts: Collection[int | str],
    out: str | os.PathLike[str] | None = None,
    *,
    base: ModelSource = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> Run:
    """A new run of the same request without some of its facts; the old one is rolled back.

    Args:
        run_path: a finished run, or its folder.
        facts: each by its number among the run's facts, counted from 0 as `--json` lists them, or all
            of a subject by the digest that stands for it.
        out: the new run's folder.
        base: where the base model is now; by default where the run took it from.
        device: see `load_model`.
        progress: called with (stage, done, in all).

    Returns:
        the new run, whatever its verdict. If it fails with an exception, the old one stays as it was.

    Raises:
        UsageError: there is no such fact, none would be left, or other runs stand on this one.
        IntegrityError: the run does not verify, or its base is not the recorded one.
    """

    def plan() -> tuple[RunFolder, Policy, ModelSource]:
        old = finished_run(run_path)
        patch = edit_of(old)
        if patch is None:
            raise UsageError(f"{old.path}: the run has no edit, so there is nothing to take out of it")
        above = lineage.standing_on(old)
        if above:
            raise UsageError(
                f"{old.path}: other runs stand on this one, the newest first: "
                f"{', '.join(str(one.path) for one in above)}; roll those back before it"
            )
        known = stored.kept_facts(old)
        gone = _chosen(old, known, facts)
        request = stored.kept_request(old)[0]
        if len(gone) == len(known) and not behaviours_of(request):
            raise UsageError(f"{old.path}: no fact of the run would be left; roll back the run itself")
        parent = lineage.parent_of(old)
        source: ModelSource
        if base is not None:
            source = base
        elif old.record.parent is not None:
            lineage.ancestors(old)
            source = parent.path if parent is not None else None
        else:
            source = stored.source_of(old)[0]
        return old, _without(request, known, gone), source

    old, policy, source = plainly(lambda: "taking a fact out", plan)
    patch = edit_of(old)
    assert patch is not None
    params = _settings(old, patch)
    dtype = "auto" if isinstance(source, tuple) else old.record.dtype or "auto"

    def job(watch: Stopwatch) -> Job:
        made = prepare(
            policy,
            source,
            out,
            kinds=None,
            editor=patch.editor,
            params=params,
            suite=stored.kept_request(old)[1],
            seed=old.record.seed or 0,
            device=device,
            dtype=dtype,
            save_model=(old.path / "model").is_dir(),
            statistics=stored.kept_statistics(old),
            # What was decided for the old run holds for what is left of it.
            on_conflict="replace",
            own=stored.kept_own(old),
            tell=progress or (lambda stage, done, total: None),
            watch=watch,
        )
        return replace(made, replaces=old.record)

    new = carry_out(job, source, device, dtype)
    rollback_all(old.path, base=base, replaced_by=new.record.uuid)
    return new


def _chosen(old: RunFolder, facts: Sequence[Fact], asked: Collection[int | str]) -> set[int]:
    """The numbers of the facts that are asked for."""
    if not facts:
        raise UsageError(f"{old.path}: the run is about no fact; take it back as a whole")
    found: set[int] = set()
    digest = old.redactor.digest
    for one in asked:
        text = str(one)
        if _DIGEST.fullmatch(text):
            mine = {number for number, fact in enumerate(facts) if digest(fact.subject) == text}
        else:
            mine = {int(text)} & set(range(len(facts))) if text.isdecimal() else set()
        if not mine:
            raise UsageError(
                f"{old.path}: there is no such fact; give a number from 0 to {len(facts) - 1}, or the digest "
                "of a subject (hmac:…)"
            )
        found |= mine
    if not found:
        raise UsageError(f"{old.path}: no fact was named that shall be taken out")
    return found


def _settings(old: RunFolder, patch: Patch) -> dict[str, Any]:
    """The settings that a run was given.

    Where it has not kept them, they are those of the patch, but for what its edit has learnt of the facts;
    such a one is what the policy says, if it was given there, as every setting that no caller gives.
    """
    kept = stored.kept_settings(old)
    if kept is not None:
        return kept
    kind = EDITORS.get(patch.editor)
    learnt: frozenset[str] = getattr(kind, "learnt", frozenset())
    asked = kind.Params.model_fields.keys() - learnt
    return {name: value for name, value in patch.params.items() if name in asked}


def _without(policy: Policy, facts: Sequence[Fact], gone: Collection[int]) -> Policy:
    """The policy with the facts numbered `gone` left out.

    People are replaced by what was found of them; behaviours stay as they are.
    """
    content = policy.model_dump(mode="json", exclude_none=True)
    stated = len(facts_of(policy))
    number = 0
    operations = []
    for operation in content["operations"]:
        if operation["op"] == "detox":
            operations.append(operation)
        # What was found of people, which are all that is left then, is listed below.
        if "facts" not in operation:
            continue
        kept = []
        for fact in operation["facts"]:
            if number not in gone:
                kept.append(fact)
            number += 1
        if kept:
            operations.append({**operation, "facts": kept})
    found = [fact for at, fact in enumerate(facts) if at >= stated and at not in gone]
    if found:
        listed = [
            {"subject": f.subject, "relation": f.relation, "object": f.object, "aliases": list(f.aliases)}
            for f in found
        ]
        operations.append({"op": "erase", "facts": listed})
    return Policy.model_validate_json(json.dumps({**content, "operations": operations}))
