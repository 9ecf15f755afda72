"""What becomes importable, what imports what, and what must not be in the code at all."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]
FOLDERS = {"safeedit": "safeedit", **SETUPTOOLS["package-dir"]}
"""Import name to folder."""


def sources(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """The first part of every absolute import of a file, lazy ones included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.partition(".")[0])
    return found


def run_python(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("name", ["cli", "probes", "policies"])
def test_a_generic_name_is_not_importable_from_elsewhere(name: str, tmp_path: Path) -> None:
    done = run_python(f"import {name}", tmp_path)
    assert "ModuleNotFoundError" in done.stderr


@pytest.mark.parametrize("name", ["cli", "probes", "policies"])
def test_a_generic_name_is_refused_in_the_repository_too(name: str) -> None:
    done = run_python(f"import {name}", ROOT)
    assert done.returncode == 1
    assert f"this folder is installed as 'safeedit_{name}'" in done.stderr


def test_every_package_on_disk_is_installed() -> None:
    found = set()
    for name, folder in FOLDERS.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            parts = init.parent.relative_to(ROOT / folder).parts
            found.add(".".join((name, *parts)))
    assert found == set(SETUPTOOLS["packages"])


def test_every_folder_of_code_is_a_package() -> None:
    for folder in FOLDERS.values():
        for path in sources(folder):
            assert (path.parent / "__init__.py").is_file(), path


def test_every_data_file_is_installed() -> None:
    for name, folder in FOLDERS.items():
        kept = {p for glob in SETUPTOOLS["package-data"].get(name, ()) for p in (ROOT / folder).glob(glob)}
        tracked = subprocess.run(
            ["git", "ls-files", folder], cwd=ROOT, capture_output=True, text=True, check=False
        ).stdout.split("\n")
        data = {ROOT / p for p in tracked if p and not p.endswith((".py", ".md"))}
        assert data <= kept, data - kept


def test_importing_the_library_is_light(tmp_path: Path) -> None:
    heavy = ("torch", "transformers", "scipy", "typer", "rich")
    code = f"import sys, safeedit; print([name for name in {heavy!r} if name in sys.modules])"
    done = run_python(code, tmp_path)
    assert done.stdout == "[]\n", done.stdout + done.stderr


def test_the_library_knows_neither_the_terminal_nor_the_command_line() -> None:
    for path in sources("safeedit", "probes"):
        assert not imported(path) & {"typer", "click", "rich", "safeedit_cli", "cli"}, path


def test_the_command_line_imports_the_library_alone() -> None:
    allowed = {*sys.stdlib_module_names, "safeedit", "typer"}
    for path in sources("cli"):
        extra = {"rich"} if path.name == "render.py" else set()
        assert imported(path) <= allowed | extra, path


PICKLES = {"pickle", "dill", "joblib", "shelve"}
SWITCHES = {"trust_remote_code", "allow_pickle"}
LOADERS = {"torch", "torch.serialization", "yaml"}
SAFE_LOADERS = {"BaseLoader", "SafeLoader", "CBaseLoader", "CSafeLoader"}


def unsafe(source: str) -> list[str]:
    """What in a piece of code could run foreign code: pickles, full YAML, a model's own Python."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name in PICKLES]
        elif isinstance(node, ast.ImportFrom) and node.module in PICKLES:
            found.append(str(node.module))
        elif isinstance(node, ast.ImportFrom) and node.module in LOADERS:
            # Under a name of its own a call would not be known for what it is.
            found += [alias.name for alias in node.names if "load" in alias.name]
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            given = [*node.args, *(keyword.value for keyword in node.keywords)]
            loaders = {ast.unparse(value).rpartition(".")[2] for value in given}
            if called in {"eval", "exec", "yaml.full_load", "yaml.unsafe_load"}:
                found.append(called)
            tensors = {k.arg: ast.unparse(k.value) for k in node.keywords}.get("weights_only")
            if called == "torch.load" and tensors != "True":
                found.append(called)
            if called == "yaml.load" and not loaders & SAFE_LOADERS:
                found.append(called)
            for keyword in node.keywords:
                if (
                    keyword.arg in {"trust_remote_code", "allow_pickle"}
                    and ast.unparse(keyword.value) != "False"
                ):
                    found.append(keyword.arg)
    return found


def test_nothing_unsafe_is_called() -> None:
    for path in sources(*FOLDERS.values(), "tests"):
        assert unsafe(path.read_text(encoding="utf-8")) == [], path


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "torch.load(path)",
        "from torch import load",
        "from yaml import full_load as read",
        "numpy.load(path, allow_pickle=True)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.load(text)",
        "yaml.unsafe_load(text)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=flag)",
        "eval(text)",
    ],
)
def test_what_is_unsafe_would_be_noticed(source: str) -> None:
    assert unsafe(source)
    assert not unsafe("yaml.load(text, yaml.BaseLoader); f(trust_remote_code=False)")
    assert not unsafe("torch.load(path, weights_only=True)")


def test_imports_are_seen_wherever_they_stand() -> None:
    assert imported(ROOT / "cli" / "render.py") >= {"rich"}
    assert "safeedit" in imported(ROOT / "cli" / "verify.py")


def test_the_constraints_pin_every_dependency_and_name_no_place() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line[:1] != "#"]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in lines)
    pinned = {re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower() for line in lines}
    asked = PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["dev"]
    for requirement in asked:
        name = re.split(r"[<>=\[]", requirement)[0]
        assert re.sub(r"[-_.]+", "-", name).lower() in pinned, name


def test_the_file_for_continuous_integration_can_be_run() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert "make" in (ROOT / ".ci" / "run").read_text()


def test_the_licence_is_the_one_that_the_metadata_names() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text


def test_the_map_of_the_code_has_every_file() -> None:
    """Whoever looks for a behaviour starts there; a file that it leaves out is found by nobody."""
    told = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\w[\w*]*\.py", told))
    left_out = [
        str(path.relative_to(ROOT))
        for path in sources("safeedit", "benchmarks")
        if not any(fnmatch(path.name, name) for name in named)
        and not path.name.startswith("__")
        and "world" not in path.relative_to(ROOT).parts  # a folder of one idea, named as a whole
    ]
    assert left_out == []


def test_files_stay_short() -> None:
    long = {
        str(path.relative_to(ROOT)) for path in sources("safeedit", "cli", "probes") if lines(path) >= 400
    }
    assert long == set()


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())
