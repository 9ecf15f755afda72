"""A workspace with everything in it that can be tampered with, and the ways in which it can be."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from safeedit.evidence.checkpoints import CHECKPOINTS, checkpoint
from safeedit.evidence.keyring import Keyring
from safeedit.evidence.ledger import LEDGER, Ledger
from safeedit.evidence.shred import shred
from safeedit.evidence.signing import SigningKey
from safeedit.evidence.signoff import decide
from safeedit.runs.chain import Entry, read_lines
from safeedit.runs.folder import RunFolder
from safeedit.runs.keys import key_path

NAMES = ("alpha", "beta", "gamma", "delta")
KEY, STRANGER = SigningKey.generate(), SigningKey.generate("ecdsa-p256")
RING = Keyring.of(KEY.public)


class Clock:
    """Goes on by a second whenever it is read."""

    def __init__(self) -> None:
        self.now = datetime(2024, 11, 2, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


def make_run(path: Path, clock: Clock, status: str = "finished") -> Path:
    """A small run; a run's own bytes tell which it is."""
    with RunFolder.create(path, "dsar-1", clock=clock, seed=1) as run:
        run.vault.put("request", {"facts": [path.name]})
        run.vault.put("transcripts", [path.name] * 3)
        run.note("policy.registered", policy=run.redactor.commitment(path.name), facts=3)
        run.update("edit.started", status="editing", digests={"base_model": "0" * 64})
        (run.path / "patch").mkdir()
        (run.path / "patch" / "patch.safetensors").write_bytes(path.name.encode() * 40)
        (run.path / "patch" / "patch.json").write_text(f'{{"format": "{path.name}"}}\n')
        (run.path / "probes.json").write_text(f'{{"suite": "{path.name}", "evidence": true}}\n')
        run.update("edit.made", {"editor": "memit"}, status="probing", digests={"patch": "1" * 64})
        run.note("probes.measured", facts=3)
        if status == "finished":
            run.finish("PASS", "G1", 0)
    return path


def make_workspace(path: Path, clock: Clock) -> Path:
    """Four runs (one approved, one shredded, one rolled back) and two checkpoints."""
    path.mkdir(parents=True)
    runs = [make_run(path / name, clock) for name in NAMES]
    decide(runs[0], KEY, "approve", trusted=RING, clock=clock)
    checkpoint(path, [KEY], clock=clock)
    shred(runs[1], clock=clock)
    RunFolder.open(runs[2], clock).update("rollback.done", {}, status="rolled_back")
    checkpoint(path, [KEY], clock=clock)
    RunFolder.open(runs[3], clock).update("report.written", {"format": "html"})
    Ledger.of(path, clock).append("sensitive.shown", lines=2)
    return path


@dataclass(frozen=True)
class Tampering:
    """Something that was done to a workspace."""

    name: str
    files: frozenset[str]
    """One of these, as a path inside the workspace, has to be named."""
    codes: frozenset[str] = frozenset()
    """One of these codes has to be among the findings; any, where there are none."""


Tamper = Callable[[Path, random.Random], Tampering | None]


def files_of(workspace: Path) -> list[Path]:
    """Every file that holds anything."""
    return sorted(one for one in workspace.rglob("*") if one.is_file() and one.stat().st_size)


def _name(workspace: Path, path: Path) -> str:
    return path.relative_to(workspace).as_posix()


def flip(workspace: Path, rng: random.Random) -> Tampering:
    path = rng.choice(files_of(workspace))
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    return Tampering("flip", frozenset({_name(workspace, path)}))


def truncate(workspace: Path, rng: random.Random) -> Tampering:
    path = rng.choice(files_of(workspace))
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])
    return Tampering("truncate", frozenset({_name(workspace, path)}))


