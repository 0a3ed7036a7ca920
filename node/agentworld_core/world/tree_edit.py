"""Edits of the state tree: a new root that shares every node the edit did not touch.

Changes come as a sorted list of (key, value), a value of None meaning removal. Every function returns the one canonical
node of its content (see ``tree_nodes``), and the very same object when nothing changed.
"""

from __future__ import annotations

from bisect import bisect_left

from agentworld_core.world.tree_nodes import (
    LEAF_LIMIT,
    Entry,
    Inner,
    Leaf,
    Node,
    build,
    common_depth,
    entries_of,
    entry_weight,
    shares,
    slot_of,
    split,
)

Change = tuple[bytes, bytes | None]


def edit(node: Node | None, changes: list[Change]) -> Node | None:
    """Returns the node with the changes (sorted, distinct, at least one) made, or None when no entry is left."""
    if node is None:
        added = _insertions(changes)
        return build(added) if added else None
    if isinstance(node, Leaf):
        return _edit_leaf(node, changes)
    if shares(node.first, changes[0][0], node.depth) and shares(node.first, changes[-1][0], node.depth):
        return _edit_inner(node, changes)
    inside = [change for change in changes if shares(node.first, change[0], node.depth)]
    outside = _insertions([change for change in changes if not shares(node.first, change[0], node.depth)])
    return _join(_edit_inner(node, inside) if inside else node, outside)


def _insertions(changes: list[Change]) -> list[Entry]:
    return [(key, value) for key, value in changes if value is not None]


def _edit_leaf(node: Leaf, changes: list[Change]) -> Node | None:
    values = list(node.values)
    weight = node.weight
    for key, value in changes:
        index = bisect_left(node.keys, key)
        if value is None or index == len(values) or node.keys[index] != key:
            return _rebuild_leaf(node, changes)
        weight += len(value) - len(values[index])
        values[index] = value
    if weight > LEAF_LIMIT:
        return _rebuild_leaf(node, changes)
    # The keys stay, and what ``build`` would make has not to be weighed and sorted again.
    after = tuple(values)
    return node if after == node.values else Leaf(node.keys, after, weight)


def _rebuild_leaf(node: Leaf, changes: list[Change]) -> Node | None:
    entries = dict(zip(node.keys, node.values, strict=True))
    changed = False
    for key, value in changes:
        if entries.get(key) == value:
            continue
        changed = True
        if value is None:
            del entries[key]
        else:
            entries[key] = value
    if not changed:
        return node
    return build(sorted(entries.items())) if entries else None


def _edit_inner(node: Inner, changes: list[Change]) -> Node | None:
    children = dict(node.children)
    changed = False
    for slot, group in split(changes, node.depth):
        old = children.get(slot)
        new = edit(old, group)
        if new is old:
            continue
        changed = True
        if new is None:
            del children[slot]
        else:
            children[slot] = new
    return _inner_of(node.depth, children) if changed else node


def _inner_of(depth: int, children: dict[int, Node]) -> Node | None:
    """Returns the canonical node over children that are canonical themselves."""
    if not children:
        return None
    if len(children) == 1:
        return next(iter(children.values()))
    weight = sum([child.weight for child in children.values()])
    node = Inner(depth, children, weight)
    return build(list(entries_of(node))) if weight <= LEAF_LIMIT else node


def _join(node: Node | None, entries: list[Entry]) -> Node | None:
    """Returns the canonical node of a node and of entries that all lie outside its common prefix."""
    if not entries:
        return node
    if node is None:
        return build(entries)
    weight = node.weight + sum([entry_weight(key, value) for key, value in entries])
    if weight <= LEAF_LIMIT:
        return build(sorted([*entries_of(node), *entries]))
    depth = min(common_depth(node.first, entries[0][0]), common_depth(node.first, entries[-1][0]))
    home = slot_of(node.first, depth)
    children: dict[int, Node] = {home: node}
    for slot, group in split(entries, depth):
        joined = _join(node, group) if slot == home else build(group)
        assert joined is not None
        children[slot] = joined
    return Inner(depth, children, weight)
