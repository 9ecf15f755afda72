"""Key pairs that sign evidence: Ed25519 (RFC 8032), and ECDSA over P-256 and P-384 (FIPS 186-5).

ECDSA signs the SHA-2 digest that is as long as its curve, in DER. A key's id is the SHA-256 of its public
half (the DER SubjectPublicKeyInfo): it names nobody, and two files with one key have one id.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from safeedit.errors import UsageError
from safeedit.tensors.atomic import flush_folder

KeyKind = Literal["ed25519", "ecdsa-p256", "ecdsa-p384"]
KINDS: tuple[KeyKind, ...] = get_args(KeyKind)
PASSPHRASE_VARIABLE = "SAFEEDIT_KEY_PASSPHRASE"

_Private = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey
_Public = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey
_CURVES: dict[str, tuple[KeyKind, type[ec.EllipticCurve], Callable[[], hashes.HashAlgorithm]]] = {
    "secp256r1": ("ecdsa-p256", ec.SECP256R1, hashes.SHA256),
    "secp384r1": ("ecdsa-p384", ec.SECP384R1, hashes.SHA384),
}
_LARGEST_FILE = 64 * 1024


class VerifyingKey:
    """The public half of a key: whoever has it can check signatures, and make none."""

    def __init__(self, key: _Public) -> None:
        self._key = key
        self._der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.kind: KeyKind = _kind_of(key)

    def __repr__(self) -> str:
        return f"<VerifyingKey {self.kind} {self.key_id[:19]}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VerifyingKey) and other._der == self._der

    def __hash__(self) -> int:
        return hash(self._der)

    @classmethod
    def from_pem(cls, pem: bytes, where: str = "the key") -> VerifyingKey:
        """The public key in `pem`.

        Raises:
            UsageError: it is none, a private one, or of a kind that is not used here.
        """
        if b"PRIVATE KEY" in pem:
            raise UsageError(f"{where} is a private key; give the public one, which ends in .pub")
        try:
            key = load_pem_public_key(pem)
        except (ValueError, UnsupportedAlgorithm):
            raise UsageError(f"{where} is no public key in PEM; `safeedit keys new` makes one") from None
        if not isinstance(key, _Public):
            raise UsageError(f"{where} is of another kind; a key is one of {', '.join(KINDS)}")
        _check_curve(key, where)
        return cls(key)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> VerifyingKey:
        """The public key in the file at `path`; raises as `from_pem` does."""
        return cls.from_pem(_read(Path(path)), str(path))

    @property
    def key_id(self) -> str:
        """`sha256:` and the hexadecimal digest of the key's DER SubjectPublicKeyInfo."""
        return f"sha256:{hashlib.sha256(self._der).hexdigest()}"

    def pem(self) -> bytes:
        """The key as PEM (SubjectPublicKeyInfo)."""
        return self._key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def verify(self, signature: bytes, data: bytes) -> bool:
        """Whether `signature` was made over exactly `data` with this key."""
        try:
            if isinstance(self._key, ec.EllipticCurvePublicKey):
                self._key.verify(signature, data, ec.ECDSA(_CURVES[self._key.curve.name][2]()))
            else:
                self._key.verify(signature, data)
        except InvalidSignature:
            return False
        return True


class SigningKey:
    """A private key. Its `repr` tells only which one it is."""

    def __init__(self, key: _Private) -> None:
        self._key = key
        self.public = VerifyingKey(key.public_key())

    def __repr__(self) -> str:
        return f"<SigningKey {self.public.kind} {self.public.key_id[:19]}>"

    @classmethod
    def generate(cls, kind: KeyKind = "ed25519") -> SigningKey:
        """A new random key."""
        if kind == "ed25519":
            return cls(ed25519.Ed25519PrivateKey.generate())
        for name, curve, _ in _CURVES.values():
            if name == kind:
                return cls(ec.generate_private_key(curve()))
        raise UsageError(f"there is no such kind of key; a key is one of {', '.join(KINDS)}")

    @classmethod
    def load(cls, path: str | os.PathLike[str], passphrase: bytes | None = None) -> SigningKey:
        """The private key in the PEM file at `path`.

        Args:
            path: the file; one without a passphrase must be readable by its owner alone.
            passphrase: what it was encrypted with; None where it was not.

        Raises:
            UsageError: there is no such key, the passphrase is missing or wrong, or others can read it.
        """
        file = Path(path)
        pem = _read(file)
        if b"PRIVATE KEY" not in pem:
            raise UsageError(f"{file} is no private key in PEM; `safeedit keys new` makes one")
        if b"ENCRYPTED" not in pem:
            _refuse_shared(file)
            passphrase = None
        elif not passphrase:
            raise UsageError(f"{file} has a passphrase; give it in {PASSPHRASE_VARIABLE} or on a terminal")
        try:
            key = load_pem_private_key(pem, passphrase)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            wrong = "the passphrase is wrong, or the file is damaged" if passphrase else "the file is damaged"
            raise UsageError(f"{file} cannot be opened: {wrong}") from None
        if not isinstance(key, _Private):
            raise UsageError(f"{file} is of another kind; a key is one of {', '.join(KINDS)}")
        _check_curve(key.public_key(), str(file))
        return cls(key)

    def save(self, path: str | os.PathLike[str], passphrase: bytes | None) -> None:
        """Write the key as PKCS#8 PEM, readable by its owner alone.

        Args:
            path: where nothing may be yet: a key is never overwritten.
            passphrase: what it is encrypted with; None leaves it in the open.

        Raises:
            UsageError: there is a file, or no folder for one.
        """
        wrapped: KeySerializationEncryption = NoEncryption()
        if passphrase is not None:
            if not passphrase:
                raise UsageError("a passphrase cannot be empty")
            wrapped = BestAvailableEncryption(passphrase)
        pem = self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, wrapped)
        write_new(Path(path), pem, 0o600)

    def sign(self, data: bytes) -> bytes:
        """A signature over exactly `data`."""
        if isinstance(self._key, ec.EllipticCurvePrivateKey):
            return self._key.sign(data, ec.ECDSA(_CURVES[self._key.curve.name][2]()))
        return self._key.sign(data)


def has_passphrase(path: str | os.PathLike[str]) -> bool:
    """Whether the key in the file at `path` is encrypted."""
    return b"ENCRYPTED" in _read(Path(path))


def write_new(path: Path, content: bytes, mode: int) -> None:
    """Put `content` at `path`, on the disk, where nothing may be yet."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    except FileExistsError:
        raise UsageError(f"{path} is there already; a key is never overwritten, give a new name") from None
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"there is no folder {path.parent}; make it, or give another one") from None
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


def _kind_of(key: _Public) -> KeyKind:
    return _CURVES[key.curve.name][0] if isinstance(key, ec.EllipticCurvePublicKey) else "ed25519"


def _check_curve(key: _Public, where: str) -> None:
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name not in _CURVES:
        raise UsageError(f"{where} is on another curve; a key is one of {', '.join(KINDS)}")


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise UsageError(f"{path} is too large for a key; give a PEM file")
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({type(error).__name__}); give the file of a key") from None


def _refuse_shared(path: Path) -> None:
    if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise UsageError(f"{path} has no passphrase and others can read it; chmod 600 it first")
