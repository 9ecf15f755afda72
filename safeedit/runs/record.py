"""`run.json`: what a run was, in a form that holds no text of the request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from safeedit.runs.plain import check_plain, is_plain_text

RECORD = "run.json"

Status = Literal["started", "editing", "probing", "finished", "failed", "interrupted", "rolled_back"]
Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE", "NO_BASELINE", "ERROR"]

FINAL: frozenset[Status] = frozenset({"finished", "rolled_back"})
"""Nothing may take the place of such a run; what happens to it later is appended."""
SEALED: frozenset[Status] = FINAL | {"failed", "interrupted"}
"""The files of such a run are listed in its record."""

# The input is left out of error messages: it may be the very text that must not be there.
_STRICT = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
_UUID = r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class FileRecord(BaseModel):
    """What a file of the run held when the run was sealed."""

    model_config = _STRICT

    sha256: _Digest
    size: int = Field(ge=0)


class LogRecord(BaseModel):
    """The log as it was before the entry that holds the digest of this record."""

    model_config = _STRICT

    length: int = Field(ge=0)
    head: _Digest


class EditorRecord(BaseModel):
    """The editor and every hyperparameter that it ran with."""

    model_config = _STRICT

    name: str
    params: dict[str, Any] = Field(default_factory=dict)


class ParentRecord(BaseModel):
    """The run whose model a run started from; where its folder is stands in the vault."""

    model_config = _STRICT

    id: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    """Its policy's id."""
    uuid: str = Field(pattern=_UUID)
    model: _Digest
    """The digest of the model that it left, memories included."""
    log: LogRecord
    """Its log as it was then: what it said by that time can no longer be rewritten unnoticed."""


class RunRecord(BaseModel):
    """The content of `run.json`."""

    model_config = _STRICT

    format: Literal["safeedit.run/1"] = "safeedit.run/1"
    id: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    """The policy's id."""
    uuid: str = Field(pattern=_UUID)
    """This run's own; the key of its vault is filed under it."""
    status: Status = "started"
    verdict: Verdict | None = None
    grade: Literal["G1", "G2", "G3", "G4", "G5"] | None = None
    """The evidence grade that was reached."""
    exit_code: int | None = None
    started: str
    finished: str | None = None
    model: str = "reference"
    """The model's public name (`model_name`); where it was loaded from is in the vault."""
    parent: ParentRecord | None = None
    """The run that this one stands on; None where it started from a model of its own."""
    position: int = Field(default=1, ge=1)
    """1 for such a run, 2 for one that stands on it, and so on: the order of the edits."""
    replaces: str | None = Field(default=None, pattern=_UUID)
    """The uuid of the run that this one takes the place of, with some of its facts taken out."""
    replaced_by: str | None = Field(default=None, pattern=_UUID)
    """The uuid of the run that took the place of this one."""
    device: str | None = None
    dtype: str | None = None
    seed: int | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    editor: EditorRecord | None = None
    digests: dict[str, str] = Field(default_factory=dict)
    """base_model, policy (a keyed commitment), patch, edited_model and others."""
    seconds: dict[str, float] = Field(default_factory=dict)
    """Wall time by stage."""
    peak_memory_bytes: int | None = None
    files: dict[str, FileRecord] = Field(default_factory=dict)
    """Every file of a sealed run but run.json and audit.jsonl, by its path inside the run."""
    log: LogRecord

    @model_validator(mode="after")
    def _no_free_text(self) -> RunRecord:
        check_plain(self.model_dump(exclude={"files"}), "run")
        return self

    def to_bytes(self) -> bytes:
        """The file's bytes: indented, so that a person can read it."""
        return json.dumps(self.model_dump(mode="json"), indent=2, allow_nan=False).encode() + b"\n"


def model_name(source: str | Path | None) -> str:
    """What a model is called in the open: the hub id, a folder's last name, `reference` for none.

    A folder's name that is no plain identifier becomes `local`; the full source belongs in the vault.
    """
    if source is None:
        return "reference"
    text = str(source)
    name = Path(text).resolve().name if Path(text).exists() or text.count("/") != 1 else text
    return name if is_plain_text(name) else "local"
