"""How sensitive text is shown: as a short keyed digest, and never otherwise.

A bare hash of a name or a telephone number can be guessed back; HMAC-SHA-256 under a key that
lives outside the run cannot. Equal texts of one run have equal digests, so a reader can see that
two rows are about the same thing; texts of different runs cannot be linked.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

from safeedit.canonical import canonical_json
from safeedit.runs.plain import is_plain_text

_SHOWN = 12
_TEXT, _OBJECT = b"safeedit:text:1\0", b"safeedit:commitment:1\0"


class Redactor:
    """Keyed digests of one run."""

    def __init__(self, key: bytes) -> None:
        if len(key) < 16:
            raise ValueError("a redactor needs a key of at least 16 bytes")
        self._key = key

    def __repr__(self) -> str:
        return "<Redactor>"

    def digest(self, text: str) -> str:
        """What stands for `text` where people can read it: `hmac:` and twelve hex digits."""
        return f"hmac:{self._hmac(_TEXT + text.encode('utf-8', 'surrogatepass'))[:_SHOWN]}"

    def commitment(self, value: object) -> str:
        """All 64 hex digits for a whole JSON value; whoever has key and value can check it.

        Raises:
            ValueError: `value` has no canonical JSON.
        """
        return self._hmac(_OBJECT + canonical_json(value))

    def plain(self, value: object) -> object:
        """`value` with every text that is no identifier replaced by its digest, fit for the log."""
        if isinstance(value, str):
            return value if is_plain_text(value) else self.digest(value)
        if isinstance(value, list | tuple):
            return [self.plain(item) for item in value]
        if isinstance(value, Mapping):
            return {key: self.plain(item) for key, item in value.items()}
        return value

    def _hmac(self, message: bytes) -> str:
        return hmac.new(self._key, message, hashlib.sha256).hexdigest()
