"""What a run keeps of its request, encrypted in its vault, and how it is read again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safeedit.errors import UsageError
from safeedit.exams.own import OwnData
from safeedit.policy import Policy
from safeedit.runs.folder import RunFolder
from safeedit.runs.keys import KeyMissingError
from safeedit.triples.facts import Fact

if TYPE_CHECKING:
    from safeedit.models.load import LoadedModel
    from safeedit.runs.job import Job

REQUEST, MODEL, FACTS, KNOWN = "request", "model", "facts", "known"
RESOLVED, TRANSCRIPTS = "resolved", "transcripts"
"""Names of entries in the run's vault."""
BASE, EDITED, PATCH, POLICY, PROBES = "base_model", "edited_model", "patch", "policy", "probes"
"""Names of digests in the run's record."""


def keep_request(run: RunFolder, job: Job) -> str:
    """Put the request into the vault, with where suite and data are and the settings as they were given.

    Returns:
        a keyed commitment to the policy.
    """
    content = job.request.policy.model_dump(mode="json", exclude_none=True)
    kept: dict[str, Any] = {"text": job.request.text, "policy": content, "suite": job.suite_source}
    kept |= {"statistics": job.statistics, "own": job.own.to_json()}
    kept |= {"settings": job.editor.params.model_dump(mode="json")}
    run.vault.put(REQUEST, kept)
    return run.redactor.commitment(content)


def kept_request(run: RunFolder) -> tuple[Policy, str]:
    """The policy of a run, and the name or file of its suite."""
    kept = run.vault.get(REQUEST)
    return Policy.model_validate_json(json.dumps(kept["policy"])), kept["suite"]


def kept_statistics(run: RunFolder) -> str | None:
    """The texts that key statistics were taken from, as `apply` was told; None for the default."""
    found: str | None = run.vault.get(REQUEST).get("statistics")
    return found


def kept_settings(run: RunFolder) -> dict[str, Any] | None:
    """The editor's settings as policy and caller gave them; None where a run has not kept them."""
    found: dict[str, Any] | None = run.vault.get(REQUEST).get("settings")
    return found


def kept_own(run: RunFolder) -> OwnData:
    """Where the data lies that a run's request brought."""
    return OwnData.from_json(run.vault.get(REQUEST).get("own"))


def keep_facts(run: RunFolder, facts: Sequence[Fact]) -> str:
    """Put the facts that the run is about into the vault; a keyed commitment to them."""
    content = facts_as_json(facts)
    run.vault.put(FACTS, content)
    return run.redactor.commitment(content)


def kept_facts(run: RunFolder) -> tuple[Fact, ...]:
    """The facts that a run is about."""
    return tuple(_fact(content) for content in run.vault.get(FACTS))


def _fact(content: Mapping[str, Any]) -> Fact:
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in content.items()
    }
    return Fact(**fields)


def facts_as_json(facts: Sequence[Fact]) -> list[dict[str, Any]]:
    """Facts as JSON values, for the vault."""
    return [
        {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(fact).items()}
        for fact in facts
    ]


def keep_known(run: RunFolder, known: Sequence[bool]) -> None:
    """Remember which of the facts were edited, for later runs that stand on this one."""
    run.vault.put(KNOWN, list(known))


def edited_facts(run: RunFolder) -> tuple[Fact, ...]:
    """The facts that a run edited; all that it was about, where it does not say which."""
    facts = kept_facts(run)
    known = run.vault.get(KNOWN) if KNOWN in run.vault.names() else [True] * len(facts)
    return tuple(fact for fact, edited in zip(facts, known, strict=True) if edited)


def keep_model(run: RunFolder, loaded: LoadedModel, parent: Path | None) -> None:
    """Remember where the base model came from; a folder's name may tell of the request.

    Args:
        run: a new run.
        loaded: its base model.
        parent: the folder of the run that left it, if one did.
    """
    kept = {"source": loaded.source, "revision": loaded.revision, "reloadable": loaded.reloadable}
    run.vault.put(MODEL, kept if parent is None else {**kept, "parent": str(parent.resolve())})


def source_of(run: RunFolder) -> tuple[str | None, str | None]:
    """Where a run that stands on no other took its model from, and the revision.

    Raises:
        UsageError: the run does not say.
    """
    public = run.record.model
    try:
        kept = run.vault.get(MODEL)
    except KeyMissingError:
        # Without the vault the public name is all that is left; the digest tells whether it is the one.
        if public != "reference" and "/" not in public:
            raise UsageError(
                f"{run.path}: where its model came from was in the vault, whose key is gone; give it (base=)"
            ) from None
        return (None if public == "reference" else public), None
    if not kept["reloadable"]:
        raise UsageError(f"{run.path}: its model was made by the caller; give the base model (base=)")
    return kept["source"], kept["revision"]
