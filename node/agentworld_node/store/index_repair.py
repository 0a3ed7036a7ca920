"""Writes the rows of the index again: everything that it holds follows from the log and the blobs of receipts."""

from __future__ import annotations

import dataclasses
import logging

from agentworld_core.codec import decode
from agentworld_core.errors import AgentWorldError
from agentworld_core.ledger.snapshot import load_manifest
from agentworld_core.messages import BlockBundle, ReceiptList
from agentworld_node.ledger_stores import GENESIS_KEY, INDEX, RECORD_LIMIT
from agentworld_node.records import COMMIT, SNAPSHOT, SnapshotMark
from agentworld_node.storage.blob_store import DEFAULT_BLOB_BYTES
from agentworld_node.storage.errors import IndexConflict
from agentworld_node.storage.index import Index
from agentworld_node.storage.index_schema import ReceiptEntry, SnapshotEntry
from agentworld_node.store.folder import DataFolder
from agentworld_node.store.survey import Survey, block_entry, directory_entry, peeked

log = logging.getLogger(__name__)


def fill_index(folder: DataFolder, found: Survey) -> int:
    """Writes every row that the log calls for, into a new file when the old one is damaged; returns how many changed.

    Rows of receipts follow from blobs; while some of these are missing the index counts as not filled, so that a node
    that starts on it executes everything again.
    """
    path = folder.path / INDEX
    begun_anew = folder.index is None
    if folder.index is None:
        folder.index, _ = Index.open(path)
        folder.index_problem = ""
    try:
        return int(begun_anew) + _fill(folder, folder.index, found)
    except IndexConflict as error:
        log.warning("the index %s is set aside: %s", path, error)
        folder.index.close()
        folder.index = Index.begin_anew(path)
        return 1 + _fill(folder, folder.index, found)


def _fill(folder: DataFolder, index: Index, found: Survey) -> int:
    changed, complete = 0, True
    references: dict[int, str] = {}
    was_filled = index.meta(GENESIS_KEY) is not None
    for record in folder.wal.records():
        if record.kind == COMMIT:
            bundle = decode(BlockBundle, record.payload, limit=RECORD_LIMIT)
            receipts = _receipts(folder, bundle)
            complete = complete and receipts is not None
            changed += _put_rows(folder, index, bundle, receipts or [])
            if bundle.block.snapshot_ref is not None:
                references[bundle.block.height] = bundle.block.snapshot_ref
        elif record.kind == SNAPSHOT and not was_filled:
            mark = decode(SnapshotMark, record.payload)
            if _is_whole(folder, references.get(mark.height, "")):
                # Which of those in the log were retained is not known otherwise.
                index.put_snapshot(SnapshotEntry(mark.height, mark.state_root))
    if complete and found.genesis_hash and not was_filled:
        index.set_meta(GENESIS_KEY, found.genesis_hash)
        changed += 1
    index.checkpoint()
    return changed


def _receipts(folder: DataFolder, bundle: BlockBundle) -> list[ReceiptEntry] | None:
    """Returns the rows of a block's receipts, None when the blob is not there."""
    height = bundle.block.height
    try:
        data = peeked(folder, bundle.block.receipts_root)
        receipts = decode(ReceiptList, data, limit=DEFAULT_BLOB_BYTES).receipts
    except AgentWorldError:
        return None
    return [ReceiptEntry(item.action_id, height, item.position, item.ok, item.code or None) for item in receipts]


def _put_rows(folder: DataFolder, index: Index, bundle: BlockBundle, receipts: list[ReceiptEntry]) -> int:
    entry, changed = block_entry(bundle), 0
    row = index.block_at(entry.height)
    if row is not None and folder.blobs.has(row.certificate_hash):
        # Another certificate of the same block, which was stored first.
        entry = dataclasses.replace(entry, certificate_hash=row.certificate_hash)
    if row != entry:
        index.forget_block(entry.height)
        changed += 1
    changed += sum(_is_missing(index, receipt) for receipt in receipts)
    index.put_block(entry, receipts)
    directory = directory_entry(bundle)
    if directory is not None and directory not in index.directories():
        index.put_directory(directory)
        changed += 1
    return changed


def _is_missing(index: Index, receipt: ReceiptEntry) -> bool:
    row = index.receipt(receipt.action_id)
    return row is None or (row.height, row.position) > (receipt.height, receipt.position)


def _is_whole(folder: DataFolder, snapshot_ref: str) -> bool:
    """True when a snapshot's manifest can be read and all its chunks are there."""
    try:
        manifest = load_manifest(snapshot_ref, lambda name: peeked(folder, name))
    except AgentWorldError:
        return False
    return all(folder.blobs.has(chunk.content_hash) for chunk in manifest.chunks)
