"""The one secret of a run: a random key in the user's state folder, outside the run folder.

Everything that is keyed in a run (the vault, the digests of texts) comes from this key. While it
exists those digests are pseudonymous personal data; once it is destroyed neither the vault nor a
digest can be opened or compared again, and the rest of the run stays valid.
"""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

from safeedit.errors import IntegrityError, UsageError
from safeedit.tensors.atomic import flush_folder
from safeedit.tensors.places import writable

KEY_BYTES = 32
STATE_VARIABLE = "SAFEEDIT_STATE_DIR"
WRITABLE_STATE = f"give a folder that you can write in with {STATE_VARIABLE}"
"""What to tell where keys cannot be written."""
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class KeyMissingError(UsageError):
    """The key of a run is not on this machine, or no longer."""


def state_folder() -> Path:
    """Where safeedit keeps what belongs to the user and not to a run; `SAFEEDIT_STATE_DIR` overrides it."""
    chosen = os.environ.get(STATE_VARIABLE)
    if chosen:
        return Path(chosen)
    from platformdirs import user_state_path

    return user_state_path("safeedit")


def keys_folder() -> Path:
    """Where the keys of runs are."""
    return state_folder() / "keys"


def key_path(uuid: str) -> Path:
    """The key file of the run `uuid`.

    Raises:
        IntegrityError: `uuid` is no UUID (a damaged record must not name any other file).
    """
    if not _UUID.fullmatch(uuid):
        raise IntegrityError("the run's uuid is not a lower-case UUID")
    return keys_folder() / f"{uuid}.key"


class RunKey:
    """The key of one run, and the keys derived from it."""

    def __init__(self, uuid: str, secret: bytes) -> None:
        self.uuid, self._secret = uuid, secret

    def __repr__(self) -> str:
        return f"<RunKey of {self.uuid}>"

    @classmethod
    def create(cls, uuid: str) -> RunKey:
        """A new random key, on the disk and readable by its owner alone.

        Raises:
            UsageError: there is one, or the state folder cannot be written.
        """
        path = key_path(uuid)
        with writable(path.parent, WRITABLE_STATE):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.chmod(path.parent, 0o700)
            try:
                handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            except FileExistsError:
                raise UsageError("the state folder already has a key for this run's uuid") from None
        secret = secrets.token_bytes(KEY_BYTES)
        with os.fdopen(handle, "wb") as stream:
            stream.write(secret)
            stream.flush()
            os.fsync(stream.fileno())
        flush_folder(path.parent)
        return cls(uuid, secret)

    @classmethod
    def load(cls, uuid: str) -> RunKey:
        """The key of the run `uuid`.

        Raises:
            KeyMissingError: there is none here: destroyed, or the run was made elsewhere.
            IntegrityError: the key file is damaged.
        """
        try:
            secret = key_path(uuid).read_bytes()
        except FileNotFoundError:
            raise KeyMissingError(
                "the key of this run's vault is not in the state folder: it was destroyed, "
                f"or the run was made on another machine or under another {STATE_VARIABLE}"
            ) from None
        if len(secret) != KEY_BYTES:
            raise IntegrityError("the key file of this run is damaged")
        return cls(uuid, secret)

    @staticmethod
    def exists(uuid: str) -> bool:
        """Whether the key of the run `uuid` is here."""
        return key_path(uuid).is_file()

    @staticmethod
    def shred(uuid: str) -> bool:
        """Overwrite the key file and remove it; whether there was one.

        Does not reach backups of the state folder, nor blocks that a copy-on-write file system or
        a solid-state disk still holds.
        """
        path = key_path(uuid)
        # Under this name it is no key any more, so that a kill leaves a whole one or none to be read.
        doomed = path.with_suffix(".gone")
        if path.exists():
            os.replace(path, doomed)
            flush_folder(path.parent)
        try:
            handle = os.open(doomed, os.O_WRONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return False
        with os.fdopen(handle, "wb") as stream:
            stream.write(secrets.token_bytes(max(KEY_BYTES, os.fstat(handle).st_size)))
            stream.flush()
            os.fsync(stream.fileno())
        doomed.unlink()
        flush_folder(path.parent)
        return True

    @property
    def commitment(self) -> str:
        """64 hex digits that stand for this key in the log and tell nothing of it, not even its digests."""
        return self.derive("commitment").hex()

    def derive(self, purpose: str) -> bytes:
        """A key of its own for `purpose` (HKDF-SHA-256, RFC 5869)."""
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        info = f"safeedit/1/{self.uuid}/{purpose}".encode()
        return HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=None, info=info).derive(self._secret)
