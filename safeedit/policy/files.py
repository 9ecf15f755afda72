"""Reading text files that strangers wrote: bounded, UTF-8, with one clear line for all that can go wrong."""

from __future__ import annotations

import os
import re

from safeedit.policy.problems import Place, Problems

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")


def shown_path(path: str | os.PathLike[str]) -> str:
    """The path as the caller gave it, fit for one line of a message."""
    return _UNPRINTABLE.sub("?", os.fspath(path))


def size_in_words(size: int) -> str:
    """A limit as a person reads it: 16 MiB, 64 KiB."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= unit and size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} bytes"


def why_unreadable(error: OSError | ValueError) -> str:
    """What to tell about a file that cannot be opened or read."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, IsADirectoryError):
        return "this is a folder; give the file in it"
    if isinstance(error, PermissionError):
        return "this file may not be read; check its permissions"
    reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a usable path"
    return f"this file cannot be read: {reason}"


def read_bounded(path: str | os.PathLike[str], limit: int, problems: Problems) -> str:
    """The text of a UTF-8 file (a byte-order mark is dropped), never holding more than `limit` bytes.

    Raises:
        PolicyError: the file is missing, unreadable, too large or not UTF-8.
    """
    start = Place(shown_path(path), 1, 1)
    reason, data, size = "", bytearray(), 0
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            while max(size, len(data)) <= limit and (chunk := file.read(2**16)):
                data += chunk
    except (OSError, ValueError) as error:
        reason = why_unreadable(error)
    if reason:
        problems.stop(start, reason)
    if max(size, len(data)) > limit:
        problems.stop(start, f"the file is larger than {size_in_words(limit)}; move facts to a facts_file")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        problems.stop(start, "the file is UTF-16; save it as UTF-8")
    text = decoded(data.removeprefix(b"\xef\xbb\xbf"), start)
    if isinstance(text, Place):
        problems.stop(text, "this is not UTF-8; save the file as UTF-8")
    return text


def decoded(data: bytes | bytearray, start: Place) -> str | Place:
    """The text of UTF-8 bytes that begin at `start`, or where the first wrong byte stands."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        at = error.start
    begin = data.rfind(b"\n", 0, at) + 1
    line, column = data.count(b"\n", 0, at), len(data[begin:at].decode("utf-8"))
    return Place(start.file, start.line + line, (start.column if line == 0 else 1) + column)
