"""Timestamps by a third party (RFC 3161): that a checkpoint existed at a time which nobody here can choose.

Off unless an authority is named. Only a digest and a random number are sent. A token is checked
offline, against root certificates that whoever verifies has chosen to trust.
"""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any

from safeedit.errors import SafeEditError, UsageError
from safeedit.runs.checks import Check
from safeedit.runs.findings import Finding
from safeedit.runs.keys import state_folder

ROOTS_FILE = "timestamp-roots.pem"
ROOTS_VARIABLE = "SAFEEDIT_TSA_ROOTS"
_PATIENCE_S = 30.0
_LARGEST_REPLY = 1 << 20

Stamper = Callable[[bytes], bytes]
"""Asks an authority for a token over some bytes; the reply, as it came."""


class TimestampError(SafeEditError):
    """An authority could not be reached, or gave no token that fits."""


@dataclass(frozen=True)
class Authorities:
    """Whose timestamps count."""

    roots: tuple[Any, ...] = ()
    """Root certificates (`cryptography.x509`)."""

    @classmethod
    def load(cls, path: str | os.PathLike[str] | None = None) -> Authorities:
        """The root certificates in a PEM file; by default those of the user, none where there is no file.

        Raises:
            UsageError: the file is not there, or holds no certificates.
        """
        from cryptography import x509

        chosen = path or os.environ.get(ROOTS_VARIABLE)
        file = Path(chosen) if chosen else state_folder() / ROOTS_FILE
        if not chosen and not file.is_file():
            return cls()
        try:
            return cls(tuple(x509.load_pem_x509_certificates(file.read_bytes())))
        except (OSError, ValueError):
            raise UsageError(f"{file} holds no certificates in PEM; give those of the authority") from None


def stamper(url: str) -> Stamper:
    """Asks the authority at `url`.

    Raises:
        UsageError: `url` is no http address, or what RFC 3161 needs is not installed.
    """
    if not url.startswith(("http://", "https://")):
        raise UsageError("a timestamping authority is given by its http or https address")
    _library()
    return lambda data: _ask(url, data)


def stamp_time(token: bytes, data: bytes) -> datetime | None:
    """The time that a token states for `data`; None where it is no token, or one over something else."""
    client = _library()
    try:
        info = client.decode_timestamp_response(token).tst_info
        fits = info.message_imprint.message == hashlib.sha256(data).digest()
        return info.gen_time if fits else None
    except Exception:
        # The decoder raises what its parts raise; whatever it is, this is no token.
        return None


def check_stamp(
    token: bytes, data: bytes, file: str, line: int, authorities: Authorities | None = None
) -> Check:
    """Whether a token is over `data` and comes from an authority that is trusted; offline.

    Args:
        token: the authority's reply.
        data: what it was asked about.
        file: where it stands, for findings.
        line: in which line.
        authorities: whose tokens count; those of the user by default.
    """
    what = f"{file} timestamp"
    try:
        client = _library()
    except UsageError as error:
        return Check(what, "", notes=(f"line {line}: {error}",), checked=False)
    time = stamp_time(token, data)
    if time is None:
        message = f"the timestamp of line {line} is none, or is over something else"
        return Check(what, "", (Finding("timestamp-invalid", file, message),))
    known = Authorities.load() if authorities is None else authorities
    said = f"line {line} existed at {time.isoformat()}"
    if not known.roots:
        note = (
            f"{said}, by a timestamp whose authority was not checked: none is trusted here ({ROOTS_VARIABLE})"
        )
        return Check(what, "", notes=(note,), checked=False)
    if not _signed(client, token, data, known):
        message = f"the timestamp of line {line} is not signed by an authority that is trusted here"
        return Check(what, "", (Finding("timestamp-invalid", file, message),))
    return Check(what, said)


def _signed(client: ModuleType, token: bytes, data: bytes, known: Authorities) -> bool:
    builder = client.VerifierBuilder()
    for root in dict.fromkeys(known.roots):
        builder = builder.add_root_certificate(root)
    try:
        reply = client.decode_timestamp_response(token)
        return bool(builder.build().verify(reply, hashlib.sha256(data).digest()))
    except Exception:
        # Fail closed: the library raises several kinds, and one more would still be no proof.
        return False


def _ask(url: str, data: bytes) -> bytes:
    client = _library()
    asked = (
        client.TimestampRequestBuilder()
        .data(data)
        .hash_algorithm(client.HashAlgorithm.SHA256)
        .nonce(nonce=True)
        .cert_request(cert_request=True)
        .build()
    )
    query = urllib.request.Request(
        url, asked.as_bytes(), {"Content-Type": "application/timestamp-query"}, method="POST"
    )
    try:
        with urllib.request.urlopen(query, timeout=_PATIENCE_S) as answer:
            reply: bytes = answer.read(_LARGEST_REPLY)
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise TimestampError(
            f"the timestamping authority did not answer ({type(error).__name__}); nothing was signed"
        ) from None
    try:
        found = client.decode_timestamp_response(reply)
        fits = (
            client.PKIStatus(found.status) == client.PKIStatus.GRANTED and found.tst_info.nonce == asked.nonce
        )
    except Exception:
        fits = False
    if not fits or stamp_time(reply, data) is None:
        raise TimestampError("the timestamping authority gave no token that fits; nothing was signed")
    return reply


def _library() -> ModuleType:
    try:
        import rfc3161_client
    except ImportError:
        raise UsageError(
            "timestamps need the package rfc3161-client: pip install 'safeedit[timestamps]'"
        ) from None
    return rfc3161_client
