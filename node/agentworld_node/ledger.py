"""The committed ledger of a node: what is in the log is there after any crash, everything else follows from it.

A block is committed here when its log record (block, batch, certificate) is durable. Blobs and index are written after
it and without waiting for the disk: after a crash the suffix since the last snapshot is executed again, which writes
both again and heals what was torn. A snapshot makes all of it durable, so restart time follows the suffix alone.

A full disk is waited out, unless ``waits_for_room`` is False. Any other failure of a store is final: ``failure`` names
it, ``broken`` returns, nothing more is committed, and only a restart, which begins from what is really on the disk,
helps.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import threading
from collections.abc import Callable
from pathlib import Path

from agentworld_core.codec import encode
from agentworld_core.consensus.events import DurableVotes, LockedValue
from agentworld_core.errors import AgentWorldError, Busy, StateMismatch
from agentworld_core.hashing import content_id
from agentworld_core.ledger.block import Execution
from agentworld_core.ledger.chain import ChainState
from agentworld_core.ledger.errors import ExecutionMismatch
from agentworld_core.ledger.genesis import genesis_hash
from agentworld_core.ledger.validate import Verified, replay_bundle
from agentworld_core.messages import BlockBundle, Equivocation, Genesis, ProposalBody, Revocation, Vote, WorldBlock
from agentworld_core.world.modules.loading import warm_up
from agentworld_core.world.modules.sandbox import Sandbox, SandboxFault
from agentworld_node.ledger_recovery import Recovery
from agentworld_node.ledger_retention import LedgerRetention
from agentworld_node.ledger_stores import LedgerStores
from agentworld_node.records import (
    COMMIT,
    EVIDENCE,
    PROPOSAL,
    REVOCATION,
    SNAPSHOT,
    VOTE,
    SnapshotMark,
    StoredVote,
    stored_lock,
)
from agentworld_node.shielding import begin
from agentworld_node.storage.errors import StorageFull
from agentworld_node.storage.files import LOCAL_FILES, FileSystem
from agentworld_node.storage.index_schema import BlockEntry, DirectoryEntry, ReceiptEntry, SnapshotEntry
from agentworld_node.storage.wal import WriteAheadLog

log = logging.getLogger(__name__)

ROOM_RETRY_SECONDS = 1.0
PINS_ATTEMPTS = 10


class Ledger(LedgerRetention):
    """Holds the chain of one world; what changes it is called on one event loop."""

    def __init__(self, *, genesis: Genesis, stores: LedgerStores, recovery: Recovery, chain: ChainState):
        super().__init__(genesis=genesis, stores=stores, chain=chain, commits=recovery.commits)
        self._marked = recovery.marked
        self.revocations = recovery.revocations
        self.evidence = recovery.evidence
        self.durable_votes = DurableVotes()
        self.full = False
        self.room_retry_seconds = ROOM_RETRY_SECONDS
        self.waits_for_room = True
        self.is_verified: Verified = lambda _envelope_id: False
        self._applying = asyncio.Lock()
        self._grown = asyncio.Event()
        self._broken = asyncio.Event()
        self._listeners: list[Callable[[BlockBundle], None]] = []
        self._snapshot: asyncio.Task[None] | None = None
        self._writing = threading.Lock()  # held while a thread writes blobs or index, so that closing waits for it
        self._loop: asyncio.AbstractEventLoop | None = None

    @classmethod
    def open(
        cls, folder: Path, genesis: Genesis, *, sandbox: Sandbox | None = None, files: FileSystem = LOCAL_FILES
    ) -> Ledger:
        """Opens the ledger of a data folder, executing again what came after the last snapshot.

        ``sandbox`` runs the modules of the world: SandboxFault is raised when there are some and it does not.
        Raises FolderLocked when another process has it, CorruptLog when durable records are damaged, InvalidField when
        the folder holds another world, StorageFull when there is no room for what must be written again.
        """
        stores = LedgerStores.open(folder, genesis_hash(genesis), files=files)
        try:
            recovery = Recovery(genesis, stores, sandbox=sandbox)
            recovery.check_index()
            ledger = cls(genesis=genesis, stores=stores, recovery=recovery, chain=recovery.start_chain())
            for bundle, execution in recovery.replay(ledger.chain):
                ledger._write_derived(bundle, execution)
                ledger.chain = execution.chain_after(bundle.block)
            if sandbox is not None:
                warm_up(ledger.chain.tree, sandbox)
            stores.note_filled(ledger.genesis_hash)
            if not stores.blobs.has(ledger.genesis_hash):
                # So that a data folder alone is enough to execute its blocks again.
                stores.blobs.put(encode(genesis), durable=True)
            ledger.durable_votes = recovery.votes_above(ledger.chain.height, stores.votes)
            return ledger
        except BaseException:
            stores.close()
            raise

    def limit_blobs(self, max_bytes: int) -> None:
        """Makes the ledger full when all blobs together reach this size; 0 means no limit.

        A full ledger still commits what a quorum has decided; it is for others to give it no new work.
        """
        self._stores.blobs.limit_total(max_bytes)
        self._found_room()

    async def settle(self) -> None:
        """Returns when no commit and no snapshot is being written."""
        async with self._applying:
            pass
        if self._snapshot is not None:
            await asyncio.wait([self._snapshot])

    def close(self) -> None:
        """Closes logs and index; what was acknowledged is durable already."""
        if self._snapshot is not None:
            self._snapshot.cancel()
        with self._writing:
            self._stores.close()

    def fail(self, error: AgentWorldError) -> None:
        """Notes that the ledger cannot go on, and wakes whoever waits for that; the first reason stays."""
        super().fail(error)
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._broken.set)

    async def broken(self) -> AgentWorldError:
        """Returns the reason once the ledger cannot go on."""
        self._loop = asyncio.get_running_loop()
        while self.failure is None:
            await self._broken.wait()
        return self.failure

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
        that its own consensus engine has decided. Raises typed errors and changes nothing when a check fails. When a
        certified block does not execute to what it says, this node and a quorum disagree, and the ledger fails.
        A commit that has begun is finished also when the caller is cancelled.
        """
        return await asyncio.shield(begin(self._apply(bundle, execution), name="commit"))

    async def store_vote(self, vote: Vote, lock: LockedValue | None) -> None:
        """Makes a signed vote durable, with the lock it stands on; only then may it be sent."""
        await self._append_signed(VOTE, encode(StoredVote(vote, stored_lock(lock))), height=vote.height)

    async def store_proposal(self, body: ProposalBody) -> None:
        """Makes a signed proposal durable; only then may it be sent."""
        await self._append_signed(PROPOSAL, encode(body), height=body.proposal.height)

    async def store_revocation(self, statement: Revocation) -> None:
        """Makes a revocation statement durable."""
        await self._append(REVOCATION, encode(statement))

    async def store_evidence(self, evidence: Equivocation) -> None:
        """Makes a proof that a validator voted twice durable."""
        await self._append(EVIDENCE, encode(evidence))

    async def _apply(self, bundle: BlockBundle, execution: Execution | None) -> bool:
        async with self._applying:
            self._check_usable()
            height = bundle.block.height
            if height <= self.chain.height:
                return False
            if height != self.chain.height + 1:
                raise StateMismatch("is not the next height", field="height", value=height)
            if execution is None or execution.chain.block_hash != self.chain.block_hash:
                execution = await self._replay(bundle)
            chain = execution.chain_after(bundle.block)
            sequence = await self._append(COMMIT, encode(bundle))
            await self._write(lambda: self._write_derived(bundle, execution))
            self._commits.append(sequence)
            self._remember_receipts(height, execution.receipts)
            self.chain = chain
            # Not of this height yet: what shows that its record was durable, should it be damaged, is the next one.
            if self._stores.votes.release(height - 1):
                # Before the next height is voted on, so that no vote waits for it between its writing and its sync.
                await self._write(self._stores.votes.prune)
            if bundle.block.snapshot_ref is not None:
                self._begin_snapshot(bundle.block)
        self._grown.set()
        self._grown.clear()
        for listener in self._listeners:
            listener(bundle)
        return True

    def _check_usable(self) -> None:
        if self.failure is not None:
            raise self.failure

    async def _replay(self, bundle: BlockBundle) -> Execution:
        try:
            return await asyncio.to_thread(replay_bundle, self.chain, bundle, verified=self.is_verified)
        except ExecutionMismatch as error:
            # The certificate has been checked before: the quorum says otherwise, so this node is wrong.
            self.fail(error)
            raise
        except SandboxFault as error:
            # Nothing is known about the block, and without its result this node cannot go on.
            self.fail(error)
            raise

    async def _append_signed(self, kind: int, message: bytes, *, height: int) -> None:
        votes = self._stores.votes
        votes.hold(height)
        await self._append(kind, votes.payload(height, message), wal=votes.wal)

    async def _append(self, kind: int, payload: bytes, *, wal: WriteAheadLog | None = None) -> int:
        """Writes a record and returns its place when it is durable; waits for room as long as that takes."""
        wal = wal or self._stores.wal
        sequence = 0
        while True:
            try:
                sequence = sequence or wal.append(kind, payload)
                await wal.sync()
            except (StorageFull, Busy) as error:
                await self._wait_for_room(error)
            except AgentWorldError as error:
                self.fail(error)
                raise
            else:
                self._found_room()
                return sequence

    async def _write(
        self, write: Callable[[], None], *, retried: tuple[type[AgentWorldError], ...] = (StorageFull, Busy)
    ) -> None:
        """Runs a function that writes blobs and index rows in a thread, again while there is no room."""

        def locked() -> None:
            with self._writing:
                write()

        while True:
            try:
                await asyncio.to_thread(locked)
            except retried as error:
                await self._wait_for_room(error)
            except Busy:
                raise
            except AgentWorldError as error:
                self.fail(error)
                raise
            else:
                self._found_room()
                return

    async def _wait_for_room(self, error: AgentWorldError) -> None:
        if not self.waits_for_room:
            raise error
        if not self.full:
            log.error("the data folder takes nothing more, waiting: %s", error)
        self.full = True
        await asyncio.sleep(self.room_retry_seconds)

    def _found_room(self) -> None:
        full = self._stores.blobs.is_full
        if full and not self.full:
            log.error("the blobs have reached spec.storage.maxBlobBytes: no new work is taken")
        if self.full and not full:
            log.info("the data folder takes data again")
        self.full = full

    def _write_derived(self, bundle: BlockBundle, execution: Execution) -> None:
        """Writes blobs and index rows of a block whose log record is durable; writing them again changes nothing."""
        block, batch, certificate = encode(bundle.block), encode(bundle.batch), encode(bundle.certificate)
        blobs, index = self._stores.blobs, self._stores.index
        blobs.put_owed([block, batch, certificate, *execution.blobs.values()])
        height = bundle.block.height
        entry = BlockEntry(
            height=height,
            block_hash=content_id(block),
            batch_hash=content_id(batch),
            certificate_hash=content_id(certificate),
            term=bundle.block.term,
            time_ms=bundle.block.timestamp_ms,
        )
        stored = index.block_at(height)
        if stored is not None:
            # Two certificates of one block may name other signers; the one stored first stays.
            entry = dataclasses.replace(entry, certificate_hash=stored.certificate_hash)
        rows = [
            ReceiptEntry(item.action_id, height, item.position, item.ok, item.code or None)
            for item in execution.receipts
        ]
        index.put_block(entry, rows)
        change = bundle.block.directory_change
        if change is not None and bundle.batch.directory is not None:
            (stored_as,) = blobs.put_owed([encode(bundle.batch.directory)], durable=True)
            index.put_directory(DirectoryEntry(change.epoch, stored_as, change.effective_height))

    def _begin_snapshot(self, block: WorldBlock) -> None:
        if self._snapshot is not None and not self._snapshot.done():
            log.warning("the snapshot of height %d is left out: the one before is still being written", block.height)
            return
        self._snapshot = asyncio.get_running_loop().create_task(self._write_snapshot(block), name="snapshot")

    async def _write_snapshot(self, block: WorldBlock) -> None:
        """Makes everything up to this block durable and notes it, so that a restart begins here."""
        try:
            # Before the turn to write, for which the next block waits.
            hashes = await asyncio.to_thread(self._owed_by_snapshot, block.height)
            await self._write(lambda: self._make_durable(block, hashes))
            mark = SnapshotMark(block.height, content_id(encode(block)), block.state_root)
            await self._append(SNAPSHOT, encode(mark))
            self._marked = max(self._marked, block.height)
            await asyncio.to_thread(self._stores.wal.keep_note)
            await self._retire_snapshots()
        except AgentWorldError as error:
            # The ledger has failed, and whoever waits for that hears of it.
            log.error("the snapshot of height %d failed: %s", block.height, error)  # noqa: TRY400

    def _owed_by_snapshot(self, height: int) -> list[str]:
        """Returns the content ids of what a snapshot makes durable: that of its state, and all since the one before."""
        previous = max((item.height for item in self._stores.index.snapshots()), default=0)
        hashes = [item for past in range(previous + 1, height + 1) for item in self._blobs_of(past)]
        return [*hashes, *self._snapshot_blobs(height)]

    def _make_durable(self, block: WorldBlock, hashes: list[str]) -> None:
        self._stores.blobs.sync(hashes)
        self._stores.index.put_snapshot(SnapshotEntry(block.height, block.state_root))
        self._stores.index.checkpoint()

    async def _retire_snapshots(self) -> None:
        """Removes what only old snapshots need as soon as nobody holds the pins; no commit waits for that."""
        try:
            if not self._old_snapshots()[0]:
                return
            pins = await asyncio.to_thread(self._open_pins)
        except AgentWorldError as error:
            self.fail(error)
            raise
        if pins is None:
            return
        with pins:
            for _ in range(PINS_ATTEMPTS):
                try:
                    async with self._applying:  # a block that is being committed may share what would be removed
                        await self._write(lambda: self._drop_snapshots(pins), retried=(StorageFull,))
                except Busy:
                    await asyncio.sleep(pins.patience_seconds / PINS_ATTEMPTS)
                else:
                    await self._compact()
                    return
        log.warning("old snapshots stay until the next one is made: somebody holds the pins")

    async def _compact(self) -> None:
        """Gives the disk the room of removed blobs back; commits go on meanwhile, and closing the blobs ends it."""
        try:
            await asyncio.to_thread(self._stores.blobs.compact)
        except AgentWorldError as error:
            self.fail(error)
            raise

    def _blobs_of(self, height: int) -> list[str]:
        """Returns the content ids of everything that belongs to a committed block."""
        entry, block = self._entry(height), self.block(height)
        if entry is None or block is None:
            raise StateMismatch("the index lacks a committed height", field="height", value=height)
        segments = [segment.content_hash for segment in block.segments]
        hashes = [entry.block_hash, entry.batch_hash, entry.certificate_hash]
        return [*hashes, block.journal_ref, *segments, block.receipts_root]
