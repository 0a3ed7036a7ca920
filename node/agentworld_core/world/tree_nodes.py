"""The two kinds of node of the state tree, and the rule that decides which is where.

A subtree whose entries weigh at most ``LEAF_LIMIT`` bytes (or that has one entry) is a leaf: a chunk of sorted entries.
Any other subtree is an inner node that splits its entries by the half-byte that follows their longest common prefix.
The rule looks at the content alone, so equal content gives equal nodes whatever the order of edits.

Why not cut the sorted entries where a hash of the key says so: that hash is known to whoever chooses the key. With ids
chosen so that none ends a chunk (one id in 32 has to be tried again), the forced cuts at the maximum size move with
every insertion: with 100 000 such ids, 677 of 782 chunks changed per insertion, against 1 with random ids. Here an edit
touches one path whatever the keys are, the path is never longer than the key, and the limit holds in bytes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Annotated, TypeVar, Union

import cbor2

from agentworld_core.codec import U64, bytes_up_to, message
from agentworld_core.hashing import digest

MAX_KEY_BYTES = 112
MAX_VALUE_BYTES = 64 * 1024
LEAF_LIMIT = 4096
ENTRY_OVERHEAD = 8
SLOTS = 17
DIGEST_BYTES = 32

Key = Annotated[bytes, bytes_up_to(MAX_KEY_BYTES)]
Entry = tuple[bytes, bytes]
Node = Union["Leaf", "Inner"]
_V = TypeVar("_V")


@message(40, "tree_leaf")
class TreeLeaf:
    """A chunk of the state: keys in ascending order, and their values in the same order."""

    keys: tuple[Key, ...]
    values: tuple[Annotated[bytes, bytes_up_to(MAX_VALUE_BYTES)], ...]


@message(41, "tree_inner")
class TreeInner:
    """A branching of the state tree.

    All keys below share the first ``depth`` half-bytes of ``prefix`` (which holds just these, an odd rest zero).
    Bit 0 of ``slots`` stands for the key that ends there, bit 1 + n for the keys that go on with half-byte n;
    ``children`` holds one 32-byte digest for each bit that is set, in the order of the bits.
    """

    depth: U64
    prefix: Key
    slots: U64
    children: Annotated[bytes, bytes_up_to(SLOTS * DIGEST_BYTES)]


def slot_of(key: bytes, depth: int) -> int:
    """Returns the slot of a key at a depth: 0 when it ends there, else 1 + its half-byte."""
    index = depth >> 1
    if index == len(key):
        return 0
    return 1 + (key[index] & 15 if depth & 1 else key[index] >> 4)


def common_depth(one: bytes, other: bytes) -> int:
    """Returns how many leading half-bytes two keys share."""
    for index, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return 2 * index + ((left ^ right) < 16)
    return 2 * min(len(one), len(other))


def shares(one: bytes, other: bytes, depth: int) -> bool:
    """True when both keys have the same first ``depth`` half-bytes."""
    whole = depth >> 1
    if one[:whole] != other[:whole] or len(other) < whole or len(one) < whole:
        return False
    if not depth & 1:
        return True
    return len(one) > whole and len(other) > whole and one[whole] >> 4 == other[whole] >> 4


def path_prefix(key: bytes, depth: int) -> bytes:
    """Returns the first ``depth`` half-bytes of a key, an odd rest filled with zero."""
    whole = depth >> 1
    return key[:whole] + bytes([key[whole] & 0xF0]) if depth & 1 else key[:whole]


class Leaf:
    """A chunk of entries; never changed once made.

    ``chunk`` remembers the content id and size of the snapshot chunk that holds just the entries of this node, if
    known.
    """

    __slots__ = ("_digest", "chunk", "keys", "values", "weight")

    def __init__(self, keys: Sequence[bytes], values: Sequence[bytes], weight: int):
        self.keys = tuple(keys)
        self.values = tuple(values)
        self.weight = weight
        self.chunk: tuple[str, int] | None = None
        self._digest: bytes | None = None

    @property
    def first(self) -> bytes:
        return self.keys[0]

    @property
    def digest(self) -> bytes:
        if self._digest is None:
            self._digest = digest(self.encoding())
        return self._digest

    def encoding(self) -> bytes:
        """Returns what ``encode(TreeLeaf(...))`` returns, without checking again what was checked on the way in."""
        return cbor2.dumps([40, self.keys, self.values])


class Inner:
    """A branching; ``children`` are in the order of their slots. Never changed once made."""

    __slots__ = ("_digest", "children", "chunk", "depth", "first", "weight")

    def __init__(self, depth: int, children: dict[int, Node], weight: int):
        self.depth = depth
        self.children = {slot: children[slot] for slot in sorted(children)}
        self.weight = weight
        self.first: bytes = next(iter(self.children.values())).first
        self.chunk: tuple[str, int] | None = None
        self._digest: bytes | None = None

    @property
    def digest(self) -> bytes:
        if self._digest is None:
            self._digest = digest(self.encoding())
        return self._digest

    def encoding(self) -> bytes:
        """Returns what ``encode(TreeInner(...))`` returns."""
        slots = 0
        digests = b""
        for slot, child in self.children.items():
            slots |= 1 << slot
            digests += child.digest
        return cbor2.dumps([41, self.depth, path_prefix(self.first, self.depth), slots, digests])


def entry_weight(key: bytes, value: bytes) -> int:
    """Returns how many bytes an entry counts for in its leaf."""
    return len(key) + len(value) + ENTRY_OVERHEAD


def split(entries: list[tuple[bytes, _V]], depth: int) -> Iterator[tuple[int, list[tuple[bytes, _V]]]]:
    """Yields the sorted entries in groups of one slot each, in order of slots."""
    start = 0
    current = slot_of(entries[0][0], depth)
    for index in range(1, len(entries)):
        slot = slot_of(entries[index][0], depth)
        if slot != current:
            yield current, entries[start:index]
            start, current = index, slot
    yield current, entries[start:]


def build(entries: list[Entry]) -> Node:
    """Returns the one node for these entries, which are sorted, distinct and at least one."""
    weight = sum([len(key) + len(value) for key, value in entries]) + ENTRY_OVERHEAD * len(entries)
    if weight <= LEAF_LIMIT or len(entries) == 1:
        return Leaf([key for key, _ in entries], [value for _, value in entries], weight)
    depth = common_depth(entries[0][0], entries[-1][0])
    children: dict[int, Node] = {}
    for slot, group in split(entries, depth):
        children[slot] = build(group)
    return Inner(depth, children, weight)


def entries_of(node: Node, after: bytes = b"") -> Iterator[Entry]:
    """Yields all entries below a node behind a key, in order of keys, without looking at those before it."""
    stack: list[Node] = [node]
    while stack:
        top = stack.pop()
        if isinstance(top, Leaf):
            start = bisect_right(top.keys, after) if after else 0
            yield from zip(top.keys[start:], top.values[start:], strict=True)
            continue
        children = list(top.children.values())
        if after:
            # Of the children that begin at or before the key, only the last can hold entries behind it.
            children = children[max(0, bisect_right([child.first for child in children], after) - 1) :]
        stack.extend(reversed(children))
