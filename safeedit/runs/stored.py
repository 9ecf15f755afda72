"""What a run keeps of its request, encrypted in its vault, and how it is read again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safeedit.errors import IntegrityError, UsageError
from safeedit.policy import Policy
from safeedit.runs.folder import RunFolder
from safeedit.runs.keys import KeyMissingError
from safeedit.tensors.digest import model_digest
from safeedit.triples.facts import Fact

if TYPE_CHECKING:
    from safeedit.models.load import LoadedModel
    from safeedit.runs.options import ModelSource, Request

REQUEST, MODEL, FACTS, RESOLVED, TRANSCRIPTS = "request", "model", "facts", "resolved", "transcripts"
"""Names of entries in the run's vault."""
BASE, EDITED, PATCH, POLICY, PROBES = "base_model", "edited_model", "patch", "policy", "probes"
"""Names of digests in the run's record."""


def keep_request(run: RunFolder, request: Request, suite: str) -> str:
    """Put the request and where its suite is into the vault; a keyed commitment to the policy."""
    content = request.policy.model_dump(mode="json", exclude_none=True)
    run.vault.put(REQUEST, {"text": request.text, "policy": content, "suite": suite})
    return run.redactor.commitment(content)


def kept_request(run: RunFolder) -> tuple[Policy, str]:
    """The policy of a run, and the name or file of its suite."""
    kept = run.vault.get(REQUEST)
    return Policy.model_validate_json(json.dumps(kept["policy"])), kept["suite"]


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


def keep_model(run: RunFolder, loaded: LoadedModel) -> None:
    """Remember where the base model came from; a folder's name may tell of the request."""
    run.vault.put(
        MODEL,
        {"source": loaded.source, "revision": loaded.revision, "reloadable": loaded.reloadable},
    )


def base_model(run: RunFolder, base: ModelSource = None, device: str = "auto") -> LoadedModel:
    """The model that a run started from, loaded again and checked.

    Args:
        run: a run.
        base: where the model is now, or the model itself; by default where the run took it from.
        device: see `load_model`.

    Raises:
        UsageError: the run does not say where its model came from; give `base`.
        IntegrityError: the model is not the one that the run started from.
    """
    from safeedit.models.load import given_model, load_model

    if isinstance(base, tuple):
        loaded = given_model(*base)
    else:
        source, revision = (base, None) if base is not None else _source(run)
        loaded = load_model(source, device=device, dtype=run.record.dtype or "auto", revision=revision)
    if model_digest(loaded.model) != run.record.digests.get(BASE):
        raise IntegrityError(
            f"{run.path}: the model {loaded.source_name} is not the one that the run started from: its "
            "digest differs; give that one (base=)"
        )
    return loaded


def _source(run: RunFolder) -> tuple[str | Path | None, str | None]:
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
