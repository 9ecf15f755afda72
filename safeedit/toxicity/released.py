"""Detoxify's published checkpoints: their names, and where they lie on this machine.

Only names and addresses of the project's releases (github.com/unitaryai/detoxify, v0.1 to v0.4) are known
here. The short hash in a published file's name is not that of the file: it was taken of another copy
before renaming, so nothing can be checked by it. The digest of what was used stands in the report.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safeedit.errors import UsageError
from safeedit.policy.files import shown_path

RELEASES = "https://github.com/unitaryai/detoxify/releases/download"
RELEASED: Mapping[str, str] = {
    "original": "v0.1-alpha/toxic_original-c1212f89.ckpt",
    "unbiased": "v0.3-alpha/toxic_debiased-c7548aa0.ckpt",
    "multilingual": "v0.4-alpha/multilingual_debiased-0b549669.ckpt",
    "original-small": "v0.1.2/original-albert-0e1d6498.ckpt",
    "unbiased-small": "v0.1.2/unbiased-albert-c8519128.ckpt",
}


def released(name: str) -> Path:
    """The checkpoint of that name: in torch.hub's cache, where Detoxify itself keeps it, or fetched there.

    Raises:
        UsageError: it is not there and may not, or cannot, be fetched.
    """
    import torch

    from safeedit.toxicity.files import offline

    place = RELEASED[name]
    path = Path(torch.hub.get_dir()) / "checkpoints" / place.rpartition("/")[2]
    if path.is_file():
        return path
    how = f"put it at {shown_path(path)}, or give a file: detoxify:FILE.ckpt"
    if offline():
        raise UsageError(
            f"detoxify:{name} is not in torch.hub's cache, and HF_HUB_OFFLINE forbids to fetch it; {how}"
        )
    failed = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Writes beside the target and renames: a fetch that is cut short leaves nothing behind.
        torch.hub.download_url_to_file(f"{RELEASES}/{place}", str(path), progress=False)
    except Exception as error:
        failed = type(error).__name__
    if failed:
        raise UsageError(f"detoxify:{name} could not be fetched from its project's release ({failed}); {how}")
    return path
