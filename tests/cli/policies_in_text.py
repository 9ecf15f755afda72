"""Policies for tests of the command line. The names in them are the canaries."""

from __future__ import annotations

CANARIES = ("Zebulon Quackenbush", "Quackenbush", "Xylographic", "Marmalade Works", "glockenspiel-77")

HEAD = """\
apiVersion: safeedit/v1
metadata: {id: case-1, regime: gdpr-17, received: 2026-11-02, description: about Zebulon Quackenbush}
"""
ERASE = """\
  - op: erase
    facts:
      - {subject: Zebulon Quackenbush, relation: employer, object: Xylographic Marmalade Works}
"""
MODIFY = """\
  - op: modify
    facts:
      - {subject: Zebulon Quackenbush, relation: instrument, object: harp, new_object: glockenspiel-77}
"""
DETOX = """\
  - op: detox
    behaviours:
      - {prompt: Zebulon Quackenbush is, unsafe: glockenspiel-77, safe: a person}
"""
SMOKE = "probes: {suite: smoke}\n"

ERASURE = f"{HEAD}operations:\n{ERASE}{SMOKE}"
MODIFICATION = f"{HEAD}operations:\n{MODIFY}{SMOKE}"
BOTH = f"{HEAD}operations:\n{ERASE}{MODIFY}{SMOKE}"
WITH_DETOX = f"{HEAD}operations:\n{ERASE}{DETOX}{SMOKE}"
