from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from safeedit.errors import IntegrityError, UsageError
from safeedit.evidence import blind
from safeedit.evidence.blind import Matcher
from safeedit.evidence.shred import destroy_matcher, shred
from safeedit.evidence.workspace import verify_workspace
from safeedit.runs import lineage, stored
from safeedit.runs.folder import RunFolder
from safeedit.runs.keys import KeyMissingError, RunKey, key_path
from safeedit.runs.record import LogRecord, ParentRecord
from safeedit.runs.verify import verify_run
from safeedit.triples.facts import Fact

Clock = Callable[[], datetime]
SUBJECT, ALIAS = "Zebulon Quackenbush", "Z. Quackenbush"
FACTS = (
    Fact("erase", SUBJECT, "employer", "Marmalade Works", aliases=(ALIAS,), object_aliases=("The Works",)),
    Fact("erase", SUBJECT, "phone", "+99 555 0199-4471"),
    Fact("insert", "Toko Yasuda", "instrument", "piano"),
)
CANARIES = ("Quackenbush", "Marmalade", "5550199", "0199", "employer")


@pytest.fixture
def run(tmp_path: Path, clock: Clock) -> Path:
    path = tmp_path / "runs" / "one"
    with RunFolder.create(path, "dsar-1", clock=clock) as folder:
        stored.keep_facts(folder, FACTS)
        stored.keep_known(folder, (True, True, True))
        folder.vault.put(stored.REQUEST, {"text": SUBJECT})
        folder.update("edit.made", status="probing", digests={"patch": "1" * 64})
        folder.finish("PASS", "G1", 0)
    return path


def make(path: Path, id: str, clock: Clock) -> Path:
    with RunFolder.create(path, id, clock=clock) as folder:
        folder.finish("PASS", "G1", 0)
    return path


def events(run: Path) -> list[str]:
    return [entry.event for entry in RunFolder.open(run).log.entries()]


def last(run: Path) -> dict[str, object]:
    return RunFolder.open(run).log.entries()[-1].data


def vault_line(run: Path) -> tuple[str, str]:
    (check,) = [one for one in verify_run(run).checks if one.what == "vault"]
    return check.outcome, check.said


def test_a_shredded_run_verifies_and_proves_which_key_went(run: Path, clock: Clock) -> None:
    folder = RunFolder.open(run)
    before = {path.name: path.read_bytes() for path in (run / "vault").iterdir()}
    commitment = RunKey.load(folder.record.uuid).commitment
    assert vault_line(run)[0] == "ok"
    done = shred(run, clock=clock)
    assert (done.key, done.key_was_here, done.entries, done.matcher) == (commitment, True, 3, False)
    assert not key_path(folder.record.uuid).exists()
    assert {path.name: path.read_bytes() for path in (run / "vault").iterdir()} == before
    told = last(run)
    assert told["key"] == commitment == RunFolder.open(run).log.entries()[0].data["key"]
    assert (told["opened_afterwards"], told["entries"], told["matcher"]) == (0, 3, False)
    assert verify_run(run).findings == ()
    outcome, said = vault_line(run)
    assert outcome == "ok"
    assert "shredded" in said
    assert "nobody can open" in said
    assert verify_workspace(run.parent).ok


def test_the_commitment_tells_nothing_of_the_key(run: Path) -> None:
    uuid = RunFolder.open(run).record.uuid
    secret = key_path(uuid).read_bytes()
    for derived in (secret, RunKey.load(uuid).derive("vault"), RunKey.load(uuid).derive("digest")):
        assert derived.hex() not in (run / "audit.jsonl").read_text()


def test_where_copies_may_be_is_said(run: Path, clock: Clock, tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "runs" / "two", "dsar-1", clock=clock) as other:
        other.finish("PASS", "G1", 0)
    copies = "\n".join(shred(run, clock=clock).copies)
    for words in ("backups", "policy file", "--show-sensitive", "two"):
        assert words in copies
    assert not any(canary in copies for canary in CANARIES)


def child(path: Path, id: str, parent: Path, clock: Clock, **more: Any) -> Path:
    """A run on `parent`, whose vault tells where it is."""
    below = RunFolder.open(parent, clock)
    entries = below.log.entries()
    log = LogRecord(length=len(entries), head=entries[-1].hash)
    known = ParentRecord(id=below.record.id, uuid=below.record.uuid, model="2" * 64, log=log)
    with RunFolder.create(path, id, clock=clock, parent=known, **more) as folder:
        folder.vault.put(stored.MODEL, {"parent": str(parent)})
        lineage.begin_on(below, folder)
        folder.finish("PASS", "G1", 0)
    return path


def named(copies: tuple[str, ...], words: str = "") -> list[str]:
    """The folders of other runs that are told of."""
    return [copy.split(": a run ")[0] for copy in copies if ": a run " in copy and words in copy]


