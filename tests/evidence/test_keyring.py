"""Keyrings: who is trusted with what, and what no damage to the file can make of it."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from safeedit.errors import IntegrityError, UsageError
from safeedit.evidence.keyring import Keyring, keyring_path, revoke, trust
from safeedit.evidence.signing import SigningKey

DAY = date(2026, 11, 2)
A, B = SigningKey.generate().public, SigningKey.generate("ecdsa-p256").public


def test_nobody_is_trusted_at_first() -> None:
    assert Keyring.load() == Keyring()
    assert not Keyring.load().with_role("approver")


def test_the_user_s_keyring_is_the_default(state: Path) -> None:
    trust(A, "alice", ("approver",), DAY)
    assert keyring_path() == state / "keyring.json"
    assert [one.name for one in Keyring.load().keys] == ["alice"]
    keyring_path().unlink()


def test_roles_are_kept_apart(tmp_path: Path) -> None:
    ring = tmp_path / "keyring.json"
    trust(A, "alice", ("approver", "evaluator"), DAY, ring)
    trust(B, "lab", ("evaluator",), DAY, ring)
    loaded = Keyring.load(ring)
    assert [one.name for one in loaded.with_role("approver")] == ["alice"]
    assert [one.name for one in loaded.with_role("evaluator")] == ["alice", "lab"]
    trust(A, "alice", ("evaluator",), DAY, ring)
    assert not Keyring.load(ring).with_role("approver")
    found = loaded.find(B.key_id)
    assert found is not None
    assert found.key == B
    assert loaded.find(f"sha256:{'0' * 64}") is None


def test_revoking_counts_from_a_day_on(tmp_path: Path) -> None:
    ring = tmp_path / "keyring.json"
    trust(A, "alice", ("approver",), DAY, ring)
    revoke("alice", date(2026, 11, 10), ring)
    one = Keyring.load(ring).keys[0]
    assert one.counts_at(datetime(2026, 11, 9, 23, 59, 59, tzinfo=UTC))
    assert not one.counts_at(datetime(2026, 11, 10, tzinfo=UTC))
    with pytest.raises(UsageError, match="already"):
        revoke("alice", date(2026, 11, 11), ring)
    revoke("alice", date(2026, 11, 5), ring)
    assert Keyring.load(ring).keys[0].revoked == date(2026, 11, 5)
    with pytest.raises(UsageError, match="new key"):
        trust(A, "alice", ("approver",), DAY, ring)


@pytest.mark.parametrize("name", ["alice@example.org", "Mira Tolland", "", "x" * 65, ".hidden", "a\n"])
def test_a_name_is_a_pseudonym(tmp_path: Path, name: str) -> None:
    ring = tmp_path / "keyring.json"
    with pytest.raises(UsageError, match="name") as told:
        trust(A, name, ("approver",), DAY, ring)
    assert not name or name not in str(told.value)
    assert not ring.exists()


def test_what_is_asked_for_wrongly(tmp_path: Path) -> None:
    ring = tmp_path / "keyring.json"
    with pytest.raises(UsageError, match="no keyring"):
        Keyring.load(ring)
    with pytest.raises(UsageError, match="there are: none"):
        revoke("alice", DAY, ring)
    assert not ring.exists()
    with pytest.raises(UsageError, match="role"):
        trust(A, "alice", (), DAY, ring)
    with pytest.raises(UsageError, match="no folder"):
        trust(A, "alice", ("approver",), DAY, tmp_path / "nowhere" / "keyring.json")
    trust(A, "alice", ("approver",), DAY, ring)
    with pytest.raises(UsageError, match="another key"):
        trust(B, "alice", ("approver",), DAY, ring)
    assert [one.key for one in Keyring.load(ring).keys] == [A]


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(format="safeedit.keyring/2"),
        lambda c: c["keys"].append(c["keys"][0]),
        lambda c: c["keys"].append({**c["keys"][0], "name": "other"}),
        lambda c: c["keys"][0].update(roles=["admin"]),
        lambda c: c["keys"][0].update(roles=[]),
        lambda c: c["keys"][0].update(pem="x"),
        lambda c: c["keys"][0].update(note="Mira Tolland"),
        lambda c: c["keys"][0].update(name="alice@example.org"),
        lambda c: c["keys"][0].update(revoked="soon"),
    ],
)
def test_a_damaged_keyring_trusts_nobody(tmp_path: Path, change: Any) -> None:
    ring = tmp_path / "keyring.json"
    trust(A, "alice", ("approver",), DAY, ring)
    content = json.loads(ring.read_text())
    change(content)
    ring.write_text(json.dumps(content))
    with pytest.raises(IntegrityError, match="keyring") as told:
        Keyring.load(ring)
    assert "Tolland" not in str(told.value)
    before = ring.read_bytes()
    with pytest.raises(IntegrityError):
        trust(B, "bob", ("approver",), DAY, ring)
    assert ring.read_bytes() == before


def test_several_at_once_lose_no_key(tmp_path: Path) -> None:
    ring = tmp_path / "keyring.json"
    keys = [SigningKey.generate().public for _ in range(8)]

    def add(number: int) -> None:
        trust(keys[number], f"key-{number}", ("approver",), DAY, ring)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(8)))
    assert {one.key for one in Keyring.load(ring).keys} == set(keys)
