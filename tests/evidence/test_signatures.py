"""Keys and envelopes: what was signed is what is read, whoever changes a bit of it."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safeedit.errors import IntegrityError, UsageError
from safeedit.evidence.dsse import IN_TOTO, Envelope, pae, sign
from safeedit.evidence.signing import KINDS, SigningKey, VerifyingKey

KEYS = {kind: [SigningKey.generate(kind) for _ in range(2)] for kind in KINDS}
kinds = st.sampled_from(KINDS)
slow_machine = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def test_the_encoding_is_the_one_that_dsse_publishes() -> None:
    # The example of the specification (protocol.md): type and body of known lengths.
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )
    assert pae("ü", "ü".encode()) == b"DSSEv1 2 \xc3\xbc 2 \xc3\xbc"


@given(st.binary(max_size=30), st.text(max_size=10), st.binary(max_size=30), st.text(max_size=10))
def test_no_two_messages_are_encoded_alike(a: bytes, s: str, b: bytes, t: str) -> None:
    assert (pae(s, a) == pae(t, b)) == ((s, a) == (t, b))


@slow_machine
@given(kinds, st.binary(max_size=200))
def test_a_signature_is_its_key_s_alone(kind: Any, data: bytes) -> None:
    mine, other = KEYS[kind]
    envelope = sign(data, IN_TOTO, [mine])
    again = Envelope.from_json(json.dumps(envelope.to_json()))
    assert again == envelope
    assert again.verified_by([mine.public, other.public]) == {mine.public.key_id}
    for wrong in (key.public for name in KINDS if name != kind for key in KEYS[name]):
        assert not again.verified_by([wrong])


@slow_machine
@given(kinds, st.binary(min_size=1, max_size=80), st.integers(0, 10**6))
def test_a_flipped_bit_is_noticed_wherever_it_is(kind: Any, data: bytes, place: int) -> None:
    key = KEYS[kind][0]
    envelope = sign(data, IN_TOTO, [key])
    text = json.dumps(envelope.to_json(), separators=(",", ":")).encode()
    broken = bytearray(text)
    place %= 8 * len(text)
    broken[place // 8] ^= 1 << (place % 8)
    try:
        read = Envelope.from_json(bytes(broken))
    except IntegrityError:
        return
    if read.verified_by([key.public]):
        # What is left is the hint, which proves nothing and is not believed.
        assert (read.payload, read.payload_type) == (envelope.payload, envelope.payload_type)
        assert [signature for _, signature in read.signatures] == [envelope.signatures[0][1]]
        assert read.signatures[0][0] != envelope.signatures[0][0]


@slow_machine
@given(kinds, st.binary(max_size=60), st.binary(max_size=60))
def test_payload_and_type_cannot_be_swapped(kind: Any, data: bytes, other: bytes) -> None:
    key = KEYS[kind][0]
    envelope = sign(data, IN_TOTO, [key])
    assert bool(Envelope(other, IN_TOTO, envelope.signatures).verified_by([key.public])) == (data == other)
    assert not Envelope(data, "text/plain", envelope.signatures).verified_by([key.public])


@given(kinds)
def test_a_key_counts_once(kind: Any) -> None:
    key, other = KEYS[kind]
    envelope = sign(b"x", IN_TOTO, [key, key, other])
    forged = (*envelope.signatures[:2], (other.public.key_id, envelope.signatures[0][1]))
    assert Envelope(b"x", IN_TOTO, forged).verified_by([key.public, other.public]) == {key.public.key_id}
    assert envelope.signed_also_by(key) == envelope


@pytest.mark.parametrize(
    "change",
    [
        lambda e: e.pop("payload"),
        lambda e: e.update(extra=1),
        lambda e: e.update(signatures=[]),
        lambda e: e.update(payloadType=""),
        lambda e: e.update(payload=e["payload"] + "\n"),
        lambda e: e.update(payload=base64.urlsafe_b64encode(b"\xff\xfe\xfd" * 3).decode().rstrip("=")),
        lambda e: e["signatures"][0].pop("sig"),
        lambda e: e["signatures"][0].update(cert="x"),
        lambda e: e["signatures"][0].update(keyid=3),
    ],
)
def test_only_exact_envelopes_are_read(change: Any) -> None:
    value = sign(b"x\xff", IN_TOTO, [KEYS["ed25519"][0]]).to_json()
    change(value)
    with pytest.raises(IntegrityError):
        Envelope.from_json(value)


def test_spare_bits_of_base64_are_no_place_to_hide() -> None:
    value = sign(b"x", IN_TOTO, [KEYS["ed25519"][0]]).to_json()
    assert value["payload"] == "eA=="
    with pytest.raises(IntegrityError, match="base64"):
        Envelope.from_json({**value, "payload": "eB=="})


def test_a_key_that_stands_twice_in_an_object_is_refused() -> None:
    text = json.dumps(sign(b"x", IN_TOTO, [KEYS["ed25519"][0]]).to_json())
    with pytest.raises(IntegrityError):
        Envelope.from_json(text[:-1] + ', "payload": "eA=="}')


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("passphrase", [None, b"correct horse"])
def test_a_key_is_kept_as_pkcs8_for_its_owner_alone(
    tmp_path: Path, kind: Any, passphrase: bytes | None
) -> None:
    key, path = KEYS[kind][0], tmp_path / "key.pem"
    key.save(path, passphrase)
    assert path.stat().st_mode & 0o777 == 0o600
    word = b"ENCRYPTED PRIVATE KEY" if passphrase else b"BEGIN PRIVATE KEY"
    assert word in path.read_bytes()
    loaded = SigningKey.load(path, passphrase)
    assert loaded.public == key.public
    assert key.public.verify(loaded.sign(b"x"), b"x")
    with pytest.raises(UsageError, match="never overwritten"):
        key.save(path, passphrase)
    assert SigningKey.load(path, passphrase).public == key.public


def test_a_key_with_a_passphrase_needs_it(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    KEYS["ed25519"][0].save(path, b"right")
    with pytest.raises(UsageError, match="SAFEEDIT_KEY_PASSPHRASE"):
        SigningKey.load(path)
    with pytest.raises(UsageError, match="wrong"):
        SigningKey.load(path, b"wrong")
    with pytest.raises(UsageError, match="empty"):
        KEYS["ed25519"][0].save(tmp_path / "other.pem", b"")


@pytest.mark.skipif(os.name != "posix", reason="file modes")
def test_an_open_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    KEYS["ed25519"][0].save(path, None)
    path.chmod(0o640)
    with pytest.raises(UsageError, match="chmod 600"):
        SigningKey.load(path)


@pytest.fixture(scope="module")
def strange_keys() -> dict[str, bytes]:
    from cryptography.hazmat.primitives import serialization as to
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    made = {
        "rsa": rsa.generate_private_key(65537, 2048),
        "p521": ec.generate_private_key(ec.SECP521R1()),
        "k1": ec.generate_private_key(ec.SECP256K1()),
    }
    return {
        **{
            n: k.private_bytes(to.Encoding.PEM, to.PrivateFormat.PKCS8, to.NoEncryption())
            for n, k in made.items()
        },
        **{
            f"{n}.pub": k.public_key().public_bytes(to.Encoding.PEM, to.PublicFormat.SubjectPublicKeyInfo)
            for n, k in made.items()
        },
        "text": b"hello",
        "broken": b"-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA==\n-----END PRIVATE KEY-----\n",
        "broken.pub": b"-----BEGIN PUBLIC KEY-----\nMCow\n-----END PUBLIC KEY-----\n",
    }


def test_other_keys_are_refused_in_one_line(tmp_path: Path, strange_keys: dict[str, bytes]) -> None:
    for name, pem in strange_keys.items():
        path = tmp_path / name
        path.write_bytes(pem)
        path.chmod(0o600)
        for load in (SigningKey.load, VerifyingKey.load):
            with pytest.raises(UsageError) as told:
                load(path)
            assert "\n" not in str(told.value)


def test_nothing_secret_is_shown() -> None:
    key = KEYS["ed25519"][0]
    assert repr(key) == f"<SigningKey ed25519 {key.public.key_id[:19]}>"
    assert VerifyingKey.from_pem(key.public.pem()) == key.public
    assert hash(VerifyingKey.from_pem(key.public.pem())) == hash(key.public)
