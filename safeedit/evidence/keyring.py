"""Whose signatures count here: public keys by name, what each may do, and since when one no longer counts.

A keyring is a decision of whoever verifies, so by default it lies in that user's state folder and not beside
the runs, where whoever can change a run could add a key of their own. One for a workspace is a file like any
other and has to be guarded like one.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from safeedit.errors import IntegrityError, UsageError
from safeedit.evidence.signing import KeyKind, VerifyingKey
from safeedit.runs.keys import state_folder
from safeedit.tensors.atomic import atomic_write

Role = Literal["approver", "evaluator"]
ROLES: tuple[Role, ...] = get_args(Role)
"""An approver decides on runs. An evaluator signs what was measured, and cannot approve it."""
KEYRING_FILE = "keyring.json"
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class _Stored(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class TrustedKey(_Stored):
    """A public key and what it is trusted with."""

    name: Annotated[str, Field(pattern=_NAME)]
    """A pseudonym; it stands in no log and in no statement."""
    pem: str
    roles: Annotated[tuple[Role, ...], Field(min_length=1)]
    added: date
    revoked: date | None = None
    """From this day on (UTC) what it signs does not count."""

    @field_validator("pem")
    @classmethod
    def _is_key(cls, pem: str) -> str:
        try:
            VerifyingKey.from_pem(pem.encode())
        except UsageError as error:
            raise ValueError(str(error)) from None
        return pem

    def to_json(self) -> dict[str, object]:
        """What a list shows of it."""
        revoked = self.revoked.isoformat() if self.revoked else None
        about = {"name": self.name, "key": self.key.key_id, "kind": self.kind, "roles": list(self.roles)}
        return {**about, "added": self.added.isoformat(), "revoked": revoked}

    @property
    def key(self) -> VerifyingKey:
        """The key itself."""
        return VerifyingKey.from_pem(self.pem.encode())

    @property
    def kind(self) -> KeyKind:
        """Of which kind it is."""
        return self.key.kind

    def counts_at(self, moment: datetime) -> bool:
        """Whether it was not yet revoked at `moment` (with a time zone)."""
        return self.revoked is None or moment.astimezone(UTC).date() < self.revoked


class _File(_Stored):
    format: Literal["safeedit.keyring/1"] = "safeedit.keyring/1"
    keys: tuple[TrustedKey, ...] = ()


@dataclass(frozen=True)
class Keyring:
    """Every key that is trusted; a value, changed only on the disk by `trust` and `revoke`."""

    keys: tuple[TrustedKey, ...] = ()

    @classmethod
    def load(cls, path: str | os.PathLike[str] | None = None) -> Self:
        """The keyring in the file at `path`, by default the user's; an empty one where there is none yet.

        Raises:
            UsageError: `path` was given and is not there.
            IntegrityError: the file is no keyring, or has a key or a name twice.
        """
        file = Path(path) if path is not None else keyring_path()
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            if path is not None:
                raise UsageError(
                    f"there is no keyring {file}; `safeedit keys trust --keyring {file}` makes one"
                ) from None
            return cls()
        except OSError as error:
            raise UsageError(f"{file} cannot be read ({type(error).__name__}); give a keyring") from None
        try:
            keys = _File.model_validate_json(content).keys
        except ValidationError:
            raise IntegrityError(f"{file} is no keyring; make it anew with `safeedit keys trust`") from None
        ids = [one.key.key_id for one in keys]
        if len({*ids}) != len(ids) or len({one.name for one in keys}) != len(keys):
            raise IntegrityError(f"{file} has a key or a name twice; make it anew with `safeedit keys trust`")
        return cls(keys)

    @classmethod
    def of(cls, *keys: VerifyingKey, role: Role = "approver") -> Self:
        """A keyring in memory, of keys that count with one role."""
        made = (
            TrustedKey(name=f"key-{number}", pem=key.pem().decode(), roles=(role,), added=date.min)
            for number, key in enumerate(keys)
        )
        return cls(tuple(made))

    def with_role(self, role: Role) -> tuple[TrustedKey, ...]:
        """The keys that have that role, revoked ones too: what they signed before still counts."""
        return tuple(one for one in self.keys if role in one.roles)

    def find(self, key_id: str) -> TrustedKey | None:
        """The key with that id."""
        return next((one for one in self.keys if one.key.key_id == key_id), None)


def is_name(name: str) -> bool:
    """Whether a key may be called that."""
    return re.fullmatch(_NAME, name) is not None


def key_folder() -> Path:
    """Where the user's own keys are; nobody else can look into it."""
    folder = state_folder() / "signing"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def keyring_path() -> Path:
    """Where the user's keyring is."""
    return state_folder() / KEYRING_FILE


def trust(
    key: VerifyingKey,
    name: str,
    roles: tuple[Role, ...],
    today: date,
    path: str | os.PathLike[str] | None = None,
) -> TrustedKey:
    """Let what `key` signs count from now on.

    Args:
        key: a public key whose owner is known by other means than the file it came in.
        name: a pseudonym ([A-Za-z0-9._-], no address).
        roles: what it may do; they replace those that it had.
        today: the day on which this is decided.
        path: a keyring other than the user's; it is made where it is not there.

    Raises:
        UsageError: the name is none, or another key has it, or the key was revoked.
    """
    if not is_name(name):
        raise UsageError("a key's name is letters, digits, '.', '_' and '-' (at most 64), and no address")
    if not roles:
        raise UsageError(f"a key needs a role; there are {', '.join(ROLES)}")
    new = TrustedKey(name=name, pem=key.pem().decode(), roles=tuple(dict.fromkeys(roles)), added=today)
    with _changing(path) as ring:
        same = next((one for one in ring if one.key == key), None)
        if same is not None and same.revoked is not None:
            raise UsageError(f"{same.name} was revoked from {same.revoked} on; make a new key")
        if any(one.name == name and one is not same for one in ring):
            raise UsageError(f"another key is called {name}; give another name, or revoke that one")
        ring[:] = [one for one in ring if one is not same] + [new]
    return new


def revoke(name: str, since: date, path: str | os.PathLike[str] | None = None) -> TrustedKey:
    """Let what the key signs no longer count from a day on; what it signed before still does.

    Only the log, the ledger and a timestamp tell whether something was really signed before that day: of a
    key that was stolen, give the day of the theft.

    Raises:
        UsageError: no key has that name, or it was revoked from an earlier day on.
    """
    with _changing(path) as ring:
        for index, one in enumerate(ring):
            if one.name == name:
                if one.revoked is not None and one.revoked <= since:
                    raise UsageError(f"{name} was revoked already, from {one.revoked} on")
                ring[index] = one.model_copy(update={"revoked": since})
                return ring[index]
        known = ", ".join(one.name for one in ring) or "none"
        raise UsageError(f"no key is called {name!r}; there are: {known}")


@contextmanager
def _changing(path: str | os.PathLike[str] | None) -> Iterator[list[TrustedKey]]:
    """The keys in the file, to be changed; written when the block ends well, one process at a time."""
    file = Path(path) if path is not None else keyring_path()
    if path is None:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    elif not file.parent.is_dir():
        raise UsageError(f"there is no folder {file.parent}; make it, or give another keyring")
    lock = os.open(file.parent / f".{file.name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        keys = list((Keyring.load(file) if file.exists() else Keyring()).keys)
        yield keys
        text = _File(keys=tuple(keys)).model_dump(mode="json")
        atomic_write(file, json.dumps(text, indent=2) + "\n")
    finally:
        os.close(lock)
