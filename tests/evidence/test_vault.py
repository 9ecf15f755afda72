from __future__ import annotations

import stat
import uuid
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safeedit.errors import IntegrityError, UsageError
from safeedit.runs import keys
from safeedit.runs.keys import KeyMissingError, RunKey, key_path
from safeedit.runs.vault import Vault


@pytest.fixture
def run_id() -> str:
    return str(uuid.uuid4())


@pytest.fixture
def vault(tmp_path: Path, run_id: str) -> Vault:
    return Vault.create(tmp_path, run_id)


def test_what_was_put_is_got_by_another_process(
    vault: Vault, tmp_path: Path, run_id: str, canaries: dict[str, str]
) -> None:
    vault.put("request", {"facts": [canaries]})
    vault.put("request", {"facts": [canaries, None, 1.5]})
    vault.put("generations", list(canaries.values()))
    again = Vault.open(tmp_path, run_id)
    assert again.names() == ("generations", "request")
    assert again.get("request") == {"facts": [canaries, None, 1.5]}
    assert not again.shredded


def test_no_entry_shows_its_text_and_equal_texts_look_different(
    vault: Vault, tmp_path: Path, canaries: dict[str, str]
) -> None:
    vault.put("one", canaries)
    vault.put("two", canaries)
    one, two = ((tmp_path / "vault" / f"{name}.bin").read_bytes() for name in ("one", "two"))
    assert one != two
    for text in canaries.values():
        assert text.encode() not in one + two
    assert "Quackenbush" not in repr(vault)


def test_the_key_is_the_owners_alone(vault: Vault, state: Path, run_id: str, tmp_path: Path) -> None:
    path = state / "keys" / f"{run_id}.key"
    assert path == key_path(run_id)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert path.stat().st_size == 32
    vault.put("request", 1)
    secret = path.read_bytes()
    assert all(secret not in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


def test_without_a_variable_the_key_goes_to_the_users_state_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAFEEDIT_STATE_DIR")
    assert keys.state_folder().name == "safeedit"
    assert Path.home() in keys.state_folder().parents


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_flipped_bit_of_an_entry_is_noticed(vault: Vault, tmp_path: Path, data: st.DataObject) -> None:
    vault.put("request", {"a": "text"})
    path = tmp_path / "vault" / "request.bin"
    blob = bytearray(path.read_bytes())
    blob[data.draw(st.integers(0, len(blob) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(blob)
    with pytest.raises(IntegrityError, match="cannot be opened"):
        vault.get("request")


def test_an_entry_cannot_be_cut_renamed_or_moved_to_another_run(vault: Vault, tmp_path: Path) -> None:
    vault.put("request", 1)
    blob = (tmp_path / "vault" / "request.bin").read_bytes()
    (tmp_path / "vault" / "other.bin").write_bytes(blob)
    with pytest.raises(IntegrityError, match="'other' cannot be opened"):
        vault.get("other")
    stranger = Vault.create(tmp_path / "elsewhere", str(uuid.uuid4()))
    stranger.put("request", 2)
    (tmp_path / "elsewhere" / "vault" / "request.bin").write_bytes(blob)
    with pytest.raises(IntegrityError):
        stranger.get("request")
    (tmp_path / "vault" / "request.bin").write_bytes(blob[:10])
    with pytest.raises(IntegrityError):
        vault.get("request")


def test_a_wrong_or_damaged_key_is_noticed(vault: Vault, run_id: str) -> None:
    vault.put("request", 1)
    key_path(run_id).write_bytes(bytes(32))
    with pytest.raises(IntegrityError, match="cannot be opened"):
        vault.get("request")
    key_path(run_id).write_bytes(b"short")
    with pytest.raises(IntegrityError, match="damaged"):
        vault.get("request")


def test_after_shredding_nothing_can_be_read_or_written(
    vault: Vault, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault.put("request", 1)
    path = key_path(run_id)
    secret, at_removal = path.read_bytes(), []
    unlink = Path.unlink
    monkeypatch.setattr(
        Path, "unlink", lambda self, **kw: (at_removal.append(self.read_bytes()), unlink(self, **kw))[1]
    )
    assert vault.shred()
    assert at_removal != [secret]
    assert len(at_removal[0]) == len(secret)
    assert vault.shredded
    assert not path.exists()
    assert not vault.shred()
    assert vault.names() == ("request",)
    with pytest.raises(KeyMissingError, match="it was destroyed, or the run was made on another machine"):
        vault.get("request")
    with pytest.raises(KeyMissingError):
        vault.put("request", 2)


def test_an_unknown_entry_or_name_is_a_clear_error(vault: Vault) -> None:
    vault.put("request", 1)
    with pytest.raises(UsageError, match="no entry 'generations'; there are: request"):
        vault.get("generations")
    for name in ("../x", "A", "", "a/b", "x" * 65):
        with pytest.raises(UsageError, match="lower-case"):
            vault.put(name, 1)


def test_a_second_vault_for_one_run_is_refused(vault: Vault, tmp_path: Path, run_id: str) -> None:
    with pytest.raises(UsageError, match="already has a key"):
        Vault.create(tmp_path, run_id)


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "x", "A" * 36])
def test_a_damaged_uuid_names_no_file(name: str) -> None:
    with pytest.raises(IntegrityError, match="not a lower-case UUID"):
        RunKey.shred(name)


def test_keys_for_different_purposes_and_runs_differ() -> None:
    secret = bytes(32)
    one, other = RunKey("a", secret), RunKey("b", secret)
    assert len({one.derive("vault"), one.derive("digest"), other.derive("vault"), secret}) == 4
    assert one.derive("vault") == RunKey("a", secret).derive("vault")
    assert "0000" not in repr(one)
