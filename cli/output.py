"""The two streams: standard output takes the result and nothing else, standard error the rest."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import TextIO

from safeedit.errors import SafeEditError
from safeedit.tensors.places import why_unwritable

Tell = Callable[[str, int, int], None]
"""How a library call reports its progress: (stage, done, in all)."""


class OutputError(SafeEditError):
    """Standard output cannot take the result."""


def visible(text: str) -> str:
    """`text` on one line, with every character that would steer a terminal shown instead of sent."""
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)


def write(text: str) -> None:
    """Put a result on standard output.

    Raises:
        OutputError: it cannot be written, as on a full disk.
    """
    _write(sys.stdout, text)


def write_json(value: object) -> None:
    """Put one JSON object on standard output, readable in any encoding; never a NaN."""
    write(json.dumps(value, allow_nan=False, indent=2) + "\n")


def tell(text: str) -> None:
    """Put something that is not the result on standard error."""
    _write(sys.stderr, text)


def survive_any_encoding() -> None:
    """Let characters that the streams cannot encode be written as escapes instead of raising."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _write(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        # Whoever read the output has left (`| head`). The work is done, so its exit code stands.
        _drop(stream)
    except OSError as error:
        _drop(stream)
        # Of standard error nobody can be told.
        if stream is sys.stdout:
            raise OutputError(f"standard output cannot be written ({why_unwritable(error)})") from None


def _drop(stream: TextIO) -> None:
    """Let what is left in `stream` go nowhere: the interpreter flushes it at its end, and would fail."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, stream.fileno())
    os.close(devnull)
