from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from workspaces import KEY, RING, STRANGER, Clock, make_run

from safeedit.canonical import canonical_json
from safeedit.errors import IntegrityError, UsageError
from safeedit.evidence.checkpoints import CHECKPOINTS, Kept, checkpoint, read_checkpoints
from safeedit.evidence.keyring import Keyring, TrustedKey
from safeedit.evidence.ledger import LEDGER, Ledger
from safeedit.evidence.merkle import verify_consistency
from safeedit.evidence.proofs import check_proof, prove
from safeedit.evidence.workspace import verify_workspace
from safeedit.runs.chain import Entry, read_lines
from safeedit.runs.verify import verify_run


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def workspace(tmp_path: Path, clock: Clock) -> Path:
    path = tmp_path / "runs"
    path.mkdir()
    make_run(path / "one", clock)
    checkpoint(path, [KEY], clock=clock)
    make_run(path / "two", clock)
    checkpoint(path, [KEY], clock=clock)
    return path


def codes(workspace: Path, ring: Keyring = RING) -> set[str]:
    return {finding.code for finding in verify_workspace(workspace, ring).findings}


def kept(workspace: Path) -> list[Kept]:
    found = read_checkpoints(workspace)
    assert all(isinstance(one, Kept) for one in found)
    return [one for one in found if isinstance(one, Kept)]


def test_a_checkpoint_signs_the_head_and_names_the_one_before(workspace: Path) -> None:
    first, second = kept(workspace)
    ledger = Ledger.of(workspace)
    assert first.checkpoint.previous is None
    assert second.checkpoint.previous == first.digest
    assert first.checkpoint.size < second.checkpoint.size
    for one in (first, second):
        assert one.checkpoint.tree_head == ledger.head(one.checkpoint.size)
        assert one.envelope.verified_by([KEY.public, STRANGER.public]) == {KEY.public.key_id}
    old, new = first.checkpoint.tree_head, second.checkpoint.tree_head
    assert verify_consistency(old, new, ledger.consistency(old.size, new.size))
    told = [entry for entry in ledger.entries() if entry.event == "checkpoint.signed"]
    assert [entry.data["statement"] for entry in told] == [first.digest, second.digest]
    assert codes(workspace) == set()


def test_verify_has_a_line_for_each_checkpoint(workspace: Path) -> None:
    lines = [check for check in verify_run(workspace / "one", RING).checks if "checkpoints" in check.what]
    assert [check.outcome for check in lines] == ["ok", "ok"]
    assert "signed at" in lines[0].said


def test_without_a_trusted_key_the_signature_is_not_called_checked(workspace: Path) -> None:
    report = verify_workspace(workspace, Keyring())
    assert report.findings == ()
    lines = [check for check in report.checks if "checkpoints" in check.what]
    assert [check.outcome for check in lines] == ["not checked", "not checked"]
    assert "not trusted here" in lines[0].notes[0]
    assert codes(workspace, Keyring.of(STRANGER.public)) == {"checkpoint-signature"}


def test_several_keys_can_sign_one_checkpoint(workspace: Path, clock: Clock) -> None:
    made = checkpoint(workspace, [KEY, STRANGER], clock=clock)
    assert made.envelope.verified_by([KEY.public, STRANGER.public]) == {
        KEY.public.key_id,
        STRANGER.public.key_id,
    }
    assert (
        codes(workspace) == codes(workspace, Keyring.of(STRANGER.public)) - {"checkpoint-signature"} == set()
    )


def test_a_revoked_key_counts_for_what_it_signed_before(workspace: Path) -> None:
    day = kept(workspace)[0].checkpoint.time[:10]
    about = {"name": "k", "pem": KEY.public.pem().decode(), "roles": ["approver"], "added": "2020-01-01"}
    for since, found in ((day, {"checkpoint-signature"}), ("2099-01-01", set())):
        key = TrustedKey.model_validate_json(json.dumps({**about, "revoked": since}))
        assert codes(workspace, Keyring((key,))) == found


def forged(workspace: Path, keep: int, changed: bool = False) -> None:
    """The ledger made anew with its first entries, as whoever knows the format can; nothing remembers it."""
    from safeedit.evidence.witness import forget

    path = workspace / LEDGER
    made: list[Entry] = []
    for line in read_lines(path.read_bytes())[0][:keep]:
        assert line.entry is not None
        data = line.entry.data | ({"facts": 9} if changed and line.entry.seq == 2 else {})
        last = made[-1] if made else None
        made.append(Entry.after(last, line.entry.time, line.entry.event, data, Ledger.genesis))
    path.write_bytes(b"".join(entry.line() + b"\n" for entry in made))
    forget(path)


