"""Finds what a pin has to keep: a block with all its parts, a snapshot with its chunks, or one blob."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from agentworld_core.codec import decode
from agentworld_core.errors import AgentWorldError, InvalidField, NotFound
from agentworld_core.ids import is_hash
from agentworld_core.ledger.segments import Journal
from agentworld_core.ledger.snapshot import MANIFEST_LIMIT
from agentworld_core.messages import SnapshotManifest, WorldBlock
from agentworld_node.ledger_stores import BLOBS, INDEX, PINS
from agentworld_node.storage.blob_store import DEFAULT_BLOB_BYTES
from agentworld_node.storage.blobs import FileBlobStore
from agentworld_node.storage.errors import BlobCorrupt, BlobNotFound
from agentworld_node.storage.files import LOCAL_FILES, FileSystem
from agentworld_node.storage.index import Index
from agentworld_node.storage.index_schema import BlockEntry
from agentworld_node.storage.pins import Link, Pin, PinStore
from agentworld_node.store.folder import check_data_folder

MAX_NOTE = 200

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Pinned:
    """A pin, how many blobs it keeps, and whether the block's snapshot, were there one, is no longer stored."""

    pin: Pin
    blobs: int
    without_snapshot: bool = False

    def as_dict(self) -> dict[str, object]:
        """Returns plain data for JSON."""
        return {
            "hash": self.pin.blob_hash,
            "kind": self.pin.kind,
            "height": self.pin.height,
            "note": self.pin.note,
            "added_ms": self.pin.added_ms,
            "blobs": self.blobs,
            "without_snapshot": self.without_snapshot,
        }


def add_pin(path: Path, target: str, *, note: str = "", files: FileSystem = LOCAL_FILES) -> Pinned:
    """Pins a block by height or hash, a snapshot by the hash of its manifest, or any blob, also while a node runs.

    Raises InvalidField for something else, NotFound for a height or a hash that is not stored, BlobCorrupt when a part
    is damaged, TooManyPins and Busy.
    """
    if len(note) > MAX_NOTE:
        raise InvalidField(f"may have {MAX_NOTE} characters", field="--note", value=len(note))
    with _opened(path, files=files) as pins, pins.held():
        # Looked for while nobody may remove anything, so that all of it is still there when the pin is.
        finder = _Finder(path, files=files)
        root, links, without_snapshot = finder.find(target)
        pin = Pin(root.blob_hash, root.kind, root.height, note, time.time_ns() // 1_000_000)
        pins.add(pin, links)
        return Pinned(pin=pin, blobs=pins.count_of(root.blob_hash), without_snapshot=without_snapshot)


def remove_pin(path: Path, target: str) -> Pin:
    """Removes a pin, by its hash or the height of its block, and returns it; NotFound when there is none."""
    with _opened(path) as pins, pins.held():
        found = [
            pin for pin in pins.pins() if pin.blob_hash == target or (pin.kind == "block" and target == str(pin.height))
        ]
        if not found:
            raise NotFound("is not pinned", field="pin", value=target, remedy="see `agentworld store pins list`")
        for pin in found:
            pins.remove(pin.blob_hash)
        return found[0]


def list_pins(path: Path) -> list[Pinned]:
    """Returns all pins of a data folder by id."""
    with _opened(path) as pins:
        return [Pinned(pin=pin, blobs=pins.count_of(pin.blob_hash)) for pin in pins.pins()]


@contextmanager
def _opened(path: Path, *, files: FileSystem = LOCAL_FILES) -> Iterator[PinStore]:
    check_data_folder(path, files=files)
    with PinStore.open(path / PINS) as pins:
        yield pins


class _Finder:
    """Follows references from a block or a blob through what is stored."""

    def __init__(self, path: Path, *, files: FileSystem):
        self._path = path
        self._blobs = FileBlobStore.reading(path / BLOBS, files=files)

    def find(self, target: str) -> tuple[Link, list[Link], bool]:
        """Returns what is pinned, all that it needs, and whether a snapshot that belonged to it is gone."""
        if not is_hash(target) and not (target.isdecimal() and len(target) < 19):
            raise InvalidField("is neither a height nor a content id", field="pin", value=target)
        entry = self._entry(target)
        if entry is not None:
            return self._block(entry)
        if not is_hash(target):
            raise NotFound("this node has no such block", field="height", value=target)
        data = self._get(target)
        manifest = _decoded(SnapshotManifest, data)
        if manifest is not None:
            root = Link(target, "manifest", manifest.epoch)
            return root, [root, *self._chunks(manifest)], False
        journal = _decoded(Journal, data)
        segments = () if journal is None else journal.segments
        links = [self._checked(segment.content_hash, "blob", 0) for segment in segments]
        root = Link(target, "blob", 0)
        return root, [root, *links], False

    def _entry(self, target: str) -> BlockEntry | None:
        with Index.open_as_it_is(self._path / INDEX) as index:
            return index.block_by_hash(target) if is_hash(target) else index.block_at(int(target))

    def _block(self, entry: BlockEntry) -> tuple[Link, list[Link], bool]:
        height = entry.height
        block = decode(WorldBlock, self._get(entry.block_hash), limit=DEFAULT_BLOB_BYTES)
        root = Link(entry.block_hash, "block", height)
        links = [
            root,
            self._checked(entry.batch_hash, "batch", height),
            self._checked(entry.certificate_hash, "certificate", height),
            self._checked(block.journal_ref, "journal", height),
            *(self._checked(segment.content_hash, "segment", height) for segment in block.segments),
            self._checked(block.receipts_root, "receipts", height),
        ]
        if block.snapshot_ref is None:
            return root, links, False
        try:
            manifest = decode(SnapshotManifest, self._get(block.snapshot_ref), limit=MANIFEST_LIMIT)
            chunks = self._chunks(manifest)
        except BlobNotFound:
            # Retention has removed it, or has begun to.
            return root, links, True
        return root, [*links, Link(block.snapshot_ref, "manifest", height), *chunks], False

    def _chunks(self, manifest: SnapshotManifest) -> list[Link]:
        return [self._checked(chunk.content_hash, "chunk", manifest.epoch) for chunk in manifest.chunks]

    def _checked(self, blob_hash: str, kind: str, height: int) -> Link:
        self._get(blob_hash)
        return Link(blob_hash, kind, height)

    def _get(self, blob_hash: str) -> bytes:
        data = self._blobs.peek(blob_hash)
        if data is None:
            raise BlobCorrupt(blob_hash, actual="something else")
        return data


def _decoded(kind: type[_T], data: bytes) -> _T | None:
    """Returns the message that the bytes are, None when they are something else."""
    try:
        return decode(kind, data, limit=MANIFEST_LIMIT)
    except AgentWorldError:
        return None
