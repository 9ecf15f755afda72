"""DSSE v1 envelopes: bytes, what kind of bytes they are, and signatures over both.

A signature is over PAE(type, payload) (secure-systems-lab/dsse, protocol v1.0.2), so that neither the
payload nor its type can be exchanged. What was verified are the very bytes of `payload`: read those, and
never a copy that was parsed and written again. A key id beside a signature is a hint and proves nothing.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from safeedit.errors import IntegrityError
from safeedit.evidence.signing import SigningKey, VerifyingKey

IN_TOTO = "application/vnd.in-toto+json"


@dataclass(frozen=True)
class Envelope:
    """A payload and who signed it."""

    payload: bytes
    payload_type: str
    signatures: tuple[tuple[str, bytes], ...]
    """(key id as stated, signature), in the order in which they were made."""

    def verified_by(self, keys: Iterable[VerifyingKey]) -> frozenset[str]:
        """The ids of those of `keys` that signed exactly this payload under this type.

        A key counts once, however many signatures it made and whatever ids stand beside them.
        """
        message = pae(self.payload_type, self.payload)
        return frozenset(
            key.key_id
            for key in keys
            if any(key.verify(signature, message) for _, signature in self.signatures)
        )

    def signed_also_by(self, key: SigningKey) -> Envelope:
        """The same payload with one more signature; as it is where `key` already signed it."""
        if self.verified_by([key.public]):
            return self
        mine = (key.public.key_id, key.sign(pae(self.payload_type, self.payload)))
        return Envelope(self.payload, self.payload_type, (*self.signatures, mine))

    def to_json(self) -> dict[str, Any]:
        """The envelope as JSON values, as DSSE has them."""
        return {
            "payload": base64.b64encode(self.payload).decode(),
            "payloadType": self.payload_type,
            "signatures": [
                {"keyid": key_id, "sig": base64.b64encode(signature).decode()}
                for key_id, signature in self.signatures
            ],
        }

    @classmethod
    def from_json(cls, value: object, where: str = "the envelope") -> Envelope:
        """The envelope that `value` is; nothing is verified yet.

        Args:
            value: parsed JSON, or its text.
            where: what it is called in messages.

        Raises:
            IntegrityError: it is none: a field is missing, unknown, of another type or not in base64.
        """
        if isinstance(value, str | bytes):
            value = strict_json(value, where)
        fields = _exactly(value, {"payload", "payloadType", "signatures"}, where)
        kind, signatures = fields["payloadType"], fields["signatures"]
        if not isinstance(kind, str) or not kind:
            raise IntegrityError(f"{where}: payloadType is no text")
        if not isinstance(signatures, list) or not signatures:
            raise IntegrityError(f"{where}: there is no signature")
        found: list[tuple[str, bytes]] = []
        for number, one in enumerate(signatures):
            place = f"{where}: signature {number}"
            each = _exactly(one, {"keyid", "sig"}, place, optional={"keyid"})
            key_id = each.get("keyid", "")
            if not isinstance(key_id, str):
                raise IntegrityError(f"{place}: keyid is no text")
            found.append((key_id, _base64(each["sig"], place)))
        return cls(_base64(fields["payload"], f"{where}: payload"), kind, tuple(found))


def sign(payload: bytes, payload_type: str, keys: Sequence[SigningKey]) -> Envelope:
    """An envelope around `payload`, signed by every one of `keys` (one at least)."""
    if not keys:
        raise ValueError("an envelope needs a signature")
    message = pae(payload_type, payload)
    return Envelope(payload, payload_type, tuple((key.public.key_id, key.sign(message)) for key in keys))


def pae(payload_type: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: what is signed. Lengths are counted in bytes."""
    kind = payload_type.encode()
    return b" ".join((b"DSSEv1", b"%d" % len(kind), kind, b"%d" % len(payload), payload))


def strict_json(text: str | bytes, where: str) -> Any:
    """The JSON value in `text`; a key that stands twice in one object is refused.

    Readers differ in which of the two they take, and a signature would cover both.

    Raises:
        IntegrityError: it is no such JSON.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError
        return found

    def refuse(_: str) -> None:
        raise ValueError

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError):
        raise IntegrityError(f"{where} is no JSON, or has a key twice") from None


def _exactly(
    value: object, names: set[str], where: str, optional: set[str] | frozenset[str] = frozenset()
) -> dict[str, Any]:
    if not isinstance(value, dict) or not names - optional <= value.keys() <= names:
        raise IntegrityError(f"{where} must have exactly the fields {', '.join(sorted(names))}")
    return value


def _base64(value: object, where: str) -> bytes:
    try:
        found = base64.b64decode(value, validate=True) if isinstance(value, str) else None
    except (binascii.Error, ValueError):
        found = None
    # Spare bits at the end could differ without changing what is decoded.
    if found is None or base64.b64encode(found).decode() != value:
        raise IntegrityError(f"{where} is not in base64")
    return found
