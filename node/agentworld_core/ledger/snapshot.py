"""Snapshots: the state at a height as chunks that unchanged parts of the state share with earlier snapshots.

A chunk holds the entries of a largest subtree of at most ``CHUNK_BYTES`` bytes, so the chunks, like the tree, follow
from the content alone. They are few and large where tree nodes are many and small, which is what disks and networks
want.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from agentworld_core.codec import bytes_up_to, decode, encode, message
from agentworld_core.errors import HashMismatch, MalformedEncoding, StateMismatch
from agentworld_core.hashing import content_id
from agentworld_core.messages import SnapshotManifest, StateChunkRef
from agentworld_core.world.tree import Tree, tree_from_sorted
from agentworld_core.world.tree_nodes import MAX_KEY_BYTES, MAX_VALUE_BYTES, Node, entries_of

CHUNK_BYTES = 256 * 1024
CHUNK_LIMIT = 2 * CHUNK_BYTES
MANIFEST_LIMIT = 64 * 1024 * 1024

Fetch = Callable[[str], bytes]


@message(43, "state_chunk")
class StateChunk:
    """Consecutive entries of a state: keys in ascending order, and their values in the same order."""

    keys: tuple[Annotated[bytes, bytes_up_to(MAX_KEY_BYTES)], ...]
    values: tuple[Annotated[bytes, bytes_up_to(MAX_VALUE_BYTES)], ...]


@dataclass(frozen=True, kw_only=True)
class CutSnapshot:
    """A snapshot as it is stored: the content id of its manifest, and the blobs that earlier snapshots do not have."""

    snapshot_ref: str
    manifest: SnapshotManifest
    blobs: dict[str, bytes]


def cut_snapshot(tree: Tree, *, world_id: str, height: int, since: Tree) -> CutSnapshot:
    """Returns the snapshot of a state; ``since`` is the state of the last snapshot, whose chunks are stored already."""
    refs: list[StateChunkRef] = []
    blobs: dict[str, bytes] = {}
    for node in tree.subtrees(CHUNK_BYTES):
        if node.chunk is None or not since.has_subtree(node, CHUNK_BYTES):
            data = _chunk_bytes(node)
            node.chunk = (content_id(data), len(data))
            blobs[node.chunk[0]] = data
        refs.append(StateChunkRef(first_key=node.first, content_hash=node.chunk[0], size_bytes=node.chunk[1]))
    manifest = SnapshotManifest(world_id=world_id, epoch=height, chunks=tuple(refs), state_root=tree.root)
    data = encode(manifest)
    snapshot_ref = content_id(data)
    blobs[snapshot_ref] = data
    return CutSnapshot(snapshot_ref=snapshot_ref, manifest=manifest, blobs=blobs)


def load_manifest(snapshot_ref: str, fetch: Fetch) -> SnapshotManifest:
    """Returns the manifest of that content id; raises HashMismatch or MalformedEncoding for anything else."""
    data = fetch(snapshot_ref)
    if content_id(data) != snapshot_ref:
        raise HashMismatch("the snapshot manifest does not hash to its id", field="snapshot_ref", value=snapshot_ref)
    return decode(SnapshotManifest, data, limit=MANIFEST_LIMIT)


def restore(manifest: SnapshotManifest, fetch: Fetch) -> Tree:
    """Returns the state of a snapshot from its chunks, each fetched by content id.

    Raises HashMismatch for a chunk of another id or size, MalformedEncoding for one that is no chunk, StateMismatch
    when all of them together do not give the manifest's state root, or are cut elsewhere than the state says.
    """
    entries: list[tuple[bytes, bytes]] = []
    for ref in manifest.chunks:
        data = fetch(ref.content_hash)
        if content_id(data) != ref.content_hash or len(data) != ref.size_bytes:
            raise HashMismatch("a state chunk is not what the manifest says", field="chunk", value=ref.content_hash)
        chunk = decode(StateChunk, data, limit=CHUNK_LIMIT)
        if len(chunk.keys) != len(chunk.values) or chunk.keys[:1] != (ref.first_key,):
            raise MalformedEncoding("is not the chunk that the manifest names", field="chunk", value=ref.content_hash)
        entries.extend(zip(chunk.keys, chunk.values, strict=True))
    tree = tree_from_sorted(entries)
    if tree.root != manifest.state_root:
        raise StateMismatch(f"the chunks give {tree.root}", field="state_root", value=manifest.state_root)
    nodes = list(tree.subtrees(CHUNK_BYTES))
    if [node.first for node in nodes] != [ref.first_key for ref in manifest.chunks]:
        raise StateMismatch("the chunks are not cut where the state says", field="chunks", value=len(manifest.chunks))
    # What is stored already need not be encoded again for the next snapshot.
    for node, ref in zip(nodes, manifest.chunks, strict=True):
        node.chunk = (ref.content_hash, ref.size_bytes)
    return tree


def _chunk_bytes(node: Node) -> bytes:
    entries = list(entries_of(node))
    return encode(StateChunk(keys=tuple(key for key, _ in entries), values=tuple(value for _, value in entries)))
