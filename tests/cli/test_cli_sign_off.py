"""`safeedit keys`, `sign-off` and what `verify` says of signatures, as a person and a script see them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_types import Command
from signed_runs import Clock, make_run

from safeedit.runs.folder import RunFolder


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFEEDIT_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("SAFEEDIT_KEY_PASSPHRASE", raising=False)


@pytest.fixture
def run(here: Path) -> Path:
    return make_run(here / "runs" / "one", Clock())


def new_key(safeedit: Command, name: str, *more: str) -> Path:
    done = safeedit("keys", "new", name, "--json", "--no-passphrase", *more)
    assert done.code == 0, done.err
    assert safeedit("keys", "trust", name, json.loads(done.out)["public"]).code == 0
    return Path(json.loads(done.out)["private"])


def test_two_people_sign_and_verify_tells_of_both(safeedit: Command, run: Path) -> None:
    alice, bob = new_key(safeedit, "alice"), new_key(safeedit, "bob", "--kind", "ecdsa-p384")
    assert safeedit("sign-off", run, "--bundle").code == 2
    first = safeedit("sign-off", run, "--key", alice, "--json")
    assert (first.code, json.loads(first.out)["sign_off"]) == (0, "pending")
    second = safeedit("sign-off", run, "--key", bob)
    assert second.code == 0
    assert "approved, 2 of 2 approvals" in second.out
    lines = [json.loads(line) for line in safeedit("sign-off", run, "--bundle").out.splitlines()]
    assert [len(line["signatures"]) for line in lines] == [2, 1, 1]
    checked = safeedit("verify", run)
    assert checked.code == 0, checked.out
    listed = json.loads(safeedit("keys", "list", "--json").out)["keys"]
    for one in listed:
        assert one["key"][:32] in checked.out.replace("\n", "")


def test_refusals_are_one_line_and_exit_2(safeedit: Command, run: Path, here: Path) -> None:
    stranger = json.loads(safeedit("keys", "new", "eve", "--no-passphrase", "--json").out)["private"]
    for words, told in (
        (("--key", stranger), "keys trust"),
        (("--key", here / "none.pem"), "cannot be read"),
        (("--key", run / "run.json"), "no private key"),
        ((), "--key FILE"),
        (("--key", stranger, "--reject"), "needs a reason"),
        (("--key", stranger, "--reject", "--withdraw"), "exclude each other"),
        (("--key", stranger, "--expires", "2020-01-01"), "not trusted"),
        (("--key", stranger, "--keyring", here / "none.json"), "no keyring"),
    ):
        done = safeedit("sign-off", run, *words)
        assert done.code == 2, done.err
        assert told in done.err.replace("\n│ ", " ")
    assert not (run / "attestation.json").exists()


def test_a_rejection_has_a_code(safeedit: Command, run: Path) -> None:
    alice = new_key(safeedit, "alice")
    codes = json.loads(safeedit("sign-off", "--codes").out)
    done = safeedit("sign-off", run, "--key", alice, "--reject", "--reason", codes["reasons"][0], "--json")
    assert json.loads(done.out)["sign_off"] == "rejected"
    assert "rejected" in safeedit("verify", run).out


def test_what_would_be_signed_can_be_read_first(safeedit: Command, run: Path) -> None:
    alice = new_key(safeedit, "alice")
    before = (run / "audit.jsonl").read_bytes()
    shown = safeedit("sign-off", run, "--key", alice, "--dry-run")
    statement = json.loads(shown.out)
    assert statement["predicate"]["approval"]["decision"] == "approve"
    assert (run / "audit.jsonl").read_bytes() == before
    schema = json.loads(safeedit("sign-off", "--schema").out)
    assert schema["$id"] == statement["predicateType"]


def test_a_passphrase_comes_from_the_environment(
    safeedit: Command, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert safeedit("keys", "new", "carol").code == 2
    monkeypatch.setenv("SAFEEDIT_KEY_PASSPHRASE", "correct horse battery")
    made = json.loads(safeedit("keys", "new", "carol", "--json").out)
    assert made["encrypted"] is True
    assert safeedit("keys", "trust", "carol", made["public"]).code == 0
    monkeypatch.delenv("SAFEEDIT_KEY_PASSPHRASE")
    asked = safeedit("sign-off", run, "--key", made["private"])
    assert (asked.code, "SAFEEDIT_KEY_PASSPHRASE" in asked.err) == (2, True)
    monkeypatch.setenv("SAFEEDIT_KEY_PASSPHRASE", "wrong")
    wrong = safeedit("sign-off", run, "--key", made["private"])
    assert (wrong.code, "wrong" in wrong.err.replace("passphrase is wrong", "wrong")) == (2, True)
    monkeypatch.setenv("SAFEEDIT_KEY_PASSPHRASE", "correct horse battery")
    done = safeedit("sign-off", run, "--key", made["private"])
    assert done.code == 0
    assert "correct horse" not in done.out + done.err


def test_a_changed_run_is_refused_before_and_void_after(safeedit: Command, run: Path) -> None:
    alice = new_key(safeedit, "alice")
    assert safeedit("sign-off", run, "--key", alice).code == 0
    other = b'{"format": "other"}'
    RunFolder.open(run).update("report.written", {}, files={"patch/patch.json": other})
    checked = safeedit("verify", run)
    assert checked.code == 5
    assert "void" in checked.out
    bob = new_key(safeedit, "bob")
    assert safeedit("sign-off", run, "--key", bob).code == 5


def test_revoked_and_listed(safeedit: Command, here: Path) -> None:
    new_key(safeedit, "alice")
    assert safeedit("keys", "revoke", "alice", "--from", "2026-11-30").code == 0
    assert "until 2026-11-30" in safeedit("keys", "list").out
    assert safeedit("keys", "revoke", "nobody").code == 2
    assert safeedit("keys", "trust", "x", here).code == 2
    assert "no key" in safeedit("keys", "list", "--keyring", _empty(here)).out
    assert safeedit("keys", "new", "alice@example.org", "--no-passphrase").code == 2


def test_a_model_s_folder_is_signed_and_verified(safeedit: Command, here: Path) -> None:
    alice, folder = new_key(safeedit, "alice"), here / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert safeedit("model", "verify", folder).code == 2
    assert safeedit("model", "sign", folder, "--key", alice).code == 0
    done = safeedit("model", "verify", folder, "--json")
    assert (done.code, len(json.loads(done.out)["keys"])) == (0, 1)
    assert "every file" in safeedit("model", "verify", folder).out
    (folder / "modeling_x.py").write_text("")
    changed = safeedit("model", "verify", folder)
    assert (changed.code, "modeling_x.py was added" in changed.err) == (5, True)


def _empty(here: Path) -> Path:
    path = here / "keyring.json"
    path.write_text('{"format": "safeedit.keyring/1", "keys": []}')
    return path
