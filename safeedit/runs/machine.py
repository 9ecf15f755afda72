"""What a run was made with and what it cost: versions, seconds by stage, peak memory."""

from __future__ import annotations

import platform
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version

from safeedit.runs.plain import is_plain_text

PACKAGES = ("safeedit", "torch", "transformers", "tokenizers", "safetensors", "numpy")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    # Four numbers in a row are no plain text for a record; a letter makes them an identifier.
    return {name: text if is_plain_text(text) else f"v{text}" for name, text in found.items()}


def peak_memory_bytes(device: str) -> int:
    """The most memory used so far: the device's own where there is one, else this process's."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


class Stopwatch:
    """Wall time by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.stage = "start"
        """The stage in progress, or the last one."""

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Count the block as `stage`, however it ends."""
        self.stage = stage
        start = time.perf_counter()
        try:
            yield
        finally:
            taken = self.seconds.get(stage, 0.0) + time.perf_counter() - start
            self.seconds[stage] = round(taken, 3)
