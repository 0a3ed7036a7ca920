"""The state of a world as a Merkle search tree: a persistent sorted map whose root hash follows from its content alone.

An edit costs in proportion to what it changes, a lookup or proof in proportion to the depth; unchanged nodes are shared
between versions. What a node looks like and why: ``tree_nodes``.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise

from agentworld_core.codec import encode
from agentworld_core.errors import HashMismatch, InvalidField, MalformedEncoding
from agentworld_core.hashing import content_id
from agentworld_core.world.tree_edit import edit
from agentworld_core.world.tree_nodes import (
    LEAF_LIMIT,
    MAX_KEY_BYTES,
    MAX_VALUE_BYTES,
    SLOTS,
    Inner,
    Leaf,
    Node,
    TreeInner,
    TreeLeaf,
    build,
    entries_of,
    entry_weight,
    path_prefix,
    shares,
    slot_of,
)
from agentworld_core.world.tree_proof import StateProof, child_digest, parse_node

_EMPTY_ENCODING = encode(TreeLeaf(keys=(), values=()))
EMPTY_ROOT = content_id(_EMPTY_ENCODING)


class Tree:
    """An immutable sorted map of byte keys to byte values; two trees with the same content have the same root."""

    __slots__ = ("_node",)

    def __init__(self, node: Node | None = None):
        self._node = node

    @classmethod
    def empty(cls) -> Tree:
        """Returns the tree without entries."""
        return cls()

    @classmethod
    def of(cls, entries: Mapping[bytes, bytes]) -> Tree:
        """Returns the tree with exactly these entries."""
        return cls.empty().update(entries)

    @classmethod
    def load(cls, root: str, fetch: Callable[[str], bytes]) -> Tree:
        """Returns the tree with this root from its stored nodes, each fetched by its content id.

        Raises HashMismatch for a node that does not hash to its id, and MalformedEncoding for nodes that no sequence of
        edits could have made, so that later edits give the same roots here as everywhere. What ``fetch`` raises passes
        through.
        """
        if root == EMPTY_ROOT:
            return cls.empty()
        return cls(_load(root, fetch))

    @property
    def root(self) -> str:
        """The content id of the root node: the state root."""
        return EMPTY_ROOT if self._node is None else self._node.digest.hex()

    @property
    def weight(self) -> int:
        """The size of all entries in bytes, with the overhead of each."""
        return 0 if self._node is None else self._node.weight

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tree) and self.root == other.root

    def __hash__(self) -> int:
        return hash(self.root)

    def __repr__(self) -> str:
        return f"Tree({self.root})"

    def get(self, key: bytes) -> bytes | None:
        """Returns the value of the key, or None when it has none."""
        node = self._node
        halves = 2 * len(key)
        # Whether the key shares the prefixes on the way need not be asked: the leaf says what is there.
        while isinstance(node, Inner):
            if halves < node.depth:
                return None
            node = node.children.get(slot_of(key, node.depth))
        if node is None:
            return None
        index = bisect_left(node.keys, key)
        return node.values[index] if index < len(node.keys) and node.keys[index] == key else None

    def items(self, prefix: bytes = b"", *, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Yields the entries whose keys begin with the prefix and lie behind ``after``, in ascending order of keys."""
        node = self._node
        depth = 2 * len(prefix)
        while isinstance(node, Inner) and node.depth < depth:
            if not shares(node.first, prefix, node.depth):
                return
            node = node.children.get(slot_of(prefix, node.depth))
        if node is None or (isinstance(node, Inner) and not shares(node.first, prefix, depth)):
            return
        for key, value in entries_of(node, after):
            if key.startswith(prefix):
                yield key, value

    def update(self, changes: Mapping[bytes, bytes | None]) -> Tree:
        """Returns the tree with these values set, and with the keys removed whose value is None.

        Raises InvalidField for a key or value beyond its limit. Removing a key that is not there changes nothing.
        """
        for key, value in changes.items():
            if type(key) is not bytes or not 0 < len(key) <= MAX_KEY_BYTES:
                raise InvalidField(f"must have 1 to {MAX_KEY_BYTES} bytes", field="key", value=key)
            if value is not None and (type(value) is not bytes or len(value) > MAX_VALUE_BYTES):
                raise InvalidField(f"must be at most {MAX_VALUE_BYTES} bytes", field=f"value of {key!r}")
        if not changes:
            return self
        node = edit(self._node, sorted(changes.items()))
        return self if node is self._node else Tree(node)

    def nodes(self) -> dict[str, bytes]:
        """Returns the encodings of all nodes by content id; enough for ``load``."""
        return {EMPTY_ROOT: _EMPTY_ENCODING} if self._node is None else self.new_nodes(Tree.empty())

    def new_nodes(self, since: Tree) -> dict[str, bytes]:
        """Returns the encodings of the nodes that are not in the other tree, at a cost in proportion to them."""
        found: dict[str, bytes] = {}
        if self._node is None:
            return found if since.root == EMPTY_ROOT else {EMPTY_ROOT: _EMPTY_ENCODING}
        stack: list[Node] = [self._node]
        while stack:
            node = stack.pop()
            if since.has_node(node):
                continue
            found[node.digest.hex()] = node.encoding()
            if isinstance(node, Inner):
                stack.extend(node.children.values())
        return found

    def has_node(self, node: Node) -> bool:
        """True when a node with the same digest is part of this tree."""
        mine = self._node
        while mine is not None:
            if mine is node or mine.digest == node.digest:
                return True
            if isinstance(mine, Leaf) or not shares(mine.first, node.first, mine.depth):
                return False
            mine = mine.children.get(slot_of(node.first, mine.depth))
        return False

    def has_subtree(self, node: Node, limit: int) -> bool:
        """True when ``subtrees(limit)`` of this tree yields a node with the same digest."""
        mine = self._node
        while isinstance(mine, Inner) and mine.weight > limit:
            if not shares(mine.first, node.first, mine.depth):
                return False
            mine = mine.children.get(slot_of(node.first, mine.depth))
        return mine is not None and (mine is node or mine.digest == node.digest)

    def subtrees(self, limit: int) -> Iterator[Node]:
        """Yields in order of keys the largest subtrees of at most ``limit`` bytes (or single leaves) of the tree."""
        stack: list[Node] = [] if self._node is None else [self._node]
        while stack:
            node = stack.pop()
            if isinstance(node, Leaf) or node.weight <= limit:
                yield node
            else:
                stack.extend(reversed(node.children.values()))

    def prove(self, key: bytes) -> StateProof:
        """Returns the proof of what the key has under this root: its value, or nothing."""
        if self._node is None:
            return StateProof(nodes=(_EMPTY_ENCODING,))
        path = []
        node: Node | None = self._node
        while node is not None:
            path.append(node.encoding())
            if isinstance(node, Leaf) or not shares(node.first, key, node.depth):
                break
            node = node.children.get(slot_of(key, node.depth))
        return StateProof(nodes=tuple(path))


