"""The committed ledger of a node: what is in the log is there after any crash, everything else follows from it.

A block is committed here when its log record (block, batch, certificate) is durable. Blobs and index are written after
it and without waiting for the disk: after a crash the suffix since the last snapshot is executed again, which writes
both again and heals what was torn. A snapshot makes all of it durable, so restart time follows the suffix alone.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agentworld_core.codec import decode, decode_value, encode
from agentworld_core.consensus.events import DurableVotes, LockedValue
from agentworld_core.errors import HashMismatch, InvalidField, StateMismatch
from agentworld_core.hashing import content_id
from agentworld_core.ledger.block import Execution
from agentworld_core.ledger.chain import ChainState
from agentworld_core.ledger.genesis import genesis_hash
from agentworld_core.ledger.segments import read_events
from agentworld_core.ledger.snapshot import load_manifest
from agentworld_core.ledger.validate import replay_bundle
from agentworld_core.membership.revocation import RevocationSet
from agentworld_core.messages import (
    ActionBatch,
    BlockBundle,
    CommitCertificate,
    Directory,
    Genesis,
    ProposalBody,
    Receipt,
    ReceiptList,
    Revocation,
    Vote,
    WorldBlock,
)
from agentworld_node.api.documents import document
from agentworld_node.ledger_recovery import Recovery
from agentworld_node.records import COMMIT, PROPOSAL, REVOCATION, SNAPSHOT, VOTE, SnapshotMark, StoredVote, stored_lock
from agentworld_node.storage.blobs import FileBlobStore
from agentworld_node.storage.errors import StorageFull
from agentworld_node.storage.index import Index
from agentworld_node.storage.index_schema import BlockEntry, DirectoryEntry, ReceiptEntry, SnapshotEntry
from agentworld_node.storage.wal import WriteAheadLog

log = logging.getLogger(__name__)

RECEIPT_BLOCKS_KEPT = 64
ROOM_RETRY_SECONDS = 1.0
BLOB_LIMIT = 64 * 1024 * 1024
"""Largest stored message that is read back; writers keep far below it."""


class Ledger:
    """Holds the chain of one world; all methods are called on one event loop."""

    def __init__(self, *, genesis: Genesis, wal: WriteAheadLog, blobs: FileBlobStore, index: Index, chain: ChainState):
        self.genesis = genesis
        self.genesis_hash = genesis_hash(genesis)
        self.chain = chain
        self.durable_votes = DurableVotes()
        self.revocations = RevocationSet()
        self.full = False
        self._wal = wal
        self._blobs = blobs
        self._index = index
        self._applying = asyncio.Lock()
        self._grown = asyncio.Event()
        self._listeners: list[Callable[[BlockBundle], None]] = []
        self._receipts: OrderedDict[int, tuple[Receipt, ...]] = OrderedDict()

    @classmethod
    def open(cls, folder: Path, genesis: Genesis) -> Ledger:
        """Opens the ledger of a data folder, executing again what came after the last snapshot.

        Raises FolderLocked when another process has it, CorruptLog when durable records are damaged, InvalidField when
        the folder holds another world.
        """
        wal = WriteAheadLog.open(folder / "log")
        try:
            blobs = FileBlobStore.open(folder / "blobs")
            index, rebuilt = Index.open(folder / "index.sqlite")
            expected = genesis_hash(genesis)
            found = index.meta("genesis_hash")
            if found is not None and found != expected:
                raise InvalidField(
                    "holds a world with another genesis",
                    field=str(folder),
                    value=found,
                    remedy=f"use another data folder for genesis {expected}",
                )
            index.set_meta("genesis_hash", expected)
            recovery = Recovery(genesis, wal=wal, blobs=blobs, index=index)
            chain = recovery.start_chain(from_genesis=rebuilt)
            ledger = cls(genesis=genesis, wal=wal, blobs=blobs, index=index, chain=chain)
            for bundle, execution in recovery.replay(chain):
                ledger._write_derived(bundle, execution)
                ledger.chain = execution.chain_after(bundle.block)
            ledger.durable_votes = recovery.votes_above(ledger.chain.height)
            ledger.revocations = recovery.revocations
            return ledger
        except BaseException:
            wal.close()
            raise

    def close(self) -> None:
        """Closes log and index; what was acknowledged is durable already."""
        self._index.close()
        self._wal.close()

    @property
    def height(self) -> int:
        """The height of the newest committed block, 0 before the first."""
        return self.chain.height

    def directory_at(self, height: int) -> Directory:
        """Returns the directory that governs a height, of those that are settled."""
        return self.chain.directory_at(height)

    def on_commit(self, listener: Callable[[BlockBundle], None]) -> None:
        """Calls the listener after every commit, in order of height."""
        self._listeners.append(listener)

    async def wait_height(self, height: int, *, seconds: float) -> bool:
        """Waits until a height is committed; False when the time is over first."""
        try:
            async with asyncio.timeout(seconds):
                while self.chain.height < height:
                    await self._grown.wait()
        except TimeoutError:
            return False
        return True

    async def apply(self, bundle: BlockBundle, *, execution: Execution | None = None) -> bool:
        """Commits the next block; False when this node has the height already.

        Everything about the block and its certificate is checked, unless the caller hands in the execution of a block
        that its own consensus engine has decided. Raises typed errors and changes nothing when a check fails.
        """
        async with self._applying:
            height = bundle.block.height
            if height <= self.chain.height:
                return False
            if height != self.chain.height + 1:
                raise StateMismatch("is not the next height", field="height", value=height)
            if execution is None or execution.chain.block_hash != self.chain.block_hash:
                execution = await asyncio.to_thread(replay_bundle, self.chain, bundle)
            self._wal.append(COMMIT, encode(bundle))
            await self._sync()
            await self._until_room(lambda: self._write_derived(bundle, execution))
            self.chain = execution.chain_after(bundle.block)
            self._remember_receipts(height, execution.receipts)
        if bundle.block.snapshot_ref is not None:
            await self._until_room(lambda: self._write_snapshot(bundle.block))
        self._grown.set()
        self._grown.clear()
        for listener in self._listeners:
            listener(bundle)
        return True

    async def store_vote(self, vote: Vote, lock: LockedValue | None) -> None:
        """Makes a signed vote durable, with the lock it stands on; only then may it be sent."""
        self._wal.append(VOTE, encode(StoredVote(vote, stored_lock(lock))))
        await self._sync()

    async def store_proposal(self, body: ProposalBody) -> None:
        """Makes a signed proposal durable; only then may it be sent."""
        self._wal.append(PROPOSAL, encode(body))
        await self._sync()

    async def store_revocation(self, statement: Revocation) -> None:
        """Makes a revocation statement durable."""
        self._wal.append(REVOCATION, encode(statement))
        await self._sync()

    def bundle(self, height: int) -> BlockBundle | None:
        """Returns the block of a height with its batch and certificate, None when this node has not committed it."""
        entry = self._index.block_at(height) if 0 < height <= self.chain.height else None
        if entry is None:
            return None
        return BlockBundle(
            decode(WorldBlock, self._blobs.get(entry.block_hash), limit=BLOB_LIMIT),
            decode(ActionBatch, self._blobs.get(entry.batch_hash), limit=BLOB_LIMIT),
            decode(CommitCertificate, self._blobs.get(entry.certificate_hash), limit=BLOB_LIMIT),
        )

    def bundles(self, start: int, *, limit: int, max_bytes: int) -> list[BlockBundle]:
        """Returns consecutive blocks from a height on: at most ``limit``, about ``max_bytes``, but at least one."""
        found: list[BlockBundle] = []
        size = 0
        for height in range(start, start + limit):
            bundle = self.bundle(height)
            if bundle is None:
                break
            size += len(encode(bundle))
            if found and size > max_bytes:
                break
            found.append(bundle)
        return found

    def height_of(self, block_hash: str) -> int | None:
        """Returns the height of a committed block, None when there is no such block."""
        entry = self._index.block_by_hash(block_hash)
        return None if entry is None or entry.height > self.chain.height else entry.height

    def certificate(self, height: int) -> CommitCertificate | None:
        """Returns the certificate of a committed height."""
        entry = self._index.block_at(height) if 0 < height <= self.chain.height else None
        if entry is None:
            return None
        return decode(CommitCertificate, self._blobs.get(entry.certificate_hash), limit=BLOB_LIMIT)

    def directory(self, epoch: int | None) -> Directory | None:
        """Returns a directory epoch that the ledger holds, the latest for None."""
        if epoch is None:
            return self.chain.directories[-1].directory
        return next((item.directory for item in self.chain.directories if item.directory.epoch == epoch), None)

    def receipt(self, action_id: str) -> Receipt | None:
        """Returns the receipt of a committed action."""
        entry = self._index.receipt(action_id)
        if entry is None or entry.height > self.chain.height:
            return None
        receipts = self._receipts.get(entry.height)
        if receipts is None:
            bundle = self.bundle(entry.height)
            if bundle is None:
                return None
            data = self._blobs.get(bundle.block.receipts_root)
            receipts = decode(ReceiptList, data, limit=BLOB_LIMIT).receipts
            self._remember_receipts(entry.height, receipts)
        return receipts[entry.position]

    def read_state(self, key: str, *, proof: bool) -> dict[str, Any]:
        """Returns what the head's state holds under a key, as JSON, with the proof on request."""
        chain = self.chain
        data = chain.tree.get(key.encode())
        answer: dict[str, Any] = {
            "key": key,
            "found": data is not None,
            "height": chain.height,
            "block_hash": chain.block_hash,
            "state_root": chain.state_root,
        }
        if data is not None:
            answer["value"] = document(decode_value(data))
            answer["value_cbor"] = data.hex()
        if proof:
            answer["proof"] = encode(chain.tree.prove(key.encode())).hex()
        return answer

    def blob(self, content_hash: str) -> bytes:
        """Returns the bytes of a content id; raises BlobNotFound or BlobCorrupt."""
        return self._blobs.get(content_hash)

    def block_events(self, height: int) -> dict[str, Any]:
        """Returns a committed block with its events, as JSON for followers."""
        bundle = self.bundle(height)
        if bundle is None:
            raise InvalidField("is not committed here", field="height", value=height)
        block = bundle.block
        return {
            "height": height,
            "block_hash": content_id(encode(block)),
            "state_root": block.state_root,
            "proposer_id": block.proposer_id,
            "term": block.term,
            "tick": block.tick,
            "timestamp_ms": block.timestamp_ms,
            "actions": len(bundle.batch.actions),
            "events": [document(event) for event in read_events(block.segments, self._blobs.get)],
        }

    async def _sync(self) -> None:
        """Makes all appended records durable; on a full disk it waits for room, so that nothing is lost."""
        while True:
            try:
                await self._wal.sync()
            except StorageFull as error:
                await self._wait_for_room(error)
            else:
                self.full = False
                return

    async def _until_room(self, write: Callable[[], None]) -> None:
        while True:
            try:
                await asyncio.to_thread(write)
            except StorageFull as error:
                await self._wait_for_room(error)
            else:
                return

    async def _wait_for_room(self, error: StorageFull) -> None:
        if not self.full:
            log.error("the data folder is full, waiting for room: %s", error)
        self.full = True
        await asyncio.sleep(ROOM_RETRY_SECONDS)

    def _write_derived(self, bundle: BlockBundle, execution: Execution) -> None:
        """Writes blobs and index rows of a block whose log record is durable; writing them again changes nothing."""
        block, batch, certificate = encode(bundle.block), encode(bundle.batch), encode(bundle.certificate)
        self._blobs.put_many([block, batch, certificate, *execution.blobs.values()])
        height = bundle.block.height
        entry = BlockEntry(
            height=height,
            block_hash=content_id(block),
            batch_hash=content_id(batch),
            certificate_hash=content_id(certificate),
            term=bundle.block.term,
            time_ms=bundle.block.timestamp_ms,
        )
        stored = self._index.block_at(height)
        if stored is not None:
            # Two certificates of one block may name other signers; the one stored first stays.
            entry = dataclasses.replace(entry, certificate_hash=stored.certificate_hash)
        rows = [
            ReceiptEntry(item.action_id, height, item.position, item.ok, item.code or None)
            for item in execution.receipts
        ]
        self._index.put_block(entry, rows)
        change = bundle.block.directory_change
        if change is not None and bundle.batch.directory is not None:
            stored_as = self._blobs.put(encode(bundle.batch.directory), durable=True)
            self._index.put_directory(DirectoryEntry(change.epoch, stored_as, change.effective_height))

    def _write_snapshot(self, block: WorldBlock) -> None:
        """Makes everything up to this block durable and notes it, so that a restart begins here."""
        previous = max((item.height for item in self._index.snapshots()), default=0)
        hashes: list[str] = []
        for height in range(previous + 1, block.height + 1):
            entry = self._index.block_at(height)
            if entry is None:
                raise HashMismatch("the index lacks a committed height", field="height", value=height)
            hashes += [entry.block_hash, entry.batch_hash, entry.certificate_hash]
        self._blobs.sync([*hashes, *self._snapshot_blobs(block)])
        self._index.put_snapshot(SnapshotEntry(block.height, block.state_root))
        self._index.checkpoint()
        self._wal.append(SNAPSHOT, encode(SnapshotMark(block.height, content_id(encode(block)), block.state_root)))
        self._wal.sync_now()

    def _snapshot_blobs(self, block: WorldBlock) -> list[str]:
        if block.snapshot_ref is None:
            return []
        manifest = load_manifest(block.snapshot_ref, self._blobs.get)
        return [block.snapshot_ref, *(chunk.content_hash for chunk in manifest.chunks)]

    def _remember_receipts(self, height: int, receipts: tuple[Receipt, ...]) -> None:
        self._receipts[height] = receipts
        while len(self._receipts) > RECEIPT_BLOCKS_KEPT:
            self._receipts.popitem(last=False)
