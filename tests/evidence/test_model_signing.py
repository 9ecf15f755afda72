"""Signed model folders: nothing comes, goes, changes or exchanges its name unnoticed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from safeedit.errors import IntegrityError, UsageError
from safeedit.evidence import modelsigning
from safeedit.evidence.dsse import IN_TOTO, Envelope, sign
from safeedit.evidence.keyring import Keyring, revoke, trust
from safeedit.evidence.modelfiles import SIGNATURE, sign_model, verify_model
from safeedit.evidence.signing import SigningKey

ALICE, BOB = SigningKey.generate(), SigningKey.generate("ecdsa-p256")
RING = Keyring.of(ALICE.public, BOB.public)
needs_package = pytest.mark.skipif(not modelsigning.available(), reason="model-signing is not installed")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    for name, content in (("config.json", "{}"), ("a.safetensors", "aaaa"), ("sub/b.txt", "bbbb")):
        (folder / name).write_text(content)
    return folder


def swap(folder: Path) -> None:
    os.rename(folder / "a.safetensors", folder / "x")
    os.rename(folder / "sub/b.txt", folder / "a.safetensors")
    os.rename(folder / "x", folder / "sub/b.txt")


TAMPERINGS: dict[str, Callable[[Path], object]] = {
    "changed": lambda f: (f / "a.safetensors").write_text("aaab"),
    "gone": lambda f: (f / "sub/b.txt").unlink(),
    "added": lambda f: (f / "modeling_x.py").write_text("import os"),
    "hidden": lambda f: (f / ".hidden").write_text(""),
    "renamed": lambda f: (f / "sub/b.txt").rename(f / "sub/c.txt"),
    "exchanged": swap,
    "link": lambda f: (f / "link").symlink_to("config.json"),
    "folder link": lambda f: (f / "link").symlink_to("sub"),
}


@pytest.mark.parametrize("key", [ALICE, BOB])
def test_a_signed_folder_verifies_wherever_it_is(model: Path, tmp_path: Path, key: SigningKey) -> None:
    root = sign_model(model, key)
    moved = shutil.copytree(model, tmp_path / "moved")
    found = verify_model(moved, RING)
    assert (found.keys, found.root, found.files) == ({key.public.key_id}, root, 3)


def test_two_keys_sign_the_same_bytes(model: Path) -> None:
    assert sign_model(model, ALICE) == sign_model(model, BOB) == sign_model(model, ALICE)
    envelope = Envelope.from_json((model / SIGNATURE).read_bytes())
    assert len(envelope.signatures) == 2
    assert verify_model(model, RING).keys == {ALICE.public.key_id, BOB.public.key_id}
    subjects = json.loads(envelope.payload)["subject"]
    assert [one["name"] for one in subjects] == ["a.safetensors", "config.json", "sub/b.txt"]


@pytest.mark.parametrize("what", TAMPERINGS)
def test_every_change_is_found(model: Path, what: str) -> None:
    sign_model(model, ALICE)
    TAMPERINGS[what](model)
    with pytest.raises(IntegrityError):
        verify_model(model, RING)
    with pytest.raises(IntegrityError):
        sign_model(model, BOB)


def test_only_trusted_keys_count(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="model sign"):
        verify_model(model, RING)
    sign_model(model, ALICE)
    for ring in (Keyring(), Keyring.of(BOB.public)):
        with pytest.raises(IntegrityError, match="trust"):
            verify_model(model, ring)
    file = tmp_path / "keyring.json"
    trust(ALICE.public, "alice", ("evaluator",), date(2026, 1, 1), file)
    assert verify_model(model, Keyring.load(file)).keys == {ALICE.public.key_id}
    revoke("alice", date(2026, 1, 2), file)
    with pytest.raises(IntegrityError, match="trust"):
        verify_model(model, Keyring.load(file))


def test_a_statement_of_another_kind_is_none(model: Path) -> None:
    sign_model(model, ALICE)
    payload = Envelope.from_json((model / SIGNATURE).read_bytes()).payload
    statement = json.loads(payload)
    for change in ({"predicateType": "other"}, {"subject": []}, {"predicate": {}}):
        forged = json.dumps({**statement, **change}).encode()
        (model / SIGNATURE).write_text(json.dumps(sign(forged, IN_TOTO, [ALICE]).to_json()))
        with pytest.raises(IntegrityError):
            verify_model(model, RING)
    (model / SIGNATURE).write_text(json.dumps(sign(payload, "text/plain", [ALICE]).to_json()))
    with pytest.raises(IntegrityError):
        verify_model(model, RING)


def test_what_cannot_be_signed(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(UsageError):
            sign_model(path, ALICE, lambda: datetime(2026, 1, 1, tzinfo=UTC))


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "bob.pem"
    BOB.save(path, b"secret")
    return path


@needs_package
def test_openssf_s_format(model: Path, tmp_path: Path, key_file: Path) -> None:
    modelsigning.sign_openssf(model, key_file, b"secret")
    assert modelsigning.verify_openssf(model, RING) == {BOB.public.key_id}
    from model_signing import verifying

    public = tmp_path / "bob.pub"
    public.write_bytes(BOB.public.pem())
    verifying.Config().use_elliptic_key_verifier(public_key=public).verify(model, model / "model.sig")
    for ring in (Keyring(), Keyring.of(SigningKey.generate("ecdsa-p256").public)):
        with pytest.raises(IntegrityError, match="trusted"):
            modelsigning.verify_openssf(model, ring)


@needs_package
@pytest.mark.parametrize("what", TAMPERINGS)
def test_openssf_s_format_finds_changes_too(model: Path, key_file: Path, what: str) -> None:
    modelsigning.sign_openssf(model, key_file, b"secret")
    TAMPERINGS[what](model)
    with pytest.raises(IntegrityError):
        modelsigning.verify_openssf(model, RING)


@needs_package
def test_a_signer_may_not_leave_files_out(model: Path, key_file: Path) -> None:
    from model_signing import hashing, signing

    config = signing.Config().use_elliptic_key_signer(private_key=key_file, password=b"secret")  # type: ignore[arg-type]
    config.set_hashing_config(hashing.Config().set_ignored_paths(paths=["model.sig", "sub"]))
    config.sign(model, model / "model.sig")
    with pytest.raises(IntegrityError, match="left out"):
        modelsigning.verify_openssf(model, RING)


@needs_package
def test_openssf_takes_no_ed25519(model: Path, tmp_path: Path) -> None:
    ALICE.save(tmp_path / "alice.pem", None)
    with pytest.raises(UsageError, match="ECDSA"):
        modelsigning.sign_openssf(model, tmp_path / "alice.pem", None)
    with pytest.raises(UsageError, match="openssf"):
        modelsigning.verify_openssf(model, RING)
