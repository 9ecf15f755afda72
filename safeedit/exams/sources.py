"""Rows of a file, of a folder of files, or of a data set of the `datasets` package, with their places.

What plain Python can read (`files`) needs no other package; Parquet, Arrow, folders that `save_to_disk`
wrote and hub ids are left to `datasets`. Rows come one by one: a file may be large.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from safeedit.errors import UsageError
from safeedit.exams.files import READERS, Row, file_rows
from safeedit.policy.files import shown_path
from safeedit.policy.problems import Place

MOST_PARTS = 10_000
"""Files of a folder that are looked at."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(:[\w.-]+)?")
_SLICE = re.compile(r"\[(\d{0,9}):(\d{0,9})\]$")
_BUILT = {".parquet": "parquet", ".arrow": "arrow"}
"""Endings that `datasets` reads, and its name for each."""
_ON_DISK = ("dataset_info.json", "dataset_dict.json")


@dataclass(frozen=True)
class Source(ABC):
    """Where rows come from."""

    name: str
    """How a message calls it."""

    @property
    @abstractmethod
    def parts(self) -> tuple[str, ...]:
        """The names of its parts: files without their endings, or configurations with splits."""

    @abstractmethod
    def rows(self, part: str) -> Iterator[Row]:
        """The rows of one part, one by one.

        Raises:
            PolicyError: it cannot be read, or a row is not one; file and line, and no value.
            UsageError: the package that reads it is not installed.
        """


def open_source(given: str | os.PathLike[str]) -> Source:
    """What a path or an id stands for; ``PATH[:100]`` means its first hundred rows.

    Raises:
        UsageError: there is no such file or folder, and it is no id of a data set either.
    """
    text = os.fspath(given)
    cut = None if Path(text).exists() else _SLICE.search(text)
    path = text[: cut.start()] if cut else text
    source: Source
    if os.path.isdir(path):
        source = _Saved(shown_path(path), path) if _is_saved(path) else _Folder(shown_path(path), path)
    elif os.path.exists(path):
        source = _File(shown_path(path), path)
    elif _HUB_ID.fullmatch(path) and Path(path).suffix.lower() not in {*READERS, *_BUILT}:
        source = _Hub(path, path)
    else:
        raise UsageError(f"{shown_path(path)}: there is no such file or folder")
    if cut is None:
        return source
    first, last = (int(number) if number else None for number in cut.groups())
    return _Slice(source.name, source, first or 0, last)


def beside(path: str, folder: str | os.PathLike[str]) -> str:
    """What `path` means where it is relative to a folder: a whole path, or a hub id if nothing lies there."""
    bare = _SLICE.sub("", path)
    whole = os.path.abspath(os.path.join(folder, path))
    lies = os.path.exists(os.path.join(folder, bare))
    return path if not lies and not os.path.exists(bare) and _HUB_ID.fullmatch(bare) else whole


@dataclass(frozen=True)
class _Slice(Source):
    of: Source
    first: int
    last: int | None

    @property
    def parts(self) -> tuple[str, ...]:
        return self.of.parts

    def rows(self, part: str) -> Iterator[Row]:
        return islice(self.of.rows(part), self.first, self.last)


@dataclass(frozen=True)
class _File(Source):
    path: str

    @property
    def parts(self) -> tuple[str, ...]:
        return (Path(self.path).stem,)

    def rows(self, part: str) -> Iterator[Row]:
        return _local_rows(Path(self.path))


@dataclass(frozen=True)
class _Folder(Source):
    path: str

    @property
    def _files(self) -> dict[str, Path]:
        root = Path(self.path)
        found = (p for p in root.rglob("*") if p.suffix.lower() in {*READERS, *_BUILT} and p.is_file())
        some = sorted(islice(found, MOST_PARTS))
        return {p.relative_to(root).with_suffix("").as_posix(): p for p in some}

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self._files)

    def rows(self, part: str) -> Iterator[Row]:
        return _local_rows(self._files[part])


def _local_rows(path: Path) -> Iterator[Row]:
    ending = path.suffix.lower()
    if ending not in _BUILT:
        return file_rows(path, _BUILT)
    name = shown_path(path)
    package = _package(name)
    return _numbered(
        name,
        lambda: package.load_dataset(_BUILT[ending], data_files=str(path), split="train", streaming=True),
    )


# What `datasets` reads ----------------------------------------------------------------------------------


def _package(name: str) -> Any:
    try:
        import datasets
    except ImportError:
        datasets = None
    # A folder called `datasets` where the user stands can be imported too.
    if not hasattr(datasets, "load_dataset"):
        raise UsageError(f"{name} is read with the `datasets` package (pip install 'safeedit[datasets]')")
    return datasets


def _is_saved(path: str) -> bool:
    return any(os.path.isfile(os.path.join(path, name)) for name in _ON_DISK)


def _numbered(name: str, load: Callable[[], Any]) -> Iterator[Row]:
    """Rows as `datasets` gives them, counted from 1; its own errors may quote what they are about."""
    failed = ""
    try:
        for number, values in enumerate(load(), 1):
            yield Row(values, Place(name, number, 1))
    except Exception as error:
        failed = type(error).__name__
    if failed:
        raise UsageError(f"{name}: the data set could not be read ({failed})")


@dataclass(frozen=True)
class _Saved(Source):
    """A folder that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote."""

    path: str

    def _load(self) -> Any:
        return _guarded(self.name, lambda: _package(self.name).load_from_disk(self.path))

    @property
    def parts(self) -> tuple[str, ...]:
        found = self._load()
        return tuple(map(str, found)) if isinstance(found, Mapping) else (Path(self.path).name,)

    def rows(self, part: str) -> Iterator[Row]:
        found = self._load()
        table = found[part] if isinstance(found, Mapping) else found
        return _numbered(f"{self.name}/{part}" if isinstance(found, Mapping) else self.name, lambda: table)


@dataclass(frozen=True)
class _Hub(Source):
    """A data set of the Hugging Face hub: ``owner/name``, or ``owner/name:configuration``."""

    id: str

    @property
    def parts(self) -> tuple[str, ...]:
        package = _package(self.name)
        repository, _, only = self.id.partition(":")

        def listed() -> tuple[str, ...]:
            configs = [only] if only else package.get_dataset_config_names(repository)
            return tuple(
                f"{config}/{split}"
                for config in configs
                for split in package.get_dataset_split_names(repository, config)
            )

        found: tuple[str, ...] = _guarded(self.name, listed)
        return found

    def rows(self, part: str) -> Iterator[Row]:
        package = _package(self.name)
        repository, (config, split) = self.id.partition(":")[0], part.rsplit("/", 1)
        return _numbered(
            f"{self.name} {part}",
            lambda: package.load_dataset(repository, config, split=split, streaming=True),
        )


def _guarded(name: str, do: Callable[[], Any]) -> Any:
    failed = ""
    try:
        return do()
    except UsageError:
        raise
    except Exception as error:
        failed = type(error).__name__
    raise UsageError(f"there is no file {name}, and no data set of that id could be read ({failed})")
