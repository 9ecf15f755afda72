"""Killed anywhere, or out of disk space anywhere: every log verifies, and nothing looks done that is not.

`SAFEEDIT_SOAK=1` tries two hundred random moments of each kind.
"""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from workspaces import KEY, RING, Clock, make_run

from safeedit.errors import SafeEditError
from safeedit.evidence.checkpoints import CHECKPOINTS, checkpoint
from safeedit.evidence.ledger import LEDGER, Ledger
from safeedit.evidence.pointers import view_ledger
from safeedit.evidence.shred import shred
from safeedit.evidence.workspace import verify_workspace
from safeedit.runs.chain import verify_chain
from safeedit.runs.folder import RunFolder
from safeedit.runs.keys import state_folder
from safeedit.runs.verify import verify_run

POINTS = 200 if os.environ.get("SAFEEDIT_SOAK") == "1" else 8
CALLS = ("open", "write", "fsync", "replace", "unlink", "ftruncate", "link")
HARMLESS = {"interrupted", "sealing-interrupted", "log-half-line", "file-leftover"}
"""What a run may be found with: it was cut short, and says so."""

Hurt = Callable[[random.Random, int], None]


def work(workspace: Path, clock: Clock) -> None:
    """A run from its start to its shredding, and two checkpoints."""
    run = make_run(workspace / "new", clock)
    checkpoint(workspace, [KEY], clock=clock)
    RunFolder.open(run, clock).update("report.written", {}, files={"report.html": b"<p>"})
    shred(run, clock=clock)
    checkpoint(workspace, [KEY], clock=clock)


def kill(rng: random.Random, calls: int) -> None:
    """End the process at one of its disk calls; a write may be half done by then."""
    left = rng.randrange(calls)

    def now(write: Callable[[int, bytes], int] | None, args: tuple[object, ...]) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            if write is not None and isinstance(args[0], int) and isinstance(args[1], bytes):
                write(args[0], args[1][: rng.randrange(len(args[1]) + 1)])
            os.kill(os.getpid(), signal.SIGKILL)

    _wrap(now)


def fill(rng: random.Random, calls: int) -> None:
    """From one of its disk calls on, nothing more can be written."""
    left = rng.randrange(calls)

    def now(write: Callable[[int, bytes], int] | None, args: tuple[object, ...]) -> None:
        nonlocal left
        left -= 1
        if left < 0 and write is not None and isinstance(args[0], int) and isinstance(args[1], bytes):
            write(args[0], args[1][: rng.randrange(len(args[1]))])
            raise OSError(errno.ENOSPC, "No space left on device")

    _wrap(now)


def limit(rng: random.Random, calls: int) -> None:
    """No file can grow beyond a size: the operating system itself refuses, wherever the write comes from."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    most = rng.randrange(40, 9_000)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def _wrap(now: Callable[[Callable[[int, bytes], int] | None, tuple[object, ...]], None]) -> None:
    for name in CALLS:
        original = getattr(os, name)

        def called(
            *args: object,
            original: Callable[..., object] = original,
            name: str = name,
            **kwargs: object,
        ) -> object:
            now(original if name == "write" else None, args)  # type: ignore[arg-type]
            return original(*args, **kwargs)

        setattr(os, name, called)


def in_a_child(action: Callable[[], None], hurt: Callable[[], None]) -> bool:
    """Whether `action` came to its end in a child process that is hurt on the way."""
    child = os.fork()
    if not child:
        try:
            hurt()
            action()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


@pytest.fixture(autouse=True)
def _sound_again(sound: Path) -> None:
    restore(sound)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, state: Path) -> Path:
    """A folder with a workspace that has a finished run and a checkpoint, and the keys that belong to it."""
    top, clock = tmp_path_factory.mktemp("crashes"), Clock()
    make_run(top / "runs" / "old", clock)
    checkpoint(top / "runs", [KEY], clock=clock)
    shutil.copytree(top / "runs", top / "kept")
    shutil.copytree(state, top / "state")
    return top


def restore(top: Path) -> None:
    for kept, place in ((top / "kept", top / "runs"), (top / "state", state_folder())):
        shutil.rmtree(place)
        shutil.copytree(kept, place)


def later() -> Clock:
    """A clock that goes on after those that made what is there."""
    clock = Clock()
    clock.now = clock.now.replace(hour=18)
    return clock


def what_is_wrong(top: Path, ended: bool) -> list[str]:
    """Everything that must not be after a command was cut short, or came to its end."""
    workspace = top / "runs"
    wrong: list[str] = []
    for name in (LEDGER, CHECKPOINTS):
        if not (workspace / name).read_bytes().startswith((top / "kept" / name).read_bytes()):
            wrong.append(f"{name} lost something")
    view = view_ledger(workspace)
    wrong += [str(found) for found in view.check.findings] if view else ["the ledger is gone"]
    if [found.code for found in verify_run(workspace / "old", RING).findings]:
        wrong.append("another run was harmed")
    report = verify_workspace(workspace, RING)
    wrong += [f"{found.code}: {found}" for found in report.findings if found.code not in HARMLESS]
    log = workspace / "new" / "audit.jsonl"
    if log.is_file():
        codes = {found.code for found in verify_chain(log.read_bytes(), "audit.jsonl")}
        wrong += sorted(codes - {"log-half-line"})
    if ended and report.findings:
        wrong.append(f"it ended well, but {report.findings[0]}")
    return wrong


def go_on(top: Path) -> list[str]:
    """What is wrong after the same was done again, and came to its end."""
    workspace, clock = top / "runs", later()
    clock.now = clock.now.replace(hour=20)
    run = workspace / "new"
    try:
        done = RunFolder.open(run).record.status == "finished"
    except SafeEditError:
        done = False
    if not done:
        make_run(run, clock)
    shred(run, clock=clock)
    checkpoint(workspace, [KEY], clock=clock)
    return [f"afterwards {found}" for found in verify_workspace(workspace, RING).findings]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("hurt", [kill, fill, limit], ids=lambda hurt: hurt.__name__)
def test_cut_short_at_any_moment_nothing_is_lost_and_nothing_looks_done(hurt: Hurt, sound: Path) -> None:
    rng, wrong, ends = random.Random(hurt.__name__), Counter[str](), Counter[bool]()
    calls = disk_calls(sound)
    for point in range(POINTS):
        ended = in_a_child(lambda: work(sound / "runs", later()), lambda: hurt(rng, calls))
        rng.random()
        ends[ended] += 1
        for one in (*what_is_wrong(sound, ended), *go_on(sound)):
            wrong[f"{point}: {one}"] += 1
        restore(sound)
    assert not wrong
    assert ends[False] > POINTS / 2


def disk_calls(top: Path) -> int:
    """How many disk calls the work makes."""
    read, write = os.pipe()

    def count() -> None:
        made = 0

        def now(_: object, __: object) -> None:
            nonlocal made
            made += 1

        original = os.write
        _wrap(now)
        work(top / "runs", later())
        original(write, str(made).encode())

    assert in_a_child(count, lambda: None)
    os.close(write)
    with os.fdopen(read) as stream:
        found = int(stream.read())
    restore(top)
    assert found > 150
    return found


def test_the_work_by_itself_is_sound(sound: Path) -> None:
    work(sound / "runs", later())
    assert what_is_wrong(sound, True) == []
    assert len(Ledger.of(sound / "runs").entries()) > 15
    (sound / "runs" / LEDGER).write_bytes((sound / "kept" / LEDGER).read_bytes()[:-300])
    assert what_is_wrong(sound, True)
    restore(sound)