def insert(workspace: Path, rng: random.Random) -> Tampering:
    path = rng.choice(files_of(workspace))
    content = path.read_bytes()
    at = rng.randrange(len(content) + 1)
    path.write_bytes(content[:at] + rng.randbytes(rng.randrange(1, 40)) + content[at:])
    return Tampering("insert", frozenset({_name(workspace, path)}))


def delete(workspace: Path, rng: random.Random) -> Tampering:
    path = rng.choice(files_of(workspace))
    path.unlink()
    return Tampering("delete", frozenset({_name(workspace, path)}))


def rename(workspace: Path, rng: random.Random) -> Tampering:
    path = rng.choice([one for one in files_of(workspace) if one.parent != workspace])
    other = path.with_name(f"x{path.name}")
    path.rename(other)
    return Tampering("rename", frozenset({_name(workspace, path), _name(workspace, other)}))


def add(workspace: Path, rng: random.Random) -> Tampering:
    path = rng.choice(files_of(workspace)).parent
    if path == workspace:
        path = workspace / rng.choice(NAMES)
    (path / "modeling_x.py").write_bytes(rng.randbytes(9))
    return Tampering("add", frozenset({_name(workspace, path / "modeling_x.py")}), frozenset({"file-extra"}))


def exchange(workspace: Path, rng: random.Random) -> Tampering | None:
    """Two files of one name in two runs: patches, records, logs, signatures, vault entries."""
    one, two = rng.sample(NAMES, 2)
    shared = [
        path.relative_to(workspace / one)
        for path in files_of(workspace / one)
        if (workspace / two / path.relative_to(workspace / one)).is_file()
    ]
    name = rng.choice(shared)
    first, second = workspace / one / name, workspace / two / name
    mine, theirs = first.read_bytes(), second.read_bytes()
    if mine == theirs:
        return None
    first.write_bytes(theirs)
    second.write_bytes(mine)
    return Tampering("exchange", frozenset({_name(workspace, first), _name(workspace, second)}))


def lines(workspace: Path, rng: random.Random) -> Tampering | None:
    """Whole lines of a log dropped, repeated or moved."""
    path = workspace / rng.choice((LEDGER, CHECKPOINTS, *(f"{name}/audit.jsonl" for name in NAMES)))
    before = path.read_bytes().splitlines(keepends=True)
    after, how = list(before), rng.choice(("drop", "repeat", "move", "cut"))
    at, to = rng.randrange(len(before)), rng.randrange(len(before))
    if how == "drop":
        del after[at]
    elif how == "repeat":
        after.insert(to, before[at])
    elif how == "move":
        after.insert(to, after.pop(at))
    else:
        after = after[:at]
    if after == before:
        return None
    path.write_bytes(b"".join(after))
    return Tampering(f"lines-{how}", frozenset({_name(workspace, path)}))


def rewrite(workspace: Path, rng: random.Random) -> Tampering | None:
    """A log whose chain was made anew around a change, as whoever knows the format can."""
    name = rng.choice((LEDGER, *(f"{name}/audit.jsonl" for name in NAMES)))
    path = workspace / name
    old = [line.entry for line in read_lines(path.read_bytes())[0] if line.entry]
    kept = [entry for entry in old if rng.random() > 0.2]
    if len(kept) == len(old):
        return None
    made: list[Entry] = []
    genesis = Ledger.genesis if name == LEDGER else "0" * 64
    for entry in kept:
        made.append(Entry.after(made[-1] if made else None, entry.time, entry.event, entry.data, genesis))
    path.write_bytes(b"".join(entry.line() + b"\n" for entry in made))
    return Tampering("rewrite", frozenset({name, f"{name.split('/')[0]}/run.json"}))


def lose_run(workspace: Path, rng: random.Random) -> Tampering:
    shutil.rmtree(workspace / rng.choice(NAMES))
    return Tampering("lose-run", frozenset({LEDGER}), frozenset({"run-missing"}))


