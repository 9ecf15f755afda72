from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safeedit.evidence.merkle import (
    EMPTY_ROOT,
    MerkleTree,
    TreeHead,
    leaf_hash,
    verify_consistency,
    verify_inclusion,
)

# The entries and roots that the reference implementations of certificate transparency are tested with.
ENTRIES = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def tree_of(count: int) -> MerkleTree:
    tree = MerkleTree()
    tree.extend(b"entry %d" % index for index in range(count))
    return tree


def by_definition(entries: list[bytes]) -> bytes:
    """RFC 9162, 2.1.1, word for word."""
    if not entries:
        return hashlib.sha256(b"").digest()
    if len(entries) == 1:
        return hashlib.sha256(b"\x00" + entries[0]).digest()
    k = 1
    while k * 2 < len(entries):
        k *= 2
    return hashlib.sha256(b"\x01" + by_definition(entries[:k]) + by_definition(entries[k:])).digest()


def test_the_roots_are_those_of_the_reference_implementations() -> None:
    tree = MerkleTree()
    assert tree.head() == TreeHead(0, EMPTY_ROOT.hex())
    for entry, root in zip(ENTRIES, ROOTS, strict=True):
        tree.extend([bytes.fromhex(entry)])
        assert tree.head().root == root
    assert [tree.head(size).root for size in range(1, 9)] == ROOTS


def test_every_head_is_that_of_the_definition() -> None:
    tree, entries = tree_of(70), [b"entry %d" % index for index in range(70)]
    for size in range(71):
        assert tree.head(size) == TreeHead(size, by_definition(entries[:size]).hex())


def test_every_proof_of_every_size_holds() -> None:
    tree = tree_of(40)
    for size in range(1, 41):
        head = tree.head(size)
        for index in range(size):
            path = tree.inclusion(index, size)
            assert len(path) <= 6
            assert verify_inclusion(tree.leaf(index), index, head, path)
            assert verify_consistency(tree.head(index + 1), head, tree.consistency(index + 1, size))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_proof_of_something_else_does_not_hold(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 64))
    index = data.draw(st.integers(0, size - 1))
    tree = tree_of(size)
    head, path, leaf = tree.head(), tree.inclusion(index), tree.leaf(index)
    other = data.draw(st.integers(0, size - 1).filter(lambda found: found != index))
    assert not verify_inclusion(tree.leaf(other), index, head, path)
    assert not verify_inclusion(leaf, other, head, path)
    assert not verify_inclusion(leaf_hash(b"another"), index, head, path)
    assert not verify_inclusion(leaf, index, head, path[:-1])
    assert not verify_inclusion(leaf, index, head, [*path, path[0]])
    assert not verify_inclusion(leaf, index, replace(head, root="0" * 64), path)
    assert not verify_inclusion(leaf, index, head, [*path[:-1], "nothing"])
    at = data.draw(st.integers(0, len(path) - 1))
    wrong = [*path[:at], hashlib.sha256(path[at].encode()).hexdigest(), *path[at + 1 :]]
    assert not verify_inclusion(leaf, index, head, wrong)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_tree_that_lost_or_changed_an_entry_is_not_consistent(data: st.DataObject) -> None:
    new = data.draw(st.integers(2, 64))
    old = data.draw(st.integers(1, new - 1))
    tree, changed = tree_of(new), MerkleTree()
    at = data.draw(st.integers(0, old - 1))
    changed.extend(b"entry %d" % (index if index != at else -1) for index in range(new))
    path = tree.consistency(old)
    assert verify_consistency(tree.head(old), tree.head(), path)
    assert not verify_consistency(tree.head(old), changed.head(), path)
    assert not verify_consistency(tree.head(old), changed.head(), changed.consistency(old))
    assert not verify_consistency(changed.head(old), tree.head(), path)
    assert not verify_consistency(tree.head(old), tree.head(), path[1:])
    assert not verify_consistency(tree.head(old), tree.head(), [*path, "0" * 64])
    assert not verify_consistency(tree.head(), tree.head(old), path)


def test_sizes_that_never_were_are_refused() -> None:
    tree = tree_of(5)
    for wrong in (
        lambda: tree.head(6),
        lambda: tree.inclusion(5),
        lambda: tree.inclusion(-1),
        lambda: tree.inclusion(0, 6),
        lambda: tree.consistency(0),
        lambda: tree.consistency(6),
        lambda: tree.consistency(4, 3),
    ):
        with pytest.raises(ValueError, match=r"tree|proof"):
            wrong()


def test_the_empty_tree_is_consistent_with_everything_and_nothing_else_is() -> None:
    tree = tree_of(3)
    assert verify_consistency(tree.head(0), tree.head(), [])
    assert not verify_consistency(TreeHead(0, "0" * 64), tree.head(), [])
    assert verify_consistency(tree.head(), tree.head(), [])
    assert not verify_consistency(tree.head(), replace(tree.head(), root="0" * 64), [])
    assert not verify_inclusion(tree.leaf(0), 0, tree.head(0), [])
