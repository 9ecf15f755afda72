"""`attestation.json`: the signed statements of a run, in DSSE envelopes, in the order of the decisions.

One envelope holds the test-result statement, whose bytes are the same for everyone, with a signature by each
key that approves: what generic tools count. Each decision is a statement of its own, because each has its own
time, expiry and reason.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from safeedit.errors import IntegrityError
from safeedit.evidence.dsse import IN_TOTO, Envelope, sign, strict_json
from safeedit.evidence.signing import SigningKey
from safeedit.evidence.statements import TEST_RESULT_TYPE, predicate_type

ATTESTATION = "attestation.json"
_FORMAT = "safeedit.attestation/1"


@dataclass(frozen=True)
class Attestation:
    """What the file holds; nothing is verified yet."""

    results: Envelope | None = None
    """The test-result statement."""
    decisions: tuple[Envelope, ...] = ()

    @classmethod
    def load(cls, folder: Path) -> Attestation:
        """The statements of the run in `folder`; none where it has no such file.

        Raises:
            IntegrityError: the file does not hold what it should.
        """
        try:
            content = (folder / ATTESTATION).read_bytes()
        except FileNotFoundError:
            return cls()
        found = strict_json(content, ATTESTATION)
        if not isinstance(found, dict) or found.keys() != {"format", "envelopes"}:
            raise IntegrityError(f"{ATTESTATION} holds no envelopes")
        if found["format"] != _FORMAT or not isinstance(found["envelopes"], list):
            raise IntegrityError(f"{ATTESTATION} is of another format than {_FORMAT}")
        results: Envelope | None = None
        decisions: list[Envelope] = []
        for number, value in enumerate(found["envelopes"]):
            where = f"{ATTESTATION}: envelope {number}"
            envelope = Envelope.from_json(value, where)
            if envelope.payload_type != IN_TOTO:
                raise IntegrityError(f"{where} is no in-toto statement")
            if predicate_type(envelope.payload, where) != TEST_RESULT_TYPE:
                decisions.append(envelope)
            elif results is None:
                results = envelope
            else:
                raise IntegrityError(f"{where} is a second test-result; there is one a run")
        return cls(results, tuple(decisions))

    def with_decision(self, payload: bytes, results: bytes, key: SigningKey, approves: bool) -> Attestation:
        """With one more decision, and with or without that key's word on the test results.

        Args:
            payload: the statement of the decision.
            results: the test-result statement of the run.
            key: who decides.
            approves: an approving key signs the results too; any other takes its signature back, so that
                whoever counts signatures there does not count it.
        """
        ours: Envelope | None = (
            self.results if self.results is not None and self.results.payload == results else None
        )
        decisions = (*self.decisions, sign(payload, IN_TOTO, [key]))
        if not approves:
            return Attestation(_without(ours, key), decisions)
        return Attestation(ours.signed_also_by(key) if ours else sign(results, IN_TOTO, [key]), decisions)

    @property
    def envelopes(self) -> tuple[Envelope, ...]:
        """All of them, the test-result first."""
        return (self.results, *self.decisions) if self.results else self.decisions

    def to_bytes(self) -> bytes:
        """The content of the file."""
        content = {"format": _FORMAT, "envelopes": [envelope.to_json() for envelope in self.envelopes]}
        return json.dumps(content, indent=2).encode() + b"\n"

    def bundle(self) -> str:
        """As other tools read it, an in-toto bundle: JSON Lines, an envelope a line."""
        return "".join(f"{json.dumps(envelope.to_json())}\n" for envelope in self.envelopes)


def statement_digest(envelope: Envelope) -> str:
    """What the log calls a statement: the SHA-256 of its bytes."""
    return hashlib.sha256(envelope.payload).hexdigest()


def _without(results: Envelope | None, key: SigningKey) -> Envelope | None:
    if results is None:
        return None
    kept = tuple(
        one
        for one in results.signatures
        if not Envelope(results.payload, results.payload_type, (one,)).verified_by([key.public])
    )
    return Envelope(results.payload, results.payload_type, kept) if kept else None
