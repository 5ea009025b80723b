"""Merkle trees are those of RFC 9162: the reference vectors, and the proofs' promises for any tree."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.merkle import (
    EMPTY_ROOT,
    MerkleTree,
    consistency_is_proven,
    inclusion_is_proven,
    leaf_hash,
    node_hash,
    root_of,
)

# The vectors of the certificate-transparency reference implementation (merkletree/merkle_tree_test.cc).
ENTRIES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)
_5F08 = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
_6B47 = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
_96A2 = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
_BC1A = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
_CA85 = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
_0EBC = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"

sizes = st.integers(1, 70)


def tree_of(count: int) -> MerkleTree:
    tree = MerkleTree()
    for number in range(count):
        tree.append(leaf_hash(b"%d" % number))
    return tree


def reference_root(entries: list[bytes]) -> bytes:
    """The definition of section 2.1.1, word for word."""
    if not entries:
        return sha256(b"").digest()
    if len(entries) == 1:
        return leaf_hash(entries[0])
    k = 1
    while 2 * k < len(entries):
        k *= 2
    return node_hash(reference_root(entries[:k]), reference_root(entries[k:]))


@pytest.fixture
def reference() -> MerkleTree:
    tree = MerkleTree()
    for entry in ENTRIES:
        tree.append(leaf_hash(entry))
    return tree


def test_roots_are_those_of_the_reference_vectors(reference: MerkleTree) -> None:
    """Every size that the tree ever had keeps its root."""
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert reference.root(0) == EMPTY_ROOT == root_of([])
    assert [reference.root(size).hex() for size in range(1, 9)] == list(ROOTS)


@pytest.mark.parametrize(
    ("index", "size", "path"),
    [
        (0, 1, []),
        (0, 8, [_96A2, _5F08, _6B47]),
        (5, 8, [_BC1A, _CA85, ROOTS[3]]),
        (2, 3, [ROOTS[1]]),
        (1, 5, [ROOTS[0], _5F08, _BC1A]),
    ],
)
def test_inclusion_proofs_are_those_of_the_reference_vectors(
    reference: MerkleTree, index: int, size: int, path: list[str]
) -> None:
    """The audit paths of the reference implementation, node by node."""
    assert [node.hex() for node in reference.inclusion_proof(index, size)] == path


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [(1, 1, []), (1, 8, [_96A2, _5F08, _6B47]), (6, 8, [_0EBC, _CA85, ROOTS[3]]), (2, 5, [_5F08, _BC1A])],
)
def test_consistency_proofs_are_those_of_the_reference_vectors(
    reference: MerkleTree, old: int, new: int, path: list[str]
) -> None:
    """The consistency proofs of the reference implementation, node by node."""
    assert [node.hex() for node in reference.consistency_proof(old, new)] == path


@given(sizes)
def test_the_grown_tree_has_the_defined_root(size: int) -> None:
    """Growing leaf by leaf, and all at once, gives what the recursive definition gives over all entries."""
    entries = [b"%d" % number for number in range(size)]
    assert tree_of(size).root() == reference_root(entries) == root_of([leaf_hash(entry) for entry in entries])


@given(st.data(), sizes)
def test_each_leaf_is_provable_at_its_place_and_nowhere_else(data: st.DataObject, size: int) -> None:
    """An inclusion proof holds for its leaf, index, size and root; any other of these refutes it."""
    tree = tree_of(size)
    index = data.draw(st.integers(0, size - 1))
    proof, leaf, root = tree.inclusion_proof(index), leaf_hash(b"%d" % index), tree.root()
    assert inclusion_is_proven(leaf, index, size, proof, root)
    other = data.draw(st.integers(0, 100).filter(lambda number: number != index))
    assert not inclusion_is_proven(leaf, other, size, proof, root)
    assert not inclusion_is_proven(leaf_hash(b"another"), index, size, proof, root)
    assert not inclusion_is_proven(leaf, index, size, proof, leaf_hash(b"another"))
    assert not inclusion_is_proven(leaf, index, size, [*proof, root], root)
    if proof:
        assert not inclusion_is_proven(leaf, index, size, proof[:-1], root)


@given(st.data(), sizes)
def test_growth_is_provable_and_rewriting_is_not(data: st.DataObject, new: int) -> None:
    """A consistency proof holds between the two roots; a root of other leaves, or a changed proof, is refuted."""
    old = data.draw(st.integers(1, new))
    tree = tree_of(new)
    proof, old_root, new_root = tree.consistency_proof(old), tree.root(old), tree.root()
    assert consistency_is_proven(old, new, old_root, new_root, proof)
    assert not consistency_is_proven(old, new, leaf_hash(b"another"), new_root, proof)
    assert not consistency_is_proven(old, new, old_root, leaf_hash(b"another"), proof)
    assert not consistency_is_proven(old, new, old_root, new_root, [*proof, new_root])
    for place in range(len(proof)):
        forged = [*proof[:place], leaf_hash(b"forged"), *proof[place + 1 :]]
        assert not consistency_is_proven(old, new, old_root, new_root, forged)
        assert not consistency_is_proven(old, new, old_root, new_root, proof[:place] + proof[place + 1 :])


def test_no_proof_for_what_the_tree_never_was() -> None:
    """Sizes and places outside the tree are refused, when proofs are made and when they are checked."""
    tree = tree_of(3)
    for size in (4, -1):
        with pytest.raises(IndexError, match=f"never had {size} leaves"):
            tree.root(size)
    with pytest.raises(IndexError):
        tree.inclusion_proof(3)
    with pytest.raises(IndexError):
        tree.consistency_proof(0)
    assert not inclusion_is_proven(leaf_hash(b"0"), 0, 0, [], EMPTY_ROOT)
    assert not consistency_is_proven(0, 3, EMPTY_ROOT, tree.root(), [])
    assert not consistency_is_proven(3, 2, tree.root(), tree.root(2), [])
    assert not consistency_is_proven(3, 5, tree.root(), tree.root(), [])
