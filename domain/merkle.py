"""Merkle trees as RFC 9162, section 2.1, defines them (over SHA-256), with their proofs.

Leaves enter as hashes (`leaf_hash` of the data), indices and sizes count leaves from 0, proofs are lists of node hashes
in the order of the RFC, so any other implementation can check them.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Final

EMPTY_ROOT: Final = sha256(b"").digest()


def leaf_hash(data: bytes) -> bytes:
    """The hash of one entry (section 2.1.1)."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of a node over its two children (section 2.1.1)."""
    return sha256(b"\x01" + left + right).digest()


def root_of(leaves: Sequence[bytes]) -> bytes:
    """The Merkle Tree Hash of leaves that are all known, each as its `leaf_hash`, in a third of a tree's time."""
    level = list(leaves)
    while len(level) > 1:
        above = list(map(node_hash, level[0::2], level[1::2]))
        if len(level) % 2:
            above.append(level[-1])  # what has no sibling rises as it is
        level = above
    return level[0] if level else EMPTY_ROOT


class MerkleTree:
    """A tree that only grows: its root and proofs as of now, or as of any size that it once had.

    It keeps every complete subtree's hash, two for each leaf; an append costs two hashes on average, a root or a proof
    about log2(size).
    """

    def __init__(self) -> None:
        # levels[h][i] covers the 2**h leaves from i * 2**h on; only complete subtrees are kept.
        self._levels: list[list[bytes]] = [[]]

    def __len__(self) -> int:
        return len(self._levels[0])

    def append(self, leaf: bytes) -> None:
        """Adds a leaf, given as its `leaf_hash`."""
        node = leaf
        for height, level in enumerate(self._levels):
            level.append(node)
            if len(level) % 2:
                return
            node = node_hash(level[-2], level[-1])
            if height + 1 == len(self._levels):
                self._levels.append([node])
                return

    def root(self, size: int | None = None) -> bytes:
        """The Merkle Tree Hash of the first `size` leaves, of all for None (section 2.1.1)."""
        return self._subtree(0, self._checked(size))

    def inclusion_proof(self, index: int, size: int | None = None) -> list[bytes]:
        """The audit path of leaf `index` in the tree of the first `size` leaves (section 2.1.3.1)."""
        end = self._checked(size)
        if not 0 <= index < end:
            raise IndexError(f"no leaf {index} in a tree of {end}")
        start = 0
        path: list[bytes] = []
        while end - start > 1:
            middle = start + _split(end - start)
            if index < middle:
                path.append(self._subtree(middle, end))
                end = middle
            else:
                path.append(self._subtree(start, middle))
                start = middle
        return path[::-1]

    def consistency_proof(self, old: int, new: int | None = None) -> list[bytes]:
        """That the tree of `new` leaves begins with the tree of `old` leaves, 1 ≤ `old` ≤ `new` (section 2.1.4.1)."""
        end = self._checked(new)
        if not 1 <= old <= end:
            raise IndexError(f"no proof from size {old} to {end}")
        start = 0
        proof: list[bytes] = []
        while old != end:
            middle = start + _split(end - start)
            if old <= middle:
                proof.append(self._subtree(middle, end))
                end = middle
            else:
                proof.append(self._subtree(start, middle))
                start = middle
        if start:  # the old tree itself is known to the verifier; a part of it is not
            proof.append(self._subtree(start, end))
        return proof[::-1]

    def _checked(self, size: int | None) -> int:
        if size is None:
            return len(self)
        if not 0 <= size <= len(self):
            raise IndexError(f"the tree never had {size} leaves")
        return size

    def _subtree(self, start: int, end: int) -> bytes:
        """The hash of leaves start … end; `start` is a multiple of the power of two at or above their number."""
        count = end - start
        if count == 0:
            return EMPTY_ROOT
        if count & (count - 1) == 0:
            height = count.bit_length() - 1
            return self._levels[height][start >> height]
        middle = start + _split(count)
        return node_hash(self._subtree(start, middle), self._subtree(middle, end))


def inclusion_is_proven(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether `proof` shows that leaf `index` of the tree with this size and root has this hash (section 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    place, last, node = index, size - 1, leaf
    for step in proof:
        if last == 0:
            return False
        if place & 1 or place == last:
            node = node_hash(step, node)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            node = node_hash(node, step)
        place, last = place >> 1, last >> 1
    return last == 0 and node == root


def consistency_is_proven(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether `proof` shows that the tree of `new` leaves begins with the tree of `old` leaves (section 2.1.4.2)."""
    if not 1 <= old <= new:
        return False
    if old == new:
        return not proof and old_root == new_root
    nodes = [old_root, *proof] if old & (old - 1) == 0 else list(proof)
    if not nodes:
        return False
    place, last = old - 1, new - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    old_node = new_node = nodes[0]
    for step in nodes[1:]:
        if last == 0:
            return False
        if place & 1 or place == last:
            old_node, new_node = node_hash(step, old_node), node_hash(step, new_node)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            new_node = node_hash(new_node, step)
        place, last = place >> 1, last >> 1
    return last == 0 and old_node == old_root and new_node == new_root


def _split(count: int) -> int:
    """The largest power of two below `count`, which is 2 or more."""
    return 1 << (count - 1).bit_length() - 1
