"""What a node writes into its log beside messages of the wire: votes with the lock they stand on, snapshot marks."""

from __future__ import annotations

from typing import Annotated

from agentworld_core.codec import U64, Hash, items_up_to, message
from agentworld_core.consensus.events import LockedValue
from agentworld_core.messages import MAX_MEMBERS, ProposalBody, Round, Vote

VOTE, COMMIT, PROPOSAL, REVOCATION, SNAPSHOT, VOTE_LOG, EVIDENCE = 1, 2, 3, 4, 5, 6, 70
"""Kinds of log records: StoredVote, BlockBundle, ProposalBody, Revocation, SnapshotMark, empty, Equivocation.

VOTE and PROPOSAL are in the log of votes, the others in that of blocks, where VOTE_LOG says that there is one of votes.
"""


@message(60, "stored_lock")
class StoredLock:
    """A block that a quorum prevoted in a round, with these prevotes."""

    term: U64
    attempt: U64
    body: ProposalBody
    polka: Annotated[tuple[Vote, ...], items_up_to(MAX_MEMBERS)]


@message(61, "stored_vote")
class StoredVote:
    """A signed vote of this node, with the lock it stands on."""

    vote: Vote
    lock: StoredLock | None


@message(62, "snapshot_mark")
class SnapshotMark:
    """Says that every node of the state tree of this height is durable in the blob store."""

    height: U64
    block_hash: Hash
    state_root: Hash


def stored_lock(lock: LockedValue | None) -> StoredLock | None:
    """Returns the form of a lock that is stored."""
    return None if lock is None else StoredLock(lock.round.term, lock.round.attempt, lock.body, lock.polka)


def locked_value(stored: StoredLock) -> LockedValue:
    """Returns the lock that was stored."""
    return LockedValue(Round(stored.term, stored.attempt), stored.body, stored.polka)
