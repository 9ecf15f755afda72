"""Texts for key statistics, where a caller wants others than the reference world's."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safeedit.errors import UsageError

if TYPE_CHECKING:
    from safeedit.editors.base import Editor
    from safeedit.editors.statistics import Corpus, OwnText

MAX_TOKENS = 200_000
LONGEST_LINE = 100_000
CHARACTERS_PER_TOKEN = 8
"""More than tokenizers usually make of a token, so that enough text is read."""


OWN = "own"
"""The name under which the model's own text is asked for."""


def chosen_corpus(statistics: str | os.PathLike[str] | None, editor: Editor) -> Corpus | OwnText | None:
    """The texts named, as many as the editor reads; None for the editor's own default.

    Args:
        statistics: a UTF-8 text file with one text a line, `own` for text that the model writes itself,
            or the id of a data set of the `datasets` package (`id`, or `id:configuration`).
        editor: may have a setting `statistics_tokens`.

    Raises:
        UsageError: there is no such file or data set, it holds no text, or `datasets` is missing.
    """
    if statistics is None:
        return None
    from safeedit.editors.statistics import Corpus, OwnText

    most = int(getattr(editor.params, "statistics_tokens", MAX_TOKENS))
    name = os.fspath(statistics)
    if name == OWN and not Path(name).exists():
        return OwnText(most)
    lines = _file(Path(name)) if Path(name).is_file() else _data_set(name)
    texts = tuple(_enough(lines, most * CHARACTERS_PER_TOKEN))
    if not texts:
        raise UsageError(f"{name} holds no text to take key statistics from")
    return Corpus(texts, max_tokens=most)


def _enough(lines: Iterable[str], characters: int) -> Iterator[str]:
    for line in lines:
        if characters <= 0:
            return
        if line.strip():
            characters -= len(line)
            yield line.strip()


def _file(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8") as stream:
            while line := stream.readline(LONGEST_LINE):
                yield line
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8 text; give a text file, or the id of a data set") from None


def _data_set(name: str) -> Iterator[str]:
    if os.sep in name.strip(os.sep) and name.count("/") > 1:
        raise UsageError(f"there is no file {name}; give a text file, or the id of a data set")
    try:
        from datasets import load_dataset
    except ImportError:
        raise UsageError(
            f"there is no file {name}; for a data set of that id install the `datasets` package "
            "(pip install 'safeedit[datasets]')"
        ) from None
    identifier, _, configuration = name.partition(":")
    try:
        for row in load_dataset(identifier, configuration or None, split="train", streaming=True):
            yield _text(row)
    except Exception as error:
        raise UsageError(f"the data set {name} could not be read ({type(error).__name__})") from None


def _text(row: dict[str, Any]) -> str:
    text = row.get("text", next((value for value in row.values() if isinstance(value, str)), ""))
    return text if isinstance(text, str) else ""
