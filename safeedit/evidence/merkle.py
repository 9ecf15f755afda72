"""A Merkle tree over the entries of a log, with proofs that need only a few of its hashes (RFC 9162).

leaf = SHA-256(0x00 || data), node = SHA-256(0x01 || left || right): the leading bytes keep a node
from being taken for a leaf. An inclusion proof shows that an entry is in the tree of a given head;
a consistency proof that a later head is over the same entries and more. The tree keeps every whole
subtree, so that growing by an entry and proving take a number of hashes that grows with log n.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

EMPTY_ROOT = hashlib.sha256(b"").digest()
"""The head of a tree without entries (RFC 9162, 2.1.1)."""


def leaf_hash(data: bytes) -> bytes:
    """The hash of one entry."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of two subtrees side by side."""
    return hashlib.sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True)
class TreeHead:
    """What a whole log comes down to at one size."""

    size: int
    root: str
    """64 hex digits."""


@dataclass
class MerkleTree:
    """A tree that only grows; whole subtrees are hashed once."""

    _levels: list[list[bytes]] = field(default_factory=lambda: [[]])
    """`_levels[k][i]` is the root over the entries i * 2**k up to (i + 1) * 2**k."""

    def __len__(self) -> int:
        return len(self._levels[0])

    def extend(self, entries: Iterable[bytes]) -> None:
        """Add entries at the end, each given as the bytes that its leaf is over."""
        for data in entries:
            self._add(leaf_hash(data))

    def _add(self, node: bytes) -> None:
        level = 0
        self._levels[0].append(node)
        while len(self._levels[level]) % 2 == 0:
            left, right = self._levels[level][-2:]
            level += 1
            if level == len(self._levels):
                self._levels.append([])
            self._levels[level].append(node_hash(left, right))

    def leaf(self, index: int) -> bytes:
        """The leaf of entry `index`, counted from 0."""
        return self._levels[0][index]

    def head(self, size: int | None = None) -> TreeHead:
        """The head as it was at `size` entries; of all of them by default.

        Raises:
            ValueError: the tree never had that size.
        """
        size = self._checked(len(self) if size is None else size)
        return TreeHead(size, (self._root(0, size) if size else EMPTY_ROOT).hex())

    def inclusion(self, index: int, size: int | None = None) -> list[str]:
        """The hashes that lead from entry `index` to the root at `size` entries (RFC 9162, 2.1.3.1).

        Raises:
            ValueError: there is no such entry at that size.
        """
        size = self._checked(len(self) if size is None else size)
        if not 0 <= index < size:
            raise ValueError("the entry is not in the tree of that size")
        path: list[bytes] = []
        start, end = 0, size
        while end - start > 1:
            middle = start + _split(end - start)
            if index < middle:
                path.append(self._root(middle, end))
                end = middle
            else:
                path.append(self._root(start, middle))
                start = middle
        return [node.hex() for node in reversed(path)]

    def consistency(self, old: int, new: int | None = None) -> list[str]:
        """The hashes that lead from the root at `old` entries to that at `new` (RFC 9162, 2.1.4.1).

        Raises:
            ValueError: the tree never had one of the sizes, or `old` is the greater one or none.
        """
        new = self._checked(len(self) if new is None else new)
        if not 0 < old <= new:
            raise ValueError("a consistency proof leads from a smaller size, above 0, to a greater one")
        path: list[bytes] = []
        start, end, whole = 0, new, True
        while end != old:
            middle = start + _split(end - start)
            if old <= middle:
                path.append(self._root(middle, end))
                end = middle
            else:
                path.append(self._root(start, middle))
                start, whole = middle, False
        if not whole:
            path.append(self._root(start, end))
        return [node.hex() for node in reversed(path)]

    def _root(self, start: int, end: int) -> bytes:
        """The root over entries `start` up to `end`; `start` is where a subtree of the tree begins."""
        count = end - start
        level = count.bit_length() - 1
        if count == 1 << level:
            return self._levels[level][start >> level]
        middle = start + (1 << level)
        return node_hash(self._root(start, middle), self._root(middle, end))

    def _checked(self, size: int) -> int:
        if not 0 <= size <= len(self):
            raise ValueError(f"the tree has {len(self)} entries and never had {size}")
        return size


def verify_inclusion(leaf: bytes, index: int, head: TreeHead, path: Sequence[str]) -> bool:
    """Whether `path` leads from the entry with hash `leaf`, number `index`, to `head` (RFC 9162, 2.1.3.2)."""
    nodes = _decoded(path)
    if nodes is None or not 0 <= index < head.size:
        return False
    place, last, root = index, head.size - 1, leaf
    for node in nodes:
        if last == 0:
            return False
        if place & 1 or place == last:
            root = node_hash(node, root)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            root = node_hash(root, node)
        place, last = place >> 1, last >> 1
    return last == 0 and root.hex() == head.root


def verify_consistency(old: TreeHead, new: TreeHead, path: Sequence[str]) -> bool:
    """Whether `path` shows that `new` has every entry of `old`, in place, and more (RFC 9162, 2.1.4.2)."""
    nodes = _decoded(path)
    if nodes is None or not 0 <= old.size <= new.size:
        return False
    if old.size == 0:
        return not nodes and old.root == EMPTY_ROOT.hex()
    if old.size == new.size:
        return not nodes and old.root == new.root
    if old.size & (old.size - 1) == 0:
        try:
            nodes = [bytes.fromhex(old.root), *nodes]
        except ValueError:
            return False
    if not nodes:
        return False
    place, last = old.size - 1, new.size - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    before = after = nodes[0]
    for node in nodes[1:]:
        if last == 0:
            return False
        if place & 1 or place == last:
            before, after = node_hash(node, before), node_hash(node, after)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            after = node_hash(after, node)
        place, last = place >> 1, last >> 1
    return last == 0 and before.hex() == old.root and after.hex() == new.root


def _split(count: int) -> int:
    """The largest power of two that is smaller than `count`."""
    return 1 << ((count - 1).bit_length() - 1)


def _decoded(path: Sequence[str]) -> list[bytes] | None:
    try:
        nodes = [bytes.fromhex(node) for node in path]
    except ValueError:
        return None
    return nodes if all(len(node) == 32 for node in nodes) else None
