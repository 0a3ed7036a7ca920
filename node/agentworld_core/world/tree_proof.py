"""Proofs that a key has a value in a state, or has none, which need nothing but the state root to be checked."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

from agentworld_core.codec import bytes_up_to, decode, items_up_to, message
from agentworld_core.errors import HashMismatch, MalformedEncoding
from agentworld_core.hashing import content_id
from agentworld_core.world.errors import InvalidProof
from agentworld_core.world.tree_nodes import (
    DIGEST_BYTES,
    MAX_KEY_BYTES,
    MAX_VALUE_BYTES,
    SLOTS,
    TreeInner,
    TreeLeaf,
    path_prefix,
    shares,
    slot_of,
)

MAX_NODE_BYTES = MAX_VALUE_BYTES + 1024
_LEAF_MARK = b"\x83\x18\x28"


@message(42, "state_proof")
class StateProof:
    """The encodings of the tree nodes from the root to the place where a key is, or would be."""

    nodes: Annotated[tuple[Annotated[bytes, bytes_up_to(MAX_NODE_BYTES)], ...], items_up_to(2 * MAX_KEY_BYTES + 2)]


def parse_node(data: bytes) -> TreeLeaf | TreeInner:
    """Returns the tree node that the bytes encode; raises MalformedEncoding unless it could stand in a state tree."""
    if data[:3] == _LEAF_MARK:
        return _check_leaf(decode(TreeLeaf, data, limit=MAX_NODE_BYTES))
    return _check_inner(decode(TreeInner, data, limit=MAX_NODE_BYTES))


def _check_leaf(leaf: TreeLeaf) -> TreeLeaf:
    if len(leaf.keys) != len(leaf.values):
        raise MalformedEncoding("has another number of values than of keys", field="values")
    if any(one >= other for one, other in pairwise(leaf.keys)):
        raise MalformedEncoding("must be in ascending order", field="keys")
    return leaf


def _check_inner(inner: TreeInner) -> TreeInner:
    count = inner.slots.bit_count()
    if inner.slots >= 1 << SLOTS or count < 2:
        raise MalformedEncoding("must have at least two of its 17 bits set", field="slots", value=inner.slots)
    if len(inner.children) != count * DIGEST_BYTES:
        raise MalformedEncoding("must hold one digest for each slot", field="children")
    if len(inner.prefix) != (inner.depth + 1) >> 1 or path_prefix(inner.prefix, inner.depth) != inner.prefix:
        raise MalformedEncoding("must hold as many half-bytes as the depth says", field="prefix")
    return inner


def child_digest(inner: TreeInner, slot: int) -> bytes | None:
    """Returns the digest of the child in a slot, or None when the slot is empty."""
    if not inner.slots >> slot & 1:
        return None
    index = (inner.slots & ((1 << slot) - 1)).bit_count()
    return inner.children[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]


def verify_proof(root: str, key: bytes, proof: StateProof) -> bytes | None:
    """Returns the value that the key has under the root, or None when it is proved that it has none.

    Raises HashMismatch for a node that is not the one its parent (or the root) names, MalformedEncoding for one that
    is no tree node, InvalidProof when nodes are missing or left over.
    """
    expected: str | None = root
    value: bytes | None = None
    for data in proof.nodes:
        if expected is None:
            raise InvalidProof("goes on after the statement is proved", field="nodes")
        found = content_id(data)
        if found != expected:
            raise HashMismatch("a node of the proof is not the one its parent names", field="nodes", value=found)
        expected, value = _follow(parse_node(data), key)
    if expected is not None:
        raise InvalidProof("ends before the statement is proved", field="nodes", value=expected)
    return value


def _follow(node: TreeLeaf | TreeInner, key: bytes) -> tuple[str | None, bytes | None]:
    """Returns the id of the next node on the way to the key, or else what the key is found to have."""
    if isinstance(node, TreeLeaf):
        return None, node.values[node.keys.index(key)] if key in node.keys else None
    if not _below(node, key):
        return None, None
    child = child_digest(node, slot_of(key, node.depth))
    return (None, None) if child is None else (child.hex(), None)


def _below(inner: TreeInner, key: bytes) -> bool:
    return 2 * len(key) >= inner.depth and shares(inner.prefix, key, inner.depth)
