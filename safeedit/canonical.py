"""One byte string for one JSON value, so that a digest of it means something (RFC 8785).

Keys are sorted by their UTF-16 code units, there is no white space, numbers are written as
ECMAScript does. One departure, beyond 2**53, where RFC 8785 knows doubles only: integers are
written in full and floats with an exponent, so that the two cannot be mistaken for each other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from decimal import Decimal


def canonical_json(value: object) -> bytes:
    """The canonical form of `value`; equal values give equal bytes, different ones different bytes.

    Args:
        value: None, bool, int, finite float, str, or lists, tuples and string-keyed mappings of them.

    Raises:
        ValueError: a float that is not finite, a key that is no string, a lone surrogate, or a
            value that JSON does not have. The message names the type, never the value.
    """
    parts: list[str] = []
    _write(value, parts)
    return "".join(parts).encode()


def _write(value: object, parts: list[str]) -> None:
    if value is None or isinstance(value, bool):
        parts.append({None: "null", True: "true", False: "false"}[value])
    elif isinstance(value, int):
        parts.append(int.__repr__(value))
    elif isinstance(value, float):
        parts.append(_number(float(value)))
    elif isinstance(value, str):
        parts.append(_string(value))
    elif isinstance(value, list | tuple):
        parts.append("[")
        for index, item in enumerate(value):
            parts.append("," if index else "")
            _write(item, parts)
        parts.append("]")
    elif isinstance(value, Mapping):
        _write_mapping(value, parts)
    else:
        raise ValueError(f"JSON has no {type(value).__name__}")


def _write_mapping(value: Mapping[object, object], parts: list[str]) -> None:
    named: list[tuple[str, object]] = []
    for key, item in value.items():
        if not isinstance(key, str):
            raise ValueError(f"a JSON key must be a string, not {type(key).__name__}")
        named.append((key, item))
    parts.append("{")
    for index, (key, item) in enumerate(sorted(named, key=lambda pair: _utf16(pair[0]))):
        parts.append("," if index else "")
        parts.append(_string(key))
        parts.append(":")
        _write(item, parts)
    parts.append("}")


def _utf16(text: str) -> bytes:
    try:
        return text.encode("utf-16-be")
    except UnicodeEncodeError:
        raise ValueError("text with a lone surrogate has no canonical form") from None


def _string(text: str) -> str:
    _utf16(text)
    return json.dumps(text, ensure_ascii=False)


def _number(number: float) -> str:
    """The shortest text that reads back as `number`, laid out as by ECMAScript's Number::toString."""
    if not math.isfinite(number):
        raise ValueError("JSON has no number that is not finite")
    if number == 0:
        return "0"
    sign, digits, exponent = Decimal(repr(number)).normalize().as_tuple()
    text = "".join(map(str, digits))
    point = len(text) + int(exponent)
    if abs(number) >= 2**53 or point <= -6:
        mantissa = text[0] + (f".{text[1:]}" if len(text) > 1 else "")
        body = f"{mantissa}e{point - 1:+d}"
    elif point <= 0:
        body = "0." + "0" * -point + text
    elif point < len(text):
        body = f"{text[:point]}.{text[point:]}"
    else:
        body = text + "0" * (point - len(text))
    return f"-{body}" if sign else body
