"""Second moments of keys, E[k k^T], for every layer that an editor changes: one pass over a corpus.

Texts are packed into rows without padding; the pass stops at the last layer that is needed, before
its block's down-projection. Results are cached on disk under a digest of the model's weights, the
tokenizer, the texts and the settings, so that a changed model, tokenizer or corpus can never meet old
statistics.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from safeedit.editors.contexts import own_texts
from safeedit.editors.journal import tokenizer_digest
from safeedit.errors import EditorError
from safeedit.models.hooks import frozen
from safeedit.models.structure import Decoder
from safeedit.models.tokens import Batch, tokenise
from safeedit.tensors.atomic import atomic_path

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Corpus:
    """Texts for statistics, and how much of them is read."""

    texts: Sequence[str]
    max_tokens: int = 200_000
    width: int = 128
    """Tokens a row; longer texts run on into the next row."""
    rows: int = 32
    """Rows of one forward pass."""

    def digest(self) -> str:
        """SHA-256 over texts and settings, hex."""
        found = hashlib.sha256(json.dumps([self.max_tokens, self.width]).encode())
        for text in self.texts:
            data = text.encode("utf-8", "surrogatepass")
            found.update(len(data).to_bytes(8, "big") + data)
        return found.hexdigest()


@dataclass(frozen=True)
class OwnText:
    """Text that the model writes itself, sampled anew when statistics are not cached; it is not kept."""

    width: ClassVar[int] = 128
    """Tokens of a text, and of a row."""
    max_tokens: int = 200_000
    seed: int = 0

    def digest(self) -> str:
        """SHA-256 of the settings, hex; model and tokenizer are told apart by their own digests."""
        return hashlib.sha256(f"own|{self.max_tokens}|{self.seed}".encode()).hexdigest()

    def collected(self, model: Any, tokenizer: Any, progress: Progress | None = None) -> Corpus:
        """Let the model write."""
        width = row_width(model, self.width)
        texts = own_texts(model, tokenizer, self.max_tokens, self.seed, width=width, progress=progress)
        return Corpus(texts, self.max_tokens, self.width)


@dataclass(frozen=True)
class Moments:
    """E[k k^T] by layer, and over how many tokens it was taken."""

    by_layer: dict[int, Tensor]
    """Layer index to an (inner, inner) float32 matrix, in the processor's memory."""
    tokens: int


class _EnoughError(Exception):
    """Raised to end a forward pass once the last wanted key has been seen."""


@torch.no_grad()
def second_moments(
    decoder: Decoder,
    tokenizer: Any,
    corpus: Corpus,
    layers: Iterable[int],
    progress: Progress | None = None,
) -> Moments:
    """Collect E[k k^T] of the down-projections of `layers` in one pass.

    Args:
        decoder: the model.
        tokenizer: its tokenizer.
        corpus: what to read.
        layers: block indices.
        progress: called with (tokens read, tokens wanted).

    Raises:
        EditorError: the corpus has no token, or a key is not finite.
    """
    wanted = sorted(set(layers))
    sums = {
        layer: torch.zeros(p.inner, p.inner, device=p.weight.device)
        for layer in wanted
        for p in [decoder.projections[layer]]
    }
    seen = 0

    def watch(layer: int) -> Callable[[Any, tuple[Any, ...]], None]:
        def add(_: Any, args: tuple[Any, ...]) -> None:
            keys = args[0].reshape(-1, args[0].shape[-1]).float()
            sums[layer].addmm_(keys.T, keys)
            if layer == wanted[-1]:
                raise _EnoughError

        return add

    with ExitStack() as stack:
        stack.enter_context(frozen(decoder.model))
        for layer in wanted:
            module = decoder.projections[layer].module
            stack.callback(module.register_forward_pre_hook(watch(layer)).remove)
        for ids in _packed(tokenizer, replace(corpus, width=row_width(decoder.model, corpus.width))):
            batch = _full_rows(ids.to(decoder.device))
            with suppress(_EnoughError):
                decoder.base(**batch.forward_args(), use_cache=False)
            seen += ids.numel()
            if progress is not None:
                progress(min(seen, corpus.max_tokens), corpus.max_tokens)
    if seen == 0:
        raise EditorError("the corpus for key statistics has no text in it")
    ends = [torch.stack(total.div_(seen).aminmax()) for total in sums.values()]
    if not torch.isfinite(torch.cat(ends)).all():
        raise EditorError("a key of the statistics is not finite")
    moments = {layer: total.cpu() for layer, total in sums.items()}
    return Moments(moments, seen)