def _load(node_id: str, fetch: Callable[[str], bytes]) -> Node:
    data = fetch(node_id)
    if content_id(data) != node_id:
        raise HashMismatch("a node of the state tree does not hash to its id", field="node", value=node_id)
    parsed = parse_node(data)
    if isinstance(parsed, TreeInner):
        return _load_inner(node_id, parsed, fetch)
    if not parsed.keys:
        raise MalformedEncoding("an empty leaf below the root", field="node", value=node_id)
    weight = sum(entry_weight(key, value) for key, value in zip(parsed.keys, parsed.values, strict=True))
    if weight > LEAF_LIMIT and len(parsed.keys) > 1:
        raise MalformedEncoding(f"a leaf of {weight} bytes", field="node", value=node_id)
    return Leaf(parsed.keys, parsed.values, weight)


def _load_inner(node_id: str, parsed: TreeInner, fetch: Callable[[str], bytes]) -> Node:
    children: dict[int, Node] = {}
    for slot in range(SLOTS):
        child = child_digest(parsed, slot)
        if child is not None:
            children[slot] = _load(child.hex(), fetch)
    node = Inner(parsed.depth, children, sum(child.weight for child in children.values()))
    if node.weight <= LEAF_LIMIT:
        raise MalformedEncoding("an inner node over entries that fit a leaf", field="node", value=node_id)
    for slot, below in children.items():
        _check_place(parsed, slot, below)
    return node


def _check_place(parsed: TreeInner, slot: int, child: Node) -> None:
    """Raises MalformedEncoding unless all keys below the child belong into this slot of this node."""
    last = child.keys[-1] if isinstance(child, Leaf) else child.first
    deep_enough = isinstance(child, Leaf) or child.depth > parsed.depth
    for key in (child.first, last):
        fits = 2 * len(key) >= parsed.depth and path_prefix(key, parsed.depth) == parsed.prefix
        if not (fits and deep_enough and slot_of(key, parsed.depth) == slot):
            raise MalformedEncoding("a child that belongs elsewhere", field="node", value=child.digest.hex())


def tree_from_sorted(entries: list[tuple[bytes, bytes]]) -> Tree:
    """Returns the tree of entries in strictly ascending order of keys; raises MalformedEncoding for another order."""
    if any(one[0] >= other[0] for one, other in pairwise(entries)):
        raise MalformedEncoding("must be in ascending order", field="keys")
    return Tree(build(entries)) if entries else Tree.empty()