def replace_run(workspace: Path, rng: random.Random) -> Tampering:
    """A run in the place of another one."""
    one, two = rng.sample(NAMES, 2)
    shutil.rmtree(workspace / one)
    shutil.copytree(workspace / two, workspace / one)
    return Tampering("replace-run", frozenset({LEDGER}), frozenset({"run-missing"}))


def put_back(workspace: Path, rng: random.Random) -> Tampering:
    """A run as it was before its last event, which verifies by itself."""
    name = rng.choice(NAMES)
    shutil.rmtree(workspace / name)
    shutil.copytree(workspace.parent / "earlier" / name, workspace / name)
    return Tampering("put-back", frozenset({f"{name}/audit.jsonl"}), frozenset({"run-put-back"}))


def other_key(workspace: Path, rng: random.Random) -> Tampering:
    """A checkpoint signed by somebody else, over what it was over."""
    from safeedit.canonical import canonical_json
    from safeedit.evidence.checkpoints import PAYLOAD_TYPE, Kept, line_json, read_checkpoints
    from safeedit.evidence.dsse import sign

    path = workspace / CHECKPOINTS
    kept = [one for one in read_checkpoints(workspace) if isinstance(one, Kept)]
    at = rng.randrange(len(kept))
    made = [
        line_json(sign(one.envelope.payload, PAYLOAD_TYPE, [STRANGER]), None)
        if number == at
        else one.to_json()
        for number, one in enumerate(kept)
    ]
    path.write_bytes(b"".join(canonical_json(one) + b"\n" for one in made))
    return Tampering("other-key", frozenset({CHECKPOINTS}), frozenset({"checkpoint-signature"}))


def vault_key(workspace: Path, rng: random.Random) -> Tampering | None:
    """The key of another vault in the place of a run's own, or of one that was destroyed."""
    name = rng.choice(NAMES)
    place = key_path(RunFolder.open(workspace / name).record.uuid)
    place.write_bytes(rng.randbytes(rng.choice((32, 32, 31))))
    codes = {"vault-wrong-key", "vault-not-shredded"}
    return Tampering("vault-key", frozenset({f"{name}/vault"}), frozenset(codes))


def clock_back(workspace: Path, rng: random.Random) -> Tampering:
    """The machine's clock is set back, and the run goes on."""
    name = rng.choice(NAMES)
    late = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(hours=rng.randrange(100))
    RunFolder.open(workspace / name, lambda: late).update("report.written", {"format": "html"})
    return Tampering("clock-back", frozenset({f"{name}/audit.jsonl"}), frozenset({"clock-back"}))


ALL: tuple[Tamper, ...] = (
    flip,
    truncate,
    insert,
    delete,
    rename,
    add,
    exchange,
    lines,
    rewrite,
    lose_run,
    replace_run,
    put_back,
    other_key,
    vault_key,
    clock_back,
)


def honest(workspace: Path, clock: Clock, rng: random.Random, count: int) -> Iterator[str]:
    """Things that people do with a workspace, one after the other; each leaves it sound."""
    for number in range(count):
        what = rng.choice(("run", "report", "checkpoint", "shred", "note", "fail", "kill-line"))
        runs = sorted(one.parent for one in workspace.glob("*/run.json"))
        if what == "run":
            make_run(workspace / f"new-{number}", clock)
        elif what == "report":
            RunFolder.open(rng.choice(runs), clock).update(
                "report.written", {"format": "html"}, files={"report.html": rng.randbytes(20)}
            )
        elif what == "checkpoint":
            checkpoint(workspace, [KEY], clock=clock)
        elif what == "shred":
            shred(rng.choice(runs), clock=clock)
        elif what == "note":
            Ledger.of(workspace, clock).append("sensitive.shown", lines=number)
        elif what == "fail":
            try:
                with RunFolder.create(workspace / f"bad-{number}", "dsar-1", clock=clock):
                    raise RuntimeError
            except RuntimeError:
                pass
        else:
            with (workspace / LEDGER).open("ab") as stream:
                stream.write(b'{"data":{"run":"01')
        yield what
