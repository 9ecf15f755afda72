"""Distributions by the thousand: those that fit are held in memory, the others are made again when asked for.

A distribution has as many numbers as the vocabulary has tokens, the hidden state that the model's head
made it of only as many as the model is wide. So beyond a budget it is the hidden states that are kept,
in a file that has no name, encrypted with a key that is nowhere but in this process: what can be told
from them of a prompt is gone with the process, whatever ends it.
"""

from __future__ import annotations

import os
import secrets
import tempfile
import weakref
from collections.abc import Sequence

import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from torch import Tensor

from safeedit.errors import EditorError
from safeedit.models.structure import Decoder

BUDGET = 256 * 2**20
"""Bytes of distributions that stay in memory."""
AT_ONCE = 32 * 2**20
"""Numbers that the head makes at once where distributions are made again."""
_BLOCK = 16
"""Bytes that AES takes at once."""


class Table:
    """(distributions, vocabulary) probabilities, filled once from the first to the last.

    Args:
        decoder: the model, whose head no edit changes.
        count: how many distributions there will be.
        budget: how many bytes of them may stay in memory.
    """

    def __init__(self, decoder: Decoder, count: int, budget: int | None = None) -> None:
        self.decoder, self.device, self._count = decoder, decoder.device, 0
        most = (BUDGET if budget is None else budget) // (4 * decoder.vocabulary)
        self._dense = torch.zeros(min(count, most), decoder.vocabulary, device=decoder.device)
        self._stores: list[tuple[int, _Store]] = []
        """Stores, one for each number of states that a distribution is a mean of, and their first rows."""
        self._without = torch.full((max(count - most, 0),), -1, device=decoder.device)
        """(distributions that are not held,) the token that each may not have, or -1."""

    def __len__(self) -> int:
        return self._count

    def add(self, distributions: Tensor, states: Tensor, without: tuple[int, int] | None = None) -> None:
        """Put some more in.

        Args:
            distributions: (n, vocabulary).
            states: (n, m, hidden_size): each is the mean of what the head makes of its m states ...
            without: ... and of these, the token that is taken out of it: (number of the distribution, token).
        """
        held = max(0, min(len(self._dense) - self._count, len(distributions)))
        self._dense[self._count : self._count + held] = distributions[:held]
        if held < len(distributions):
            first = self._count + held
            if without is not None and without[0] >= held:
                self._without[first + without[0] - held - len(self._dense)] = without[1]
            if not self._stores or self._stores[-1][1].shape != states.shape[1:]:
                self._stores.append((first, _Store(states.shape[1:], states.dtype)))
            self._stores[-1][1].append(states[held:])
        self._count += len(distributions)

    def whole(self) -> Tensor | None:
        """The table as one tensor, if all of it is in memory."""
        return None if self._stores else self._dense[: self._count]

    @torch.no_grad()
    def __getitem__(self, rows: Tensor) -> Tensor:
        """(len(rows), vocabulary) of the given ones."""
        found = torch.empty(len(rows), self.decoder.vocabulary, device=self.device)
        held = rows < len(self._dense)
        found[held] = self._dense[rows[held]]
        for number, (first, store) in enumerate(self._stores):
            after = self._stores[number + 1][0] if number + 1 < len(self._stores) else self._count
            mine = ((rows >= first) & (rows < after)).nonzero()[:, 0]
            size = max(1, AT_ONCE // (store.shape[0] * self.decoder.vocabulary))
            for part in torch.split(mine, size) if len(mine) else ():
                made = self._made(store.read((rows[part] - first).tolist()), rows[part])
                found[part] = made
        return found

    def _made(self, states: Tensor, rows: Tensor) -> Tensor:
        logits = self.decoder.logits(states.to(self.device))  # (n, m, vocabulary)
        found: Tensor = logits.float().softmax(-1).mean(1)
        without = self._without[rows - len(self._dense)]
        there = without >= 0
        found[there.nonzero()[:, 0], without[there]] = 0
        found[there] /= found[there].sum(-1, keepdim=True)
        return found


class _Store:
    """Tensors of one shape by number, in a file without a name."""

    def __init__(self, shape: Sequence[int], dtype: torch.dtype) -> None:
        self.shape, self.dtype, self.count = tuple(shape), dtype, 0
        self._bytes = torch.Size(self.shape).numel() * dtype.itemsize
        self._stride = -(-self._bytes // _BLOCK) * _BLOCK
        file = tempfile.TemporaryFile(prefix="safeedit-", buffering=0)  # noqa: SIM115 (as long as this lives)
        weakref.finalize(self, file.close)
        self._file = file
        self._key = secrets.token_bytes(32)

    def append(self, tensors: Tensor) -> None:
        """Put some more in: (n, *shape).

        Raises:
            EditorError: the disk is full.
        """
        plain = tensors.detach().to("cpu", self.dtype).contiguous().view(len(tensors), -1).view(torch.uint8)
        padded = torch.zeros(len(tensors), self._stride, dtype=torch.uint8)
        padded[:, : self._bytes] = plain
        secret = self._cipher(self.count).encryptor().update(padded.numpy().tobytes())
        full = ""
        try:
            at = self.count * self._stride
            while secret:
                done = os.pwrite(self._file.fileno(), secret, at)
                secret, at = secret[done:], at + done
        except OSError as error:
            full = error.strerror or type(error).__name__
        if full:
            raise EditorError(
                f"what this many edits aim at does not fit into the temporary folder ({full}); set TMPDIR "
                "to a larger one, or split the request"
            )
        self.count += len(tensors)

    def read(self, numbers: Sequence[int]) -> Tensor:
        """(len(numbers), *shape)."""
        found = bytearray()
        for number in numbers:
            secret = os.pread(self._file.fileno(), self._stride, number * self._stride)
            found += self._cipher(number).decryptor().update(secret)[: self._bytes]
        return torch.frombuffer(found, dtype=self.dtype).view(len(numbers), *self.shape)

    def _cipher(self, number: int) -> Cipher[modes.CTR]:
        # Every place of the file is written once, so that no part of the key stream is used twice.
        counter = number * self._stride // _BLOCK
        return Cipher(algorithms.AES(self._key), modes.CTR(counter.to_bytes(_BLOCK, "big")))
