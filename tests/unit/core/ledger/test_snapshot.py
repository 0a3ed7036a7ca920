from __future__ import annotations

import dataclasses
import random

import pytest

from agentworld_core.codec import encode
from agentworld_core.errors import HashMismatch, MalformedEncoding, StateMismatch
from agentworld_core.hashing import content_id
from agentworld_core.ledger.snapshot import CHUNK_BYTES, StateChunk, cut_snapshot, load_manifest, restore
from agentworld_core.messages import StateChunkRef
from agentworld_core.world.tree import Tree


def a_state(count: int = 6_000, size: int = 200) -> Tree:
    return Tree.of({b"object/%05d" % number: b"%05d" % number * (size // 5) for number in range(count)})


def cut(tree: Tree, since: Tree | None = None, height: int = 1):
    return cut_snapshot(tree, world_id="aurora", height=height, since=since or Tree.empty())


@pytest.mark.box("S2.3", "chunks")
def test_a_snapshot_restores_the_state():
    tree = a_state()
    snapshot = cut(tree)
    assert len(snapshot.manifest.chunks) > 4
    assert all(ref.size_bytes < CHUNK_BYTES * 1.1 for ref in snapshot.manifest.chunks)
    manifest = load_manifest(snapshot.snapshot_ref, snapshot.blobs.__getitem__)
    assert manifest == snapshot.manifest
    assert restore(manifest, snapshot.blobs.__getitem__) == tree


@pytest.mark.box("S3.2", "cost")
@pytest.mark.box("S2.3", "by-key")
def test_the_next_snapshot_writes_only_chunks_that_changed():
    tree = a_state()
    first = cut(tree)
    changed = tree.update({b"object/00000": b"changed"})
    second = cut(changed, since=tree, height=2)
    assert len(second.blobs) == 2, "one chunk and the manifest"
    stored = {**first.blobs, **second.blobs}
    assert restore(second.manifest, stored.__getitem__) == changed


def test_a_restored_state_cuts_the_same_snapshots():
    tree = a_state()
    first = cut(tree)
    restored = restore(first.manifest, first.blobs.__getitem__)
    change = {b"object/00000": b"changed"}
    one, other = cut(tree.update(change), since=tree), cut(restored.update(change), since=restored)
    assert (one.snapshot_ref, sorted(one.blobs)) == (other.snapshot_ref, sorted(other.blobs))


@pytest.mark.box("S2.3", "root")
def test_the_manifest_follows_from_the_content_alone():
    half = a_state(3_000)
    grown = half.update(dict(a_state().items()))
    assert cut(grown, since=half).snapshot_ref == cut(a_state()).snapshot_ref


@pytest.mark.box("S2.3", "chunks")
@pytest.mark.parametrize("seed", range(4))
def test_every_snapshot_is_complete_with_what_earlier_ones_stored(seed):
    """Also when one was cut and thrown away, and when a part was a chunk, went into a larger one, and is one again."""
    chance = random.Random(seed)
    stored: dict[str, bytes] = {}
    tree = last = Tree.empty()
    for number in range(60):
        keys = [b"k/%02d" % chance.randrange(40) for _ in range(3)]
        tree = tree.update({key: chance.choice([None, b"%d" % number, bytes(40_000), bytes(60_000)]) for key in keys})
        snapshot = cut(tree, since=last, height=number)
        if chance.random() < 0.5:
            stored.update(snapshot.blobs)
            last = tree
            assert restore(snapshot.manifest, stored.__getitem__) == tree


def test_a_chunk_cut_for_a_block_that_was_not_committed_is_cut_again():
    tree = a_state()
    assert cut(tree).blobs == cut(tree).blobs


def test_a_part_of_a_larger_chunk_is_no_stored_chunk():
    """A part that was once cut by itself, for a block that was not committed, must be stored when it is cut again."""
    small = Tree.of({b"a/%d" % number: bytes(60_000) for number in range(4)})
    large = small.update({b"b/%d" % number: bytes(60_000) for number in range(4)})
    cut(large)
    stored = cut(small).blobs
    alone = small.update({b"b": b"x"})
    stored.update(cut(alone, since=small, height=2).blobs)
    again = cut(large, since=alone, height=3)
    stored.update(again.blobs)
    assert restore(again.manifest, stored.__getitem__) == large


@pytest.mark.box("S2.3", "empty")
def test_an_empty_state_has_a_snapshot_too():
    snapshot = cut(Tree.empty())
    assert snapshot.manifest.chunks == ()
    assert restore(snapshot.manifest, snapshot.blobs.__getitem__) == Tree.empty()


def _chunk(tree: Tree) -> tuple[StateChunkRef, bytes]:
    entries = list(tree.items())
    data = encode(StateChunk(keys=tuple(key for key, _ in entries), values=tuple(value for _, value in entries)))
    return StateChunkRef(first_key=entries[0][0], content_hash=content_id(data), size_bytes=len(data)), data


@pytest.mark.box("S3.3", "snapshot")
def test_changed_blobs_are_refused():
    snapshot = cut(a_state(100))
    with pytest.raises(HashMismatch):
        load_manifest(snapshot.snapshot_ref, lambda name: snapshot.blobs[name] + b"\0")
    with pytest.raises(HashMismatch):
        restore(snapshot.manifest, lambda name: snapshot.blobs[name][:-1] + b"\xff")


@pytest.mark.box("S3.3", "snapshot")
@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda manifest: dataclasses.replace(manifest, state_root="0" * 64), StateMismatch),
        (lambda manifest: dataclasses.replace(manifest, chunks=manifest.chunks[:-1]), StateMismatch),
        (lambda manifest: dataclasses.replace(manifest, chunks=manifest.chunks[::-1]), MalformedEncoding),
        (lambda manifest: dataclasses.replace(manifest, chunks=manifest.chunks * 2), MalformedEncoding),
        (
            lambda manifest: dataclasses.replace(
                manifest, chunks=tuple(dataclasses.replace(ref, first_key=b"a") for ref in manifest.chunks)
            ),
            MalformedEncoding,
        ),
        (
            lambda manifest: dataclasses.replace(
                manifest, chunks=tuple(dataclasses.replace(ref, size_bytes=1) for ref in manifest.chunks)
            ),
            HashMismatch,
        ),
    ],
)
def test_a_manifest_that_does_not_fit_its_chunks_is_refused(change, error):
    snapshot = cut(a_state())
    with pytest.raises(error):
        restore(change(snapshot.manifest), snapshot.blobs.__getitem__)


def test_chunks_cut_elsewhere_are_refused():
    """They would restore the same state, and then make other manifests than everybody else's."""
    tree = a_state(20)
    parts = [Tree.of(dict(list(tree.items())[:7])), Tree.of(dict(list(tree.items())[7:]))]
    chunks = [_chunk(part) for part in parts]
    manifest = dataclasses.replace(cut(tree).manifest, chunks=tuple(ref for ref, _ in chunks))
    with pytest.raises(StateMismatch) as caught:
        restore(manifest, {ref.content_hash: data for ref, data in chunks}.__getitem__)
    assert caught.value.field == "chunks"


def test_a_chunk_with_a_value_missing_is_refused():
    data = encode(StateChunk(keys=(b"a", b"b"), values=(b"",)))
    ref = StateChunkRef(first_key=b"a", content_hash=content_id(data), size_bytes=len(data))
    manifest = dataclasses.replace(cut(Tree.empty()).manifest, chunks=(ref,))
    with pytest.raises(MalformedEncoding):
        restore(manifest, {ref.content_hash: data}.__getitem__)