def cached_moments(
    decoder: Decoder,
    tokenizer: Any,
    corpus: Corpus | OwnText,
    layers: Iterable[int],
    *,
    base_digest: str,
    cache: Path | None,
    progress: Progress | None = None,
    basis: str | None = None,
) -> Moments:
    """As `second_moments`, from the folder `cache` where an earlier run left them.

    Each layer has a file of its own, so that asking for one layer more reads only that one. A file is
    found by the model's weights, the tokenizer, the corpus and the length of a row. With
    `basis`, the digest of another model, its statistics are taken where they are there already; they
    are never collected under that name, as this is not that model.
    """

    def collect(wanted: Iterable[int]) -> Moments:
        texts = corpus if isinstance(corpus, Corpus) else corpus.collected(decoder.model, tokenizer, progress)
        return second_moments(decoder, tokenizer, texts, wanted, progress)

    if cache is None:
        return collect(layers)

    width = row_width(decoder.model, corpus.width)
    read = f"{corpus.digest()}|{tokenizer_digest(tokenizer)}|{width}|v2"

    def files_of(digest: str) -> dict[int, Path]:
        key = hashlib.sha256(f"{digest}|{read}".encode()).hexdigest()[:40]
        return {layer: cache / f"{key}-{layer}.safetensors" for layer in sorted(set(layers))}

    files = files_of(base_digest)
    others = files_of(basis) if basis is not None else {}
    if others and all(file.exists() for file in others.values()):
        files = others
    missing = [layer for layer, file in files.items() if not file.exists()]
    if missing:
        found = collect(missing)
        cache.mkdir(parents=True, exist_ok=True)
        for layer, moment in found.by_layer.items():
            with atomic_path(files[layer]) as temporary:
                content = {"moment": moment.contiguous(), "tokens": torch.tensor(found.tokens)}
                save_file(content, temporary)
    stored = {layer: load_file(file) for layer, file in files.items()}
    return Moments(
        {layer: content["moment"] for layer, content in stored.items()},
        min(int(content["tokens"]) for content in stored.values()),
    )


def row_width(model: Any, wanted: int) -> int:
    """`wanted` tokens a row, or as many as the model has positions for."""
    return min(wanted, int(getattr(model.config, "max_position_embeddings", None) or wanted))


def _packed(tokenizer: Any, corpus: Corpus) -> Iterator[Tensor]:
    """(rows, width) id tensors until the corpus or the token limit ends; a last short row stands alone."""
    left = corpus.max_tokens
    buffer: list[int] = []
    size = corpus.width * corpus.rows
    for start in range(0, len(corpus.texts), 256):
        rows = tokenise(tokenizer, corpus.texts[start : start + 256])
        buffer += chain.from_iterable(row.ids for row in rows)
        while len(buffer) >= size and left > 0:
            chunk = buffer[: min(size, max(corpus.width, left // corpus.width * corpus.width))]
            del buffer[: len(chunk)]
            left -= len(chunk)
            yield torch.tensor(chunk).view(-1, corpus.width)
        if left <= 0:
            return
    rest = buffer[:left]
    whole = len(rest) // corpus.width * corpus.width
    if whole:
        yield torch.tensor(rest[:whole]).view(-1, corpus.width)
    if len(rest) > whole:
        yield torch.tensor(rest[whole:]).view(1, -1)


def _full_rows(ids: Tensor) -> Batch:
    positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    return Batch(ids, torch.ones_like(ids), positions)
