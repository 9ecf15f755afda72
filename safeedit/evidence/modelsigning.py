"""Model folders signed in OpenSSF's format (`model-signing`), for those whose tools verify that one.

An extra (`pip install safeedit[model-signing]`), used through the package's Python interface: its command
line names its options differently from release to release. Only signing by key is used: its default, without
a key, would write the signer's address into a public log for good. It lets a signer leave files out, which
is refused here, and its subject's digest does not cover names; `modelfiles` has neither weakness.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from safeedit.errors import IntegrityError, UsageError
from safeedit.evidence.dsse import strict_json
from safeedit.evidence.keyring import Keyring
from safeedit.evidence.signing import SigningKey

SIGNATURE = "model.sig"
_IGNORED = frozenset({SIGNATURE, ".git", ".gitignore", ".gitattributes", ".github"})
"""What may be left out: the signature itself, and what git keeps beside a model's files."""


def available() -> bool:
    """Whether the package is here and works."""
    try:
        import model_signing  # noqa: F401
    except ImportError:
        return False
    return True


def sign_openssf(folder: Path, key_file: Path, passphrase: bytes | None) -> None:
    """Write `model.sig` into `folder`: a Sigstore bundle over all files in it.

    Raises:
        UsageError: the package is missing, or the key is no ECDSA key: the format knows no Ed25519.
    """
    _require()
    if SigningKey.load(key_file, passphrase).public.kind == "ed25519":
        raise UsageError("OpenSSF model signing takes ECDSA keys alone: safeedit keys new --kind ecdsa-p256")
    if not folder.is_dir() or not any(folder.iterdir()):
        raise UsageError(f"{folder} holds no files to sign; give the folder of a model")
    from model_signing import hashing, signing

    config: Any = signing.Config()
    # Its signature says text, but what it calls wants bytes.
    config.use_elliptic_key_signer(private_key=key_file, password=passphrase)
    config.set_hashing_config(hashing.Config().set_ignored_paths(paths=[SIGNATURE]))
    config.sign(folder, folder / SIGNATURE)


def verify_openssf(folder: Path, trusted: Keyring) -> frozenset[str]:
    """The ids of the trusted keys by which `model.sig` holds for exactly the files in `folder`.

    Raises:
        UsageError: the package is missing, or the folder was not signed.
        IntegrityError: it is not what a trusted key signed, or the signer left files out.
    """
    _require()
    signature = folder / SIGNATURE
    if not signature.is_file():
        raise UsageError(f"{folder} has no {SIGNATURE}; `safeedit model sign --format openssf` makes one")
    keys = [one.key for one in trusted.keys if one.revoked is None and one.kind != "ed25519"]
    found = frozenset(key.key_id for key in keys if _holds(folder, signature, key.pem()))
    if not found:
        raise IntegrityError(f"{folder}: {SIGNATURE} does not hold for these files under any trusted key")
    left_out = {str(Path(name)) for name in _ignored(signature)} - _IGNORED
    if left_out:
        raise IntegrityError(f"{folder}: {len(left_out)} paths were left out by who signed; sign all of it")
    return found


def _holds(folder: Path, signature: Path, pem: bytes) -> bool:
    from model_signing import verifying

    with tempfile.NamedTemporaryFile(suffix=".pub") as public:
        public.write(pem)
        public.flush()
        config: Any = verifying.Config()
        config.use_elliptic_key_verifier(public_key=Path(public.name))
        config.set_ignore_unsigned_files(False)
        try:
            config.verify(folder, signature)
        except Exception:  # Whatever it raises, the signature was not shown to hold.
            return False
    return True


def _ignored(signature: Path) -> list[str]:
    """The paths that the signed manifest says were left out; read after the signature was verified."""
    import base64

    bundle = strict_json(signature.read_bytes(), SIGNATURE)
    try:
        statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
        names = statement["predicate"]["serialization"].get("ignore_paths", [])
    except (KeyError, TypeError, ValueError):
        raise IntegrityError(f"{SIGNATURE} holds no manifest") from None
    return [str(name) for name in names]


def _require() -> None:
    if not available():
        raise UsageError("the package model-signing is not here: pip install 'safeedit[model-signing]'")