def test_a_ledger_that_was_cut_or_made_anew_is_found_by_the_checkpoint_alone(workspace: Path) -> None:
    size = len(Ledger.of(workspace).entries())
    for name in ("one", "two"):
        shutil.rmtree(workspace / name)
    forged(workspace, size, changed=True)
    assert "checkpoint-rewritten" in codes(workspace)
    report = verify_workspace(workspace, RING)
    assert any("its first" in finding.message for finding in report.findings)
    forged(workspace, 4)
    assert "log-truncated" in codes(workspace)


def test_a_checkpoint_of_another_ledger_is_found(workspace: Path, tmp_path: Path, clock: Clock) -> None:
    other = tmp_path / "other"
    other.mkdir()
    make_run(other / "run", clock)
    checkpoint(other, [KEY], clock=clock)
    (workspace / CHECKPOINTS).write_bytes((other / CHECKPOINTS).read_bytes())
    assert {"checkpoint-rewritten", "checkpoint-missing"} <= codes(workspace)


def test_nothing_is_signed_over_a_ledger_that_does_not_verify(workspace: Path, clock: Clock) -> None:
    path = workspace / LEDGER
    path.write_bytes(path.read_bytes().replace(b'"facts":3', b'"facts":4', 1))
    path.write_bytes(path.read_bytes().replace(b'"log_length":2', b'"log_length":9', 1))
    before = (workspace / CHECKPOINTS).read_bytes()
    with pytest.raises(IntegrityError, match="does not verify, so it is not signed"):
        checkpoint(workspace, [KEY], clock=clock)
    assert (workspace / CHECKPOINTS).read_bytes() == before


def test_without_a_ledger_there_is_nothing_to_sign(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no ledger"):
        checkpoint(tmp_path, [KEY])
    assert list(tmp_path.iterdir()) == []


def test_a_half_written_checkpoint_was_none(workspace: Path, clock: Clock) -> None:
    with (workspace / CHECKPOINTS).open("ab") as stream:
        stream.write(b'{"envelope":{"payl')
    assert codes(workspace) == set()
    checkpoint(workspace, [KEY], clock=clock)
    assert len(kept(workspace)) == 3
    assert codes(workspace) == set()


# --- proofs -------------------------------------------------------------------------------------


def test_a_proof_convinces_somebody_who_has_nothing_else(workspace: Path, tmp_path: Path) -> None:
    content = json.dumps(prove(workspace / "two")).encode()
    run = Path(shutil.copytree(workspace / "two", tmp_path / "copy" / "two"))
    found = check_proof(content, RING, run)
    assert check_proof(content, RING) == found
    assert found.keys == (KEY.public.key_id,)
    assert found.log_length == len((run / "audit.jsonl").read_bytes().splitlines())
    one = (workspace / "one" / "run.json").read_text()
    assert json.loads(one)["uuid"].encode() not in content


def test_a_proof_of_anything_else_is_refused(workspace: Path) -> None:
    proof = prove(workspace / "two")
    other = prove(workspace / "one")
    head = Entry.after(None, "2024-11-02T12:00:00.000Z", "edit.made", {"run": "x"}).line().decode()

    def refused(value: object, match: str, run: Path | None = None, ring: Keyring = RING) -> None:
        with pytest.raises(IntegrityError, match=match):
            check_proof(json.dumps(value).encode(), ring, run)

    refused({}, "is no proof")
    refused({**proof, "extra": 1}, "is no proof")
    refused({**proof, "entry": proof["entry"].replace('"facts":3', '"facts":4') + " "}, "was edited")
    refused({**proof, "entry": head}, "not in the ledger")
    refused({**proof, "index": proof["index"] - 1}, "not in the ledger")
    refused({**proof, "path": proof["path"][1:]}, "not in the ledger")
    refused({**proof, "checkpoint": other["checkpoint"]}, "not in the ledger")
    refused(proof, "no key that is trusted", None, Keyring.of(STRANGER.public))
    refused(proof, "about another run", workspace / "one")


def test_a_proof_needs_a_checkpoint_that_came_later(workspace: Path, clock: Clock, tmp_path: Path) -> None:
    from safeedit.runs.folder import RunFolder

    RunFolder.open(workspace / "two", clock).update("report.written", {})
    with pytest.raises(UsageError, match="no checkpoint was signed since"):
        prove(workspace / "two")
    alone = Path(shutil.copytree(workspace / "two", tmp_path / "alone" / "two"))
    with pytest.raises(UsageError, match="no ledger around it"):
        prove(alone)


def test_a_log_that_was_changed_since_the_proof_is_found(workspace: Path) -> None:
    content = canonical_json(prove(workspace / "two"))
    log = workspace / "two" / "audit.jsonl"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(IntegrityError, match="not the one that the proof is about"):
        check_proof(content, RING, workspace / "two")
