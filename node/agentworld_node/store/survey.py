"""What a data folder has to hold: read from its log, which its own chain of hashes proves, and compared with the index.

Needed are the blobs of every block in the log, the snapshots that are retained, and what is pinned. Blocks after the
newest snapshot were written without waiting for the disk, and the next start writes them again: what a crash has taken
of these is ``unsettled``, not lost.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from agentworld_core.codec import decode, encode
from agentworld_core.errors import AgentWorldError
from agentworld_core.hashing import content_id
from agentworld_core.ledger.snapshot import load_manifest
from agentworld_core.messages import BlockBundle
from agentworld_node.ledger_stores import DROPPED_KEY, GENESIS_KEY, INDEX, RECORD_LIMIT
from agentworld_node.records import COMMIT, SNAPSHOT, SnapshotMark
from agentworld_node.storage.errors import BlobCorrupt
from agentworld_node.storage.index import Index
from agentworld_node.storage.index_schema import BlockEntry, DirectoryEntry
from agentworld_node.store.folder import DataFolder
from agentworld_node.store.inventory import Inventory

KEPT_PROBLEMS = 100


@dataclass
class Survey:
    """What a log says about its data folder.

    ``height`` is that of its last block, ``settled`` that of its newest snapshot mark, ``snapshots`` are the heights
    whose snapshots are retained, ``unread`` those of them whose manifests are damaged or gone, so that what else they
    need is not known. ``problems`` are the first of ``problem_count`` that the index has. ``votes_problem`` says what
    is wrong with the log of votes.
    """

    genesis_hash: str = ""
    height: int = 0
    settled: int = 0
    snapshots: list[int] = field(default_factory=list)
    unread: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    problem_count: int = 0
    votes_problem: str = ""

    def problem(self, text: str) -> None:
        """Notes something that is wrong with the index or the log."""
        self.problem_count += 1
        if len(self.problems) < KEPT_PROBLEMS:
            self.problems.append(text)


def survey(folder: DataFolder, inventory: Inventory) -> Survey:
    """Reads the log of a folder, notes in the inventory what it needs, and returns what else the log says."""
    found = Survey(votes_problem=folder.votes_problem)
    marks = [decode(SnapshotMark, item.payload) for item in folder.wal.records() if item.kind == SNAPSHOT]
    found.settled = max((mark.height for mark in marks), default=0)
    _look_at_index(folder, found)
    references: dict[int, str] = {}
    parent = ""
    for record in folder.wal.records():
        if record.kind != COMMIT:
            continue
        bundle = decode(BlockBundle, record.payload, limit=RECORD_LIMIT)
        if bundle.block.height != found.height + 1 or parent not in ("", bundle.block.prev_block_hash):
            found.problem(f"record {record.sequence} of the log does not follow block {found.height}")
        found.genesis_hash = found.genesis_hash or bundle.block.prev_block_hash
        entry = block_entry(bundle)
        needs_of_block(bundle, entry, inventory)
        found.height, parent = bundle.block.height, entry.block_hash
        if bundle.block.snapshot_ref is not None:
            references[found.height] = bundle.block.snapshot_ref
        if folder.index is not None:
            _compare(folder.index, entry, bundle, inventory=inventory, found=found)
    _snapshots(folder, references, inventory=inventory, found=found)
    if folder.pins_problem:
        found.problem(folder.pins_problem)
    for link in folder.pins.links() if folder.pins is not None else ():
        inventory.need(link.blob_hash, link.kind, link.height)
    if folder.index is not None:
        # Before the first block only the index knows it.
        found.genesis_hash = found.genesis_hash or folder.index.meta(GENESIS_KEY) or ""
    if found.genesis_hash and folder.blobs.has(found.genesis_hash):
        inventory.need(found.genesis_hash, "genesis", 0)
    return found


def _look_at_index(folder: DataFolder, found: Survey) -> None:
    """Notes an index that cannot be used; before the first snapshot the next start fills it, so it may be absent."""
    if folder.index is None:
        if found.settled or (folder.path / INDEX).exists():
            found.problem(folder.index_problem)
    elif found.settled and folder.index.meta(GENESIS_KEY) is None:
        found.problem("the index was never filled")


def block_entry(bundle: BlockBundle) -> BlockEntry:
    """Returns the row that the index has for a block."""
    block = bundle.block
    return BlockEntry(
        height=block.height,
        block_hash=content_id(encode(block)),
        batch_hash=content_id(encode(bundle.batch)),
        certificate_hash=content_id(encode(bundle.certificate)),
        term=block.term,
        time_ms=block.timestamp_ms,
    )


def needs_of_block(bundle: BlockBundle, entry: BlockEntry, inventory: Inventory) -> None:
    """Notes what a block needs besides its snapshot."""
    block = bundle.block
    inventory.need(entry.block_hash, "block", block.height)
    inventory.need(entry.batch_hash, "batch", block.height)
    inventory.need(entry.certificate_hash, "certificate", block.height)
    inventory.need(block.journal_ref, "journal", block.height)
    for segment in block.segments:
        inventory.need(segment.content_hash, "segment", block.height)
    inventory.need(block.receipts_root, "receipts", block.height)
    directory = directory_entry(bundle)
    if directory is not None:
        inventory.need(directory.hash, "directory", block.height)


def directory_entry(bundle: BlockBundle) -> DirectoryEntry | None:
    """Returns the row that the index has for the directory of a block, None for a block without one."""
    change = bundle.block.directory_change
    if change is None or bundle.batch.directory is None:
        return None
    return DirectoryEntry(change.epoch, content_id(encode(bundle.batch.directory)), change.effective_height)


def _compare(index: Index, entry: BlockEntry, bundle: BlockBundle, *, inventory: Inventory, found: Survey) -> None:
    """Notes what the index lacks of a block; after the newest snapshot it may lag behind the log."""
    height = entry.height
    row = index.block_at(height)
    if row is not None and row.certificate_hash != entry.certificate_hash:
        # Two certificates of one block may name other signers; the one stored first is served.
        inventory.need(row.certificate_hash, "certificate", height)
        entry = dataclasses.replace(entry, certificate_hash=row.certificate_hash)
    if row is not None and row != entry:
        found.problem(f"the index has another block at height {height}")
    if height > found.settled:
        return
    if row is None:
        found.problem(f"the index lacks the block of height {height}")
    for envelope in bundle.batch.actions:
        receipt = index.receipt(envelope.action_id)
        if receipt is None or receipt.height > height:
            found.problem(f"the index lacks the receipt of action {envelope.action_id} at height {height}")
    directory = directory_entry(bundle)
    if directory is not None and directory not in index.directories():
        found.problem(f"the index lacks directory epoch {directory.epoch} of height {height}")


def _snapshots(folder: DataFolder, references: dict[int, str], *, inventory: Inventory, found: Survey) -> None:
    """Notes what the retained snapshots need: the newest, those that the index lists, those not noted yet."""
    rows: list[int] = []
    if folder.index is not None:
        dropped = int(folder.index.meta(DROPPED_KEY) or 0)
        rows = [item.height for item in folder.index.snapshots() if item.height >= dropped]
    later = [height for height in references if height > found.settled]
    newest = [found.settled] if found.settled else []
    for height in sorted({*rows, *newest, *later}):
        reference = references.get(height)
        if reference is None:
            found.problem(f"the index lists a snapshot of height {height}, which has none")
            continue
        found.snapshots.append(height)
        inventory.need(reference, "manifest", height)
        try:
            manifest = load_manifest(reference, lambda name: peeked(folder, name))
        except AgentWorldError:
            found.unread.append(height)
            continue
        for chunk in manifest.chunks:
            inventory.need(chunk.content_hash, "chunk", height)


def peeked(folder: DataFolder, blob_hash: str) -> bytes:
    """Returns the bytes of a blob; raises BlobNotFound, or BlobCorrupt and leaves them where they are."""
    data = folder.blobs.peek(blob_hash)
    if data is None:
        raise BlobCorrupt(blob_hash, actual="something else")
    return data
