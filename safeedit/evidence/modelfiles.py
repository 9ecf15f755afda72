"""Signing a folder of model files: every file by name, size and digest, in one DSSE envelope beside them.

A signature over digests alone would not see two files exchange their names, and one that overlooks files
which nobody signed lets code ride along. Here each file is a subject by its name, what was not signed is an
error, and so is a link.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from safeedit.canonical import canonical_json
from safeedit.errors import IntegrityError, UsageError
from safeedit.evidence.dsse import IN_TOTO, Envelope, sign, strict_json
from safeedit.evidence.keyring import Keyring
from safeedit.evidence.predicates import Count, Digest, Part, Time
from safeedit.evidence.signing import SigningKey
from safeedit.evidence.statements import STATEMENT_TYPE
from safeedit.runs.audit import Clock, iso_time, utc_now
from safeedit.tensors.atomic import atomic_write
from safeedit.tensors.digest import file_digest

SIGNATURE = "safeedit-model.dsse.json"
"""The file in the folder that holds the envelope; the only one that is not itself signed."""
MODEL_FILES_TYPE = "urn:safeedit:predicate:model-files:v1"
_SHOWN = 5


class FileEntry(Part):
    """One file."""

    name: Annotated[str, Field(min_length=1, max_length=1000)]
    size: Count
    sha256: Digest


class ModelFiles(Part):
    """The predicate: all files of the folder, by name."""

    format: Literal["safeedit.model-files/1"] = "safeedit.model-files/1"
    at: Time
    files: Annotated[tuple[FileEntry, ...], Field(min_length=1)]
    root: Digest
    """SHA-256 of the canonical JSON of all (name, size, digest): one digest for the folder."""


@dataclass(frozen=True)
class VerifiedModel:
    """A folder that is as it was signed."""

    keys: frozenset[str]
    """The ids of the trusted keys that signed it."""
    root: str
    files: int
    at: str


def sign_model(folder: Path, key: SigningKey, clock: Clock = utc_now) -> str:
    """Sign all that is in `folder`; a folder that was signed as it is gets one more signature.

    Returns:
        the root digest.

    Raises:
        UsageError: the folder is none, or is empty.
        IntegrityError: it has links, or was signed as something else: remove that signature first.
    """
    files = _files(folder)
    if not files:
        raise UsageError(f"{folder} holds no files to sign; give the folder of a model")
    target = folder / SIGNATURE
    if target.exists():
        envelope = Envelope.from_json(target.read_bytes(), SIGNATURE)
        signed = _read(envelope)
        if signed.files != files:
            raise IntegrityError(
                f"{folder} was signed with other files in it; to sign it as it is, remove {SIGNATURE} first"
            )
        envelope, root = envelope.signed_also_by(key), signed.root
    else:
        root = _root(files)
        envelope = sign(_statement(files, root, clock()), IN_TOTO, [key])
    atomic_write(target, json.dumps(envelope.to_json(), indent=2) + "\n")
    return root


def verify_model(folder: Path, trusted: Keyring, clock: Clock = utc_now) -> VerifiedModel:
    """That `folder` holds exactly the files that a trusted key signed.

    Args:
        folder: the folder of a model.
        trusted: whose signatures count, in whatever role.
        clock: gives the time; what is signed later than that was not signed yet.

    Raises:
        UsageError: it was not signed.
        IntegrityError: it is not what was signed, or no trusted key signed it; the message names files.
    """
    target = folder / SIGNATURE
    if not target.is_file():
        raise UsageError(f"{folder} has no {SIGNATURE}; `safeedit model sign` makes one")
    envelope = Envelope.from_json(target.read_bytes(), SIGNATURE)
    signed = _read(envelope)
    moment = datetime.fromisoformat(signed.at)
    counting = [one.key for one in trusted.keys if one.counts_at(moment)]
    keys = envelope.verified_by(counting)
    if not keys:
        raise IntegrityError(f"{folder}: no trusted key signed it; safeedit keys trust NAME FILE.pub")
    found = {one.name: one for one in _files(folder)}
    wanted = {one.name: one for one in signed.files}
    wrong = [f"{name} is gone" for name in wanted if name not in found]
    wrong += [f"{name} was added" for name in found if name not in wanted]
    wrong += [f"{name} was changed" for name in wanted if name in found and found[name] != wanted[name]]
    if wrong:
        more = f" (and {len(wrong) - _SHOWN} more)" if len(wrong) > _SHOWN else ""
        raise IntegrityError(f"{folder} is not as it was signed: {', '.join(wrong[:_SHOWN])}{more}")
    return VerifiedModel(keys, signed.root, len(found), signed.at)


def _statement(files: tuple[FileEntry, ...], root: str, now: datetime) -> bytes:
    predicate = ModelFiles(at=iso_time(now), files=files, root=root)
    return _as_statement(predicate)


def _as_statement(predicate: ModelFiles) -> bytes:
    content = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": one.name, "digest": {"sha256": one.sha256}} for one in predicate.files],
        "predicateType": MODEL_FILES_TYPE,
        "predicate": predicate.model_dump(mode="json", by_alias=True),
    }
    return canonical_json(content)


def _read(envelope: Envelope) -> ModelFiles:
    statement = strict_json(envelope.payload, SIGNATURE)
    try:
        if envelope.payload_type != IN_TOTO:
            raise ValueError
        predicate = ModelFiles.model_validate_json(json.dumps(statement["predicate"]))
        sound = _as_statement(predicate) == envelope.payload and _root(predicate.files) == predicate.root
    except (ValidationError, ValueError, KeyError, TypeError):
        sound = False
    if not sound:
        raise IntegrityError(f"{SIGNATURE} holds no statement about a model's files")
    return predicate


def _root(files: tuple[FileEntry, ...]) -> str:
    return hashlib.sha256(canonical_json([[one.name, one.size, one.sha256] for one in files])).hexdigest()


def _files(folder: Path) -> tuple[FileEntry, ...]:
    if folder.is_symlink() or not folder.is_dir():
        raise UsageError(f"{folder} is no folder; give the folder of a model")
    return tuple(
        FileEntry(name=name, size=(folder / name).stat().st_size, sha256=file_digest(folder / name))
        for name in sorted(_names(folder))
        if name != SIGNATURE
    )


def _names(folder: Path) -> Iterator[str]:
    for root, folders, files in os.walk(folder):
        for name in (*files, *(one for one in folders if (Path(root) / one).is_symlink())):
            path = Path(root) / name
            if path.is_symlink() or not path.is_file():
                raise IntegrityError(f"{path} is a link, or no file; a signed model consists of plain files")
            yield path.relative_to(folder).as_posix()
