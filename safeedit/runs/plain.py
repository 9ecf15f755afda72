"""Values that may stand in the log and in run.json: numbers, digests, times and identifiers.

The log and run.json outlive the request, so no text of the request may get in. Everything that
reads like text is refused when it is written. The check cannot know that a single word is a
name: callers log what they computed, never what the policy said.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from safeedit.errors import UsageError

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9._:+/-]{0,127}")
_ALLOWED = (
    re.compile(r"(?:sha256:)?[0-9a-f]{64}"),
    re.compile(r"[0-9a-f]{40}"),
    re.compile(r"hmac:[0-9a-f]{12}"),
    re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
    re.compile(r"\d{4}-\d\d-\d\d(?:T\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:Z|[+-]\d\d:\d\d))?"),
    re.compile(r"\d{1,2}\.\d{1,3}(?:\.\d{1,3})?"),
    # An identifier has a letter in it: a bare telephone number is none.
    re.compile(r"(?=[^A-Za-z]*[A-Za-z])[A-Za-z0-9._:+/-]{1,128}"),
)


class FreeTextError(UsageError, ValueError):
    """A value that could hold personal data was about to be written where none may be."""


def is_plain_text(text: str) -> bool:
    """Whether `text` is a digest, a time, a version number or an identifier."""
    return any(pattern.fullmatch(text) for pattern in _ALLOWED)


def check_plain(value: object, where: str) -> None:
    """Return only if `value` consists of nothing but plain values.

    Args:
        value: numbers, bools, None, plain text, and lists and mappings of them.
        where: what the value is called in the message.

    Raises:
        FreeTextError: it does not; the message names the place, never the value.
    """
    if value is None or isinstance(value, bool | int):
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            raise FreeTextError(f"{where} is not a finite number; write null and say so in the verdict")
    elif isinstance(value, str):
        # A policy's id may be digits alone; the contract lets the log use it.
        is_id = where.rpartition(".")[2] == "id" and _ID.fullmatch(value)
        if not (is_id or is_plain_text(value)):
            raise FreeTextError(
                f"{where} is free text; write a keyed digest of it, a number or an identifier"
            )
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            check_plain(item, f"{where}[{index}]")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if not (isinstance(key, str) and _KEY.fullmatch(key)):
                raise FreeTextError(f"a key of {where} is no identifier")
            check_plain(item, f"{where}.{key}")
    else:
        raise FreeTextError(f"{where} is a {type(value).__name__}, which is neither number nor identifier")
