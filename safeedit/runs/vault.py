"""The request in plain text, encrypted at rest; the only place of a run that may hold it.

One file an entry, AES-256-GCM with a fresh random nonce. The run's uuid and the entry's name are
authenticated with it, so that an entry cannot be moved to another run or another name. The key is
in the user's state folder (`keys`), never in the run folder.
"""

from __future__ import annotations

import json
import re
import secrets
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from safeedit.errors import IntegrityError, UsageError
from safeedit.runs.keys import RunKey
from safeedit.tensors.atomic import atomic_write

FOLDER = "vault"
_MAGIC = b"safeedit-vault-1"
_NONCE_BYTES = 12
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


class Vault:
    """The encrypted entries of one run.

    Args:
        folder: the run folder; the entries are in its `vault` folder.
        run_id: the run's uuid.
    """

    def __init__(self, folder: Path, run_id: str) -> None:
        self._folder, self._run_id = folder / FOLDER, run_id

    def __repr__(self) -> str:
        return f"<Vault of {self._run_id}>"

    @classmethod
    def create(cls, folder: str | Path, run_id: str) -> Vault:
        """A vault without entries, and a new key for it.

        Raises:
            UsageError: this run already has a key.
        """
        RunKey.create(run_id)
        vault = cls(Path(folder), run_id)
        vault._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return vault

    @classmethod
    def open(cls, folder: str | Path, run_id: str) -> Vault:
        """The vault of an existing run; its key is looked for when an entry is read."""
        return cls(Path(folder), run_id)

    @property
    def shredded(self) -> bool:
        """Whether the key is gone (or was never on this machine), so that nothing can be read."""
        return not RunKey.exists(self._run_id)

    def names(self) -> tuple[str, ...]:
        """The entries' names, sorted; known without the key."""
        found = self._folder.glob("*.bin")
        # What a kill left of an entry that was being written has a name that begins with a dot.
        return tuple(sorted(path.stem for path in found if not path.name.startswith(".")))

    def put(self, name: str, value: object) -> None:
        """Store `value`, anything that JSON has, under `name`; an entry of that name is replaced.

        Raises:
            KeyMissingError: the key is gone.
        """
        self._write(name, self.encrypt(name, value))

    def put_bytes(self, name: str, data: bytes) -> None:
        """As `put`, of bytes as they are: at most 2 GiB."""
        self._write(name, self._encrypted(name, data))

    def remove(self, name: str) -> None:
        """Take an entry out; whether or not it is there."""
        self._bound_to(name)
        (self._folder / f"{name}.bin").unlink(missing_ok=True)

    def encrypt(self, name: str, value: object) -> bytes:
        """The bytes that `put` would write, for `RunFolder.update` to write into a finished run."""
        text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
        return self._encrypted(name, text.encode())

    def get(self, name: str) -> Any:
        """What was stored under `name`; raises as `get_bytes` does."""
        return json.loads(self.get_bytes(name))

    def get_bytes(self, name: str) -> bytes:
        """What `put_bytes` was given; of what `put` was given, its text.

        Raises:
            KeyMissingError: the key is gone.
            UsageError: there is no such entry.
            IntegrityError: the entry was changed, moved here, or written under another key.
        """
        bound = self._bound_to(name)
        try:
            blob = (self._folder / f"{name}.bin").read_bytes()
        except FileNotFoundError:
            known = ", ".join(self.names()) or "none"
            raise UsageError(f"the vault has no entry {name!r}; there are: {known}") from None
        cipher = self._cipher()
        start = len(_MAGIC) + _NONCE_BYTES
        try:
            if not blob.startswith(_MAGIC) or len(blob) < start:
                raise InvalidTag
            return cipher.decrypt(blob[len(_MAGIC) : start], memoryview(blob)[start:], bound)
        except InvalidTag:
            raise IntegrityError(
                f"vault entry {name!r} cannot be opened: it was changed, or belongs to another run or key"
            ) from None

    def shred(self) -> bool:
        """Destroy the key, so that no entry can be read again; whether there still was one."""
        return RunKey.shred(self._run_id)

    def _write(self, name: str, blob: bytes) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        atomic_write(self._folder / f"{name}.bin", blob)

    def _encrypted(self, name: str, data: bytes) -> bytes:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return _MAGIC + nonce + self._cipher().encrypt(nonce, data, self._bound_to(name))

    def _cipher(self) -> AESGCM:
        return AESGCM(RunKey.load(self._run_id).derive("vault"))

    def _bound_to(self, name: str) -> bytes:
        if not _NAME.fullmatch(name):
            raise UsageError("a vault entry's name is lower-case letters, digits, '-' and '_' (at most 64)")
        return b"\0".join((_MAGIC, self._run_id.encode(), name.encode()))
