"""The device that tests make their models on: `SAFEEDIT_TEST_DEVICE`, by default `cpu`.

`cuda` where there is a GPU. `apart` is a device of ours (`apart.cpp`), made with the machine's compiler, for
machines that have none: it refuses to mix its tensors with the processor's, as a GPU does.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import torch

DEVICE = os.environ.get("SAFEEDIT_TEST_DEVICE", "cpu")
SOURCE = Path(__file__).with_name("apart.cpp")


@cache
def compiler() -> str | None:
    """The C++ compiler, if there is one that knows the language that torch's headers are written in."""
    found = shutil.which(os.environ.get("CXX", "c++")) if sys.platform == "linux" else None
    if found is None:
        return None
    tried = [found, "-std=c++20", "-fsyntax-only", "-x", "c++", "-"]
    done = subprocess.run(tried, input=b"#include <concepts>\n", capture_output=True, check=False)
    return found if done.returncode == 0 else None


def built() -> Path:
    """The library of the device `apart`; made once for a source and a torch."""
    from torch.utils.cpp_extension import include_paths, library_paths

    digest = hashlib.sha256(SOURCE.read_bytes() + torch.__version__.encode()).hexdigest()[:16]
    # Not in the folder for temporary files, where somebody else could have put a library of that name.
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "safeedit-tests"
    library = cache / f"apart-{digest}.so"
    if not library.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            made = Path(folder) / library.name
            command = [
                compiler() or "c++",
                "-std=c++20",
                "-O0",
                "-fPIC",
                "-shared",
                str(SOURCE),
                "-o",
                str(made),
            ]
            command += [part for path in include_paths() for part in ("-isystem", path)]
            command += [f"-L{path}" for path in library_paths()] + ["-lc10", "-ltorch_cpu", "-ltorch"]
            subprocess.run(command, check=True)
            os.replace(made, library)
    return library


def make_apart() -> None:
    """Let torch know the device `apart`, for the rest of the process."""
    # A thread of the last backward pass that still has something to give back to Python when Python ends
    # aborts the process; it is given the time.
    atexit.register(time.sleep, 0.5)
    torch.ops.load_library(built())
    torch.utils.rename_privateuse1_backend("apart")
    # What torch asks the module of a device about: random states, mostly, which are the processor's here.
    module = SimpleNamespace(
        is_available=lambda: True,
        is_initialized=lambda: True,
        device_count=lambda: 1,
        current_device=lambda: 0,
        manual_seed_all=lambda seed: None,
        synchronize=lambda device=None: None,
        _is_in_bad_fork=lambda: False,
        _lazy_init=lambda: None,
        get_amp_supported_dtype=lambda: [torch.bfloat16],
    )
    torch._register_device_module("apart", module)
    torch.utils.generate_methods_for_privateuse1_backend()
    # Without this a weight that two modules share would become two on its way to a device that is not CUDA.
    torch.__future__.set_swap_module_params_on_conversion(True)


if DEVICE == "apart":
    make_apart()