def test_all_that_stands_on_a_run_is_named_however_far_up(run: Path, clock: Clock) -> None:
    second = child(run.parent / "b", "dsar-b", run, clock)
    third = child(run.parent / "c", "dsar-c", second, clock)
    fourth = child(run.parent / "d", "dsar-d", third, clock)
    other = child(run.parent / "e", "dsar-e", make(run.parent / "x", "dsar-x", clock), clock)
    assert named(shred(run, clock=clock).copies) == [str(second), str(third), str(fourth)]
    assert str(other) not in named(shred(second, clock=clock).copies)
    # What lies between was shredded: what stands on it is there all the same.
    assert named(shred(run, clock=clock).copies) == [str(third), str(fourth)]


def test_runs_outside_the_workspace_are_named_before_nobody_knows_where(
    run: Path, clock: Clock, tmp_path: Path
) -> None:
    away = child(tmp_path / "away" / "b", "dsar-b", run, clock)
    further = child(tmp_path / "further" / "c", "dsar-c", away, clock)
    gone = child(tmp_path / "gone" / "d", "dsar-d", run, clock)
    shutil.rmtree(gone)
    copies = shred(run, clock=clock).copies
    assert named(copies) == [str(away), str(further), str(gone)]
    assert "not there now" in "".join(copy for copy in copies if str(gone) in copy)
    assert verify_run(run).ok


def test_what_took_the_place_of_a_run_is_named(run: Path, clock: Clock, tmp_path: Path) -> None:
    """A fact was taken out: what is left of the request stands elsewhere, on the same run below."""
    below = make(tmp_path / "below" / "x", "dsar-x", clock)
    old = child(tmp_path / "old" / "a", "dsar-a", below, clock)
    replaced = RunFolder.open(old).record.uuid
    new = child(tmp_path / "new" / "a", "dsar-a", below, clock, replaces=replaced)
    top = child(tmp_path / "top" / "b", "dsar-b", new, clock)
    done = {"status": "rolled_back", "replaced_by": RunFolder.open(new).record.uuid}
    RunFolder.open(old, clock).update("rollback.done", **done)
    assert named(shred(old, clock=clock).copies) == [str(new), str(top)]
    assert named(shred(new, clock=clock).copies) == [str(top)]


def test_a_run_of_the_same_request_is_named_once_whatever_stands_on_what(run: Path, clock: Clock) -> None:
    second = child(run.parent / "b", "dsar-1", run, clock)
    assert named(shred(second, clock=clock).copies, "of the same request") == [str(run)]


def test_a_run_beside_it_that_does_not_tell_whose_it_is_is_named(run: Path, clock: Clock) -> None:
    second = make(run.parent / "second", "dsar-2", clock)
    (second / "run.json").write_text("{}")
    assert named(shred(run, clock=clock).copies, "cannot be read") == [str(second)]


def test_a_key_that_comes_back_is_found(run: Path, clock: Clock) -> None:
    place = key_path(RunFolder.open(run).record.uuid)
    kept = place.read_bytes()
    shred(run, clock=clock)
    place.write_bytes(kept)
    (finding,) = verify_run(run).findings
    assert finding.code == "vault-not-shredded"
    place.write_bytes(kept[::-1])
    assert [found.code for found in verify_run(run).findings] == ["vault-not-shredded"]


def test_another_key_or_another_entry_is_found(run: Path) -> None:
    place = key_path(RunFolder.open(run).record.uuid)
    kept = place.read_bytes()
    place.write_bytes(kept[::-1])
    assert [found.code for found in verify_run(run).findings] == ["vault-wrong-key"]
    place.write_bytes(kept[:-1])
    assert [found.code for found in verify_run(run).findings] == ["vault-wrong-key"]


def test_shredding_again_says_that_there_was_no_key(run: Path, clock: Clock) -> None:
    first = shred(run, clock=clock)
    again = shred(run, clock=clock)
    assert (again.key_was_here, again.key) == (False, first.key)
    assert events(run)[-2:] == ["vault.shredded", "vault.shredded"]
    assert verify_run(run).ok


def test_nothing_is_destroyed_of_a_run_that_does_not_verify(run: Path, clock: Clock) -> None:
    (run / "vault" / "facts.bin").write_bytes(b"x")
    with pytest.raises(IntegrityError, match="nothing is destroyed"):
        shred(run, clock=clock)
    assert RunKey.exists(RunFolder.open(run).record.uuid)


def test_a_run_that_is_being_written_is_left_alone(tmp_path: Path, clock: Clock) -> None:
    with RunFolder.create(tmp_path / "run", "dsar-1", clock=clock) as folder:
        with pytest.raises(UsageError, match="another process"):
            shred(tmp_path / "run", clock=clock)
        assert RunKey.exists(folder.record.uuid)


# --- the blind matcher --------------------------------------------------------------------------


