"""Every kind of memory that a patch may hold beside weights, and what a file's header says of one."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, StrictBool, StrictFloat, StrictInt, StrictStr

from safeedit.codebooks import Codebook, nearest
from safeedit.memory import Memory
from safeedit.sidememory import SideMemory

__all__ = ["KINDS", "Codebook", "Memory", "MemoryHeader", "SideMemory", "nearest"]


class MemoryHeader(BaseModel):
    """What a file's header says of a memory: `Memory.describe` and the digest of its module's weight."""

    model_config = ConfigDict(extra="forbid")

    kind: str
    settings: dict[str, StrictBool | StrictInt | StrictFloat | StrictStr]
    base: str
    digests: dict[str, str]


KINDS: dict[str, type[Memory]] = {kind.kind: kind for kind in (Codebook, SideMemory)}
"""Every kind that a file may name."""
