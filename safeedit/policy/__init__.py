"""Policies: what a person or a rule asks to be changed in a model, read from a file and checked."""

from safeedit.errors import PolicyError
from safeedit.policy.model import Policy

__all__ = ["Policy", "PolicyError"]
