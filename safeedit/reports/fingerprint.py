"""The key under which reports name a case to other systems, so that only its holder can link the two.

It belongs to the installation, not to a run: a case keeps its fingerprints from run to run, which is what
lets a code host close an alert. In CI, where nothing stays on the machine, a secret takes its place.
"""

from __future__ import annotations

import hashlib
import os
import secrets

from safeedit.errors import IntegrityError
from safeedit.runs.keys import KEY_BYTES, state_folder

VARIABLE = "SAFEEDIT_FINGERPRINT_KEY"
_FILE = "fingerprint.key"


def fingerprint_key() -> bytes:
    """The key from the environment, else the one in the user's state folder, made when it is first needed.

    Raises:
        IntegrityError: the key file is damaged.
    """
    given = os.environ.get(VARIABLE)
    if given:
        return hashlib.sha256(b"safeedit:fingerprint:1\0" + given.encode()).digest()
    path = state_folder() / _FILE
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        key = path.read_bytes()
    else:
        key = secrets.token_bytes(KEY_BYTES)
        with os.fdopen(handle, "wb") as stream:
            stream.write(key)
    if len(key) != KEY_BYTES:
        raise IntegrityError(f"{_FILE} in the state folder is damaged; remove it to have a new one made")
    return key
