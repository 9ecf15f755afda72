"""Texts of policies for tests, put together from parts."""

from __future__ import annotations

WHO, WHAT = "Ada Quillfeather", "Quorvax"
CANARIES = ("Quillfeather", "Quorvax", "quorvax", "quillfeather")
"""Parts of the personal data in the policies below; no message may hold one."""

HEAD = """apiVersion: safeedit/v1
metadata: {id: r-1, regime: gdpr-17, received: 2026-11-02}
"""
GOOD = f"{{subject: {WHO}, relation: phone, object: {WHAT}}}"


def op(text: str) -> str:
    return HEAD + "operations:\n" + text


def fact(text: str, kind: str = "erase") -> str:
    return op(f"  - op: {kind}\n    facts:\n      - {text}\n")


def one(keys: str, kind: str = "erase") -> str:
    """A fact about WHO with these keys besides."""
    return fact(f"{{subject: {WHO}, relation: phone, object: {WHAT}, {keys}}}", kind)


def value(text: str) -> str:
    """A fact about WHO with this object."""
    return fact(f"{{subject: {WHO}, relation: phone, object: {text}}}")


def meta(text: str) -> str:
    return f"apiVersion: safeedit/v1\n{text}operations:\n  - op: erase\n    facts:\n      - {GOOD}\n"


def head(text: str) -> str:
    """Metadata with these entries."""
    return meta(f"metadata: {{{text}}}\n")


def plus(text: str) -> str:
    return fact(GOOD) + text


def car(text: str) -> str:
    """A relation with these entries."""
    return plus(f"relations: {{car: {{{text}}}}}\n")
