"""Text inside Markdown: shown as it is, whatever is in it."""

from __future__ import annotations

import re

_ESCAPED = str.maketrans(
    {"<": "&lt;", ">": "&gt;", "&": "&amp;", **{char: f"\\{char}" for char in "\\`*_[]|~"}, "\n": " "}
)
_PLAIN = re.compile(r"[A-Za-z0-9._:/+-]+")


def escaped(text: str) -> str:
    """`text` on one line, without any meaning in Markdown, in HTML or in a table."""
    return text.translate(_ESCAPED)


def code(text: str) -> str:
    """An identifier as code; anything else as escaped text."""
    return f"`{text}`" if _PLAIN.fullmatch(text) else escaped(text)
