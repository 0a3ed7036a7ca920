"""Brings a ledger back after a stop: the newest whole snapshot, then the log's suffix executed again.

Blocks in the log were checked before they were written, and the log chains its records by hash, so signatures are not
checked again; that execution gives the same block is, since everything derived is written anew from it.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator

from agentworld_core.codec import decode
from agentworld_core.consensus.events import DurableVotes, LockedValue
from agentworld_core.errors import AgentWorldError
from agentworld_core.ledger.block import Execution, HeaderInput, block_hash_of, execute
from agentworld_core.ledger.chain import ChainState, directories_from_state
from agentworld_core.ledger.genesis import chain_from_genesis
from agentworld_core.ledger.snapshot import load_manifest, restore
from agentworld_core.membership.revocation import RevocationSet
from agentworld_core.messages import BlockBundle, Directory, Genesis, ProposalBody, Revocation, Vote, WorldBlock
from agentworld_node.records import (
    COMMIT,
    PROPOSAL,
    REVOCATION,
    SNAPSHOT,
    VOTE,
    SnapshotMark,
    StoredVote,
    locked_value,
)
from agentworld_node.storage.blobs import FileBlobStore
from agentworld_node.storage.index import Index
from agentworld_node.storage.wal import WriteAheadLog

log = logging.getLogger(__name__)

RECORD_LIMIT = 16 * 1024 * 1024


@dataclasses.dataclass
class Voting:
    """What this node had voted and proposed at the height that was open when it stopped."""

    votes: list[Vote] = dataclasses.field(default_factory=list)
    proposals: list[ProposalBody] = dataclasses.field(default_factory=list)
    locks: list[LockedValue] = dataclasses.field(default_factory=list)

    def above(self, height: int) -> DurableVotes:
        """Returns what is above the committed height; the rest is history."""
        return DurableVotes(
            votes=tuple(vote for vote in self.votes if vote.height > height),
            proposals=tuple(body for body in self.proposals if body.proposal.height > height),
            locks=tuple(lock for lock in self.locks if lock.body.block.height > height),
        )


class Recovery:
    """Reads a log once and brings chain, votes and revocations back from it."""

    def __init__(self, genesis: Genesis, *, wal: WriteAheadLog, blobs: FileBlobStore, index: Index):
        self._genesis = genesis
        self._wal = wal
        self._blobs = blobs
        self._index = index
        self.revocations = RevocationSet()
        self._marks: list[SnapshotMark] = []
        self._commits: list[int] = []
        self._voting = Voting()
        self._read_log()

    def start_chain(self, *, from_genesis: bool) -> ChainState:
        """Returns the chain at the newest snapshot that is whole, or at genesis."""
        if not from_genesis:
            for mark in reversed(self._marks):
                try:
                    return self._restore(mark)
                except AgentWorldError as error:
                    log.warning("the snapshot of height %d cannot be used: %s", mark.height, error)
        return chain_from_genesis(self._genesis)

    def replay(self, chain: ChainState) -> Iterator[tuple[BlockBundle, Execution]]:
        """Yields every committed block after the chain's head with its execution, in order."""
        missing = self._commits[chain.height :]
        for record in self._wal.records(after=missing[0] - 1) if missing else ():
            if record.kind != COMMIT:
                continue
            bundle = decode(BlockBundle, record.payload, limit=RECORD_LIMIT)
            execution = execute(chain, bundle.batch, HeaderInput.of(bundle.block))
            # Raises StateMismatch when this software no longer gives the block that it committed.
            chain = execution.chain_after(bundle.block)
            yield bundle, execution

    def votes_above(self, height: int) -> DurableVotes:
        """Returns what this node had voted above a height."""
        return self._voting.above(height)

    def _read_log(self) -> None:
        for record in self._wal.records():
            match record.kind:
                case kind if kind == COMMIT:
                    self._commits.append(record.sequence)
                    self._voting = Voting()
                case kind if kind == VOTE:
                    stored = decode(StoredVote, record.payload, limit=RECORD_LIMIT)
                    self._voting.votes.append(stored.vote)
                    if stored.lock is not None:
                        self._voting.locks.append(locked_value(stored.lock))
                case kind if kind == PROPOSAL:
                    self._voting.proposals.append(decode(ProposalBody, record.payload, limit=RECORD_LIMIT))
                case kind if kind == REVOCATION:
                    self.revocations.add(decode(Revocation, record.payload, limit=RECORD_LIMIT))
                case kind if kind == SNAPSHOT:
                    self._marks.append(decode(SnapshotMark, record.payload))

    def _restore(self, mark: SnapshotMark) -> ChainState:
        block = decode(WorldBlock, self._blobs.get(mark.block_hash), limit=RECORD_LIMIT)
        manifest = load_manifest(block.snapshot_ref or "", self._blobs.get)
        tree = restore(manifest, self._blobs.get)
        first = chain_from_genesis(self._genesis)
        documents = [self._genesis.directory, *self._directories(block.height)]
        return dataclasses.replace(
            first,
            height=block.height,
            block_hash=block_hash_of(block),
            term=block.term,
            time_ms=block.timestamp_ms,
            tree=tree,
            snapshot_tree=tree,
            directories=directories_from_state(tree, documents),
        )

    def _directories(self, height: int) -> list[Directory]:
        """Returns the directories carried by blocks up to a height, from the blobs that the index names."""
        found = []
        for entry in self._index.directories():
            directory = decode(Directory, self._blobs.get(entry.hash), limit=RECORD_LIMIT)
            if entry.effective_height - directory.activation_delay <= height:
                found.append(directory)
        return found