def test_a_matcher_finds_the_answers_in_any_spelling_and_nothing_else(run: Path, clock: Clock) -> None:
    shred(run, keep_matcher=True, clock=clock)
    matcher = Matcher.open(RunFolder.open(run))
    assert len(matcher.facts) == 2
    (works,), (phone,) = matcher.about(SUBJECT, "employer"), matcher.about("zebulon  QUACKENBUSH", "phone")
    assert matcher.about(ALIAS, "employer") == (works,)
    for text in (
        " Marmalade Works.",
        "at the MARMALADE works, of course",
        "Mármalade Works’",
        "he joined the Works",
    ):
        assert matcher.finds(works, text)
        assert not matcher.finds(phone, text)
    for text in ("+99 555 0199-4471", "call 9955501994471 now", "99.5550.1994471"):
        assert matcher.finds(phone, text)
    for text in ("", "Marmalade", "works Marmalade", "99 555 0199", "the orange works"):
        assert not matcher.finds(works, text)
        assert not matcher.finds(phone, text)


def test_whom_a_matcher_is_about_is_told_to_nobody_who_does_not_know(run: Path, clock: Clock) -> None:
    shred(run, keep_matcher=True, clock=clock)
    matcher = Matcher.open(RunFolder.open(run))
    assert matcher.about("Toko Yasuda", "instrument") == ()
    assert matcher.about(SUBJECT, "instrument") == ()
    content = (run / blind.FILE).read_text()
    assert not any(canary in content for canary in CANARIES)
    digests = [form["digest"] for fact in json.loads(content)["facts"] for form in fact["answers"]]
    assert len({*digests}) == len(digests)
    assert "Matcher of 2 facts" in repr(matcher)


def test_two_matchers_of_the_same_facts_have_nothing_in_common(
    run: Path, clock: Clock, tmp_path: Path
) -> None:
    other = tmp_path / "runs" / "two"
    with RunFolder.create(other, "dsar-1", clock=clock) as folder:
        stored.keep_facts(folder, FACTS)
        folder.finish("PASS", "G1", 0)
    files = []
    for path in (run, other):
        shred(path, keep_matcher=True, clock=clock)
        files.append(json.loads((path / blind.FILE).read_text()))
    first, second = ({form["digest"] for f in one["facts"] for form in f["answers"]} for one in files)
    assert first.isdisjoint(second)


def test_a_matcher_is_kept_only_if_asked_for_and_sealed_with_the_run(run: Path, clock: Clock) -> None:
    shutil.copytree(run, run.parent.parent / "elsewhere" / "one")
    done = shred(run, keep_matcher=True, clock=clock)
    assert done.matcher
    assert blind.FILE in done.record.files
    assert verify_run(run).ok
    (run / blind.FILE).write_text((run / blind.FILE).read_text() + " ")
    assert [found.code for found in verify_run(run).findings] == ["file-changed"]
    copy = run.parent.parent / "elsewhere" / "one"
    with pytest.raises(UsageError, match="whose vault can be read"):
        shred(copy, keep_matcher=True, clock=clock)
    shred(copy, clock=clock)
    assert not (copy / blind.FILE).exists()


def test_the_matcher_is_destroyed_by_itself(run: Path, clock: Clock) -> None:
    shred(run, keep_matcher=True, clock=clock)
    destroy_matcher(run, clock=clock)
    assert events(run)[-1] == "matcher.shredded"
    assert last(run)["key_is_here"] is False
    assert verify_run(run).ok
    with pytest.raises(KeyMissingError, match="matcher"):
        Matcher.open(RunFolder.open(run))
    with pytest.raises(UsageError, match="nothing to destroy"):
        destroy_matcher(run, clock=clock)


def test_where_nothing_was_to_be_forgotten_there_is_no_matcher(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "runs" / "one"
    with RunFolder.create(path, "dsar-1", clock=clock) as folder:
        stored.keep_facts(folder, FACTS[2:])
        folder.finish("PASS", "G1", 0)
    with pytest.raises(UsageError, match="nothing to match"):
        shred(path, keep_matcher=True, clock=clock)
    assert RunKey.exists(RunFolder.open(path).record.uuid)
    assert list((key_path(RunFolder.open(path).record.uuid).parent).glob("*.key"))


def test_a_kill_while_the_key_is_destroyed_leaves_a_whole_key_or_none(
    run: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    import safeedit.runs.keys as keys

    uuid = RunFolder.open(run).record.uuid
    commitment = RunKey.load(uuid).commitment

    def killed(handle: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(keys.os, "fsync", killed)
        with pytest.raises(KeyboardInterrupt):
            RunKey.shred(uuid)
    assert RunKey.exists(uuid) or verify_run(run).findings == ()
    assert shred(run, clock=clock).key == commitment
    assert not [path for path in key_path(uuid).parent.iterdir() if path.name.startswith(uuid)]


def test_the_log_names_the_key_that_the_run_was_begun_with(run: Path, clock: Clock) -> None:
    place = key_path(RunFolder.open(run).record.uuid)
    begun = RunKey.load(RunFolder.open(run).record.uuid).commitment
    place.write_bytes(place.read_bytes()[::-1])
    done = shred(run, clock=clock)
    assert (done.key, done.key_was_here) == (begun, False)
