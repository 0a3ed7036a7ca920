"""Brings a ledger back after a stop: the newest whole snapshot, then the log's suffix executed again.

Blocks in the log were checked before they were written, and the log chains its records by hash, so signatures are not
checked again; that execution gives the same block is, since everything derived is written anew from it.
"""

from __future__ import annotations

import array
import logging
from collections.abc import Container, Iterator

from agentworld_core.codec import decode
from agentworld_core.consensus.events import DurableVotes, LockedValue
from agentworld_core.consensus.evidence import EvidenceSet
from agentworld_core.errors import AgentWorldError, StateMismatch
from agentworld_core.ledger.block import Execution, HeaderInput, execute
from agentworld_core.ledger.chain import ChainState
from agentworld_core.ledger.genesis import chain_from_genesis
from agentworld_core.ledger.restart import chain_from_snapshot
from agentworld_core.membership.revocation import RevocationSet
from agentworld_core.messages import BlockBundle, Directory, Equivocation, Genesis, ProposalBody, Revocation, Vote
from agentworld_core.world.modules.sandbox import Sandbox
from agentworld_node.ledger_stores import RECORD_LIMIT, ChainStores, other_world
from agentworld_node.ledger_votes import VoteLog
from agentworld_node.records import (
    COMMIT,
    EVIDENCE,
    PROPOSAL,
    REVOCATION,
    SNAPSHOT,
    VOTE,
    SnapshotMark,
    StoredVote,
    locked_value,
)

log = logging.getLogger(__name__)


class Recovery:
    """Reads the end of a log and brings chain, votes, revocations and evidence back from it.

    ``commits`` holds for each height, from 1 on, the place of its block in the log.
    """

    def __init__(self, genesis: Genesis, stores: ChainStores, *, sandbox: Sandbox | None = None):
        self._genesis = genesis
        self._sandbox = sandbox
        self._stores = stores
        self.commits = array.array("Q")
        self.revocations = RevocationSet()
        self.evidence = EvidenceSet()
        self._former: list[tuple[int, bytes]] = []
        self._read_log()

    def check_index(self) -> None:
        """Raises CorruptLog when the index has a block that the log lacks: its rows come after the sync of the log."""
        tip = self._stores.index.tip()
        if tip is not None and tip.height > len(self.commits):
            raise self._stores.wal.lost(f"it ends with block {len(self.commits)}, and the index has block {tip.height}")

    @property
    def marked(self) -> int:
        """The height of the newest snapshot that the log has a mark of, 0 without one."""
        return next((mark.height for mark in self._marks()), 0)

    def start_chain(self, *, heights: Container[int] | None = None) -> ChainState:
        """Returns the chain at the newest whole snapshot, of these heights if they are given, or at genesis."""
        first = chain_from_genesis(self._genesis, sandbox=self._sandbox)
        if self.commits:
            bundle = self._stores.committed(self.commits[0])
            if bundle.block.prev_block_hash != first.block_hash:
                raise other_world(self._stores.folder, bundle.block.prev_block_hash, first.block_hash)
        if not self._stores.empty_index:
            for mark in self._marks():
                if heights is not None and mark.height not in heights:
                    continue
                try:
                    return self._restore(mark)
                except AgentWorldError as error:
                    log.warning("the snapshot of height %d cannot be used: %s", mark.height, error)
        return first

    def replay(self, chain: ChainState) -> Iterator[tuple[BlockBundle, Execution]]:
        """Yields every committed block after the chain's head with its execution, in order.

        Raises StateMismatch when this software no longer gives a block that it has committed.
        """
        missing = self.commits[chain.height :]
        for record in self._stores.wal.records(after=missing[0] - 1) if missing else ():
            if record.kind != COMMIT:
                continue
            bundle = decode(BlockBundle, record.payload, limit=RECORD_LIMIT)
            try:
                execution = execute(chain, bundle.batch, HeaderInput.of(bundle.block))
                chain = execution.chain_after(bundle.block)
            except StateMismatch as error:
                raise StateMismatch(
                    f"executing the log again does not give block {bundle.block.height}: {error.message}",
                    field="data_folder",
                    value=self._stores.folder,
                    remedy="run the version that wrote this folder, or start with an empty folder and a rotated key",
                ) from error
            yield bundle, execution

    def votes_above(self, height: int, log_of_votes: VoteLog) -> DurableVotes:
        """Returns what this node had voted and proposed above the committed height; the rest is history.

        The log of votes holds it from now on. Raises CorruptLog when the height below one of these is not in the log.
        """
        votes: list[Vote] = []
        locks: list[LockedValue] = []
        proposals: list[ProposalBody] = []
        for kind, message in (*self._former, *log_of_votes.above(height)):
            if kind == PROPOSAL:
                proposals.append(decode(ProposalBody, message, limit=RECORD_LIMIT))
                continue
            stored = decode(StoredVote, message, limit=RECORD_LIMIT)
            votes.append(stored.vote)
            if stored.lock is not None:
                locks.append(locked_value(stored.lock))
        if log_of_votes.highest > height + 1:
            raise self._stores.wal.lost(f"it ends with block {height}, and there are votes on {log_of_votes.highest}")
        return DurableVotes(
            votes=tuple(vote for vote in votes if vote.height > height),
            proposals=tuple(body for body in proposals if body.proposal.height > height),
            locks=tuple(lock for lock in locks if lock.body.block.height > height),
        )

    def _read_log(self) -> None:
        """Notes where everything is; what is history by the end is never read."""
        wal = self._stores.wal
        self.commits = wal.sequences(COMMIT)
        # Older versions put votes here. A height is voted on only when the one below it is in the log.
        last = self.commits[-1] if self.commits else 0
        signed = (*wal.sequences(VOTE), *wal.sequences(PROPOSAL))
        records = (wal.record(sequence) for sequence in sorted(signed) if sequence > last)
        self._former = [(record.kind, record.payload) for record in records]
        for sequence in wal.sequences(REVOCATION):
            self.revocations.add(decode(Revocation, wal.record(sequence).payload, limit=RECORD_LIMIT))
        for sequence in wal.sequences(EVIDENCE):
            self.evidence.add(decode(Equivocation, wal.record(sequence).payload, limit=RECORD_LIMIT))

    def _marks(self) -> Iterator[SnapshotMark]:
        """Yields the marks of snapshots, the newest first."""
        for sequence in reversed(self._stores.wal.sequences(SNAPSHOT)):
            yield decode(SnapshotMark, self._stores.wal.record(sequence).payload)

    def _restore(self, mark: SnapshotMark) -> ChainState:
        entry = self._stores.index.block_at(mark.height)
        if entry is None or entry.block_hash != mark.block_hash:
            raise StateMismatch("the index does not reach it", field="height", value=mark.height)
        bundle = self._stores.committed(self.commits[mark.height - 1])
        documents = [self._genesis.directory, *self._directories()]
        return chain_from_snapshot(
            self._genesis, bundle, directories=documents, fetch=self._stores.blobs.get, sandbox=self._sandbox
        )

    def _directories(self) -> list[Directory]:
        """Returns the directories that blocks have carried, from the blobs that the index names."""
        hashes = [entry.hash for entry in self._stores.index.directories()]
        return [decode(Directory, self._stores.blobs.get(item), limit=RECORD_LIMIT) for item in hashes]
