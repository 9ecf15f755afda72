"""What this machine remembers of a ledger, outside of its workspace: how far it had come.

Whoever can change a workspace can cut the end off its ledger, and off everything in it that tells of that
end. The note here, in the user's state folder and filed under a digest of the ledger's place, is not
within their reach. A copy of a workspace in another place is a state of its own, and has no note.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from safeedit.runs.chain import Entry
from safeedit.runs.keys import state_folder
from safeedit.tensors.atomic import atomic_write


@dataclass(frozen=True)
class Witness:
    """The last entry that was written."""

    ledger: str
    """The ledger's own id."""
    size: int
    head: str


def remember(ledger: Path, uuid: str, last: Entry) -> None:
    """Note the last entry of the ledger in the file `ledger`; the caller holds its lock."""
    place = _place(ledger)
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    atomic_write(place, json.dumps(asdict(Witness(uuid, last.seq + 1, last.hash))) + "\n")


def remembered(ledger: Path) -> Witness | None:
    """What was noted of the ledger in the file `ledger`; None where there is no note that can be read."""
    try:
        found = json.loads(_place(ledger).read_bytes())
        return Witness(str(found["ledger"]), int(found["size"]), str(found["head"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def forget(ledger: Path) -> None:
    """Remember nothing of the ledger that was in the file `ledger`: another is begun there."""
    _place(ledger).unlink(missing_ok=True)


def _place(ledger: Path) -> Path:
    # The name of a folder can be somebody's name.
    digest = hashlib.sha256(str(ledger.resolve()).encode("utf-8", "surrogateescape")).hexdigest()
    return state_folder() / "ledgers" / f"{digest}.json"
