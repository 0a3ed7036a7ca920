"""What the consensus engine is told and what it asks for; all of it is data.

The caller owns keys, disks, clocks and the network: it verifies what arrives, signs and stores what it is asked to,
and answers with the next event. Nothing is broadcast in the step that asks for its storage.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from agentworld_core.messages import (
    ActionBatch,
    CommitCertificate,
    Directory,
    Equivocation,
    ProposalBody,
    Round,
    Vote,
    WorldBlock,
)


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """How long a validator waits, in milliseconds: a base, what each further attempt adds, and where it ends.

    ``propose_ms`` should exceed the time to build, send and execute a block; ``vote_ms`` the time to send a vote.
    """

    propose_ms: int = 3000
    propose_step_ms: int = 1000
    vote_ms: int = 1000
    vote_step_ms: int = 500
    longest_ms: int = 30_000
    rebroadcast_ms: int = 1000
    rebroadcast_longest_ms: int = 8000

    def propose(self, attempt: int) -> int:
        """Returns how long to wait for a proposal in this attempt."""
        return min(self.propose_ms + attempt * self.propose_step_ms, self.longest_ms)

    def vote(self, attempt: int) -> int:
        """Returns how long to wait for agreement once a quorum has voted in this attempt."""
        return min(self.vote_ms + attempt * self.vote_step_ms, self.longest_ms)

    def rebroadcast(self, tick: int) -> int:
        """Returns how long to wait before own messages are sent again: doubling, up to the longest."""
        return int(min(self.rebroadcast_ms * 2 ** min(tick, 16), self.rebroadcast_longest_ms))


@dataclass(frozen=True, kw_only=True)
class ConsensusSettings:
    """Who this node is in its world, and its timing; ``validator_id`` is None for a node that only follows."""

    world_id: str
    validator_id: str | None
    leaseless: bool = False
    block_interval_ms: int = 0
    timeouts: Timeouts = field(default_factory=Timeouts)


@dataclass(frozen=True)
class LockedValue:
    """A block, the round in which a quorum prevoted it, and these prevotes: enough to prove and propose it again."""

    round: Round
    body: ProposalBody
    polka: tuple[Vote, ...]

    @property
    def block_hash(self) -> str:
        """The content id of the block."""
        return self.body.proposal.block_hash


@dataclass(frozen=True, kw_only=True)
class DurableVotes:
    """What this validator had stored when it stopped: its signed votes and proposals, and what it was locked on."""

    votes: tuple[Vote, ...] = ()
    proposals: tuple[ProposalBody, ...] = ()
    locks: tuple[LockedValue, ...] = ()


# Events


@dataclass(frozen=True)
class HeightStarted:
    """The parent is committed and durable here; ``directory`` is in force at ``height``.

    ``parent_round`` is the one that the parent block was made in, (0, 0) at the first height: lower terms are fenced
    off. ``certificate`` is the checked one of the parent, where the caller has it: its votes are compared with those
    that were heard.
    """

    height: int
    directory: Directory
    parent_round: Round
    certificate: CommitCertificate | None = None


@dataclass(frozen=True)
class LeaseObserved:
    """The writer's lease as this node sees it now; ``holder`` None means released or expired."""

    term: int
    holder: str | None


@dataclass(frozen=True)
class WorkPending:
    """Whether there is something to put into a block: actions in the mempool or a directory change under way."""

    pending: bool


@dataclass(frozen=True)
class ProposalReceived:
    """A verified proposal, from ``receive_proposal``; ``revoked``: under a key that this node knows to be revoked."""

    body: ProposalBody
    revoked: bool = False


@dataclass(frozen=True)
class VoteReceived:
    """A verified vote, from ``receive_vote``; ``revoked``: under a key that this node knows to be revoked."""

    vote: Vote
    revoked: bool = False


@dataclass(frozen=True)
class CandidateBuilt:
    """The answer to BuildCandidate: a signed block and its batch, or None where there is nothing to propose.

    ``block_hash`` is the content id of the block where the caller has it; the engine computes it where it is empty.
    """

    height: int
    round: Round
    candidate: tuple[WorldBlock, ActionBatch] | None
    block_hash: str = ""


@dataclass(frozen=True)
class CandidateJudged:
    """The answer to JudgeCandidate; the verdict depends on nothing but the block, its batch and its parent."""

    height: int
    block_hash: str
    valid: bool
    reason: str = ""


@dataclass(frozen=True)
class VoteDurable:
    """The answer to PersistVote: the vote, signed, is on disk."""

    vote: Vote


@dataclass(frozen=True)
class ProposalDurable:
    """The answer to PersistProposal: the proposal, signed, is on disk."""

    body: ProposalBody


@dataclass(frozen=True)
class TimerFired:
    """A timer set under this name has run out."""

    name: str


Event = (
    HeightStarted
    | LeaseObserved
    | WorkPending
    | ProposalReceived
    | VoteReceived
    | CandidateBuilt
    | CandidateJudged
    | VoteDurable
    | ProposalDurable
    | TimerFired
)


# Effects


@dataclass(frozen=True)
class BuildCandidate:
    """Make a block for this round on top of the parent, and answer with CandidateBuilt."""

    height: int
    round: Round


@dataclass(frozen=True)
class JudgeCandidate:
    """Execute the batch on the parent, compare all roots, and answer with CandidateJudged."""

    body: ProposalBody


@dataclass(frozen=True)
class PersistVote:
    """Sign the vote, store it together with the lock it stands on, sync, and answer with VoteDurable."""

    vote: Vote
    lock: LockedValue | None


@dataclass(frozen=True)
class PersistProposal:
    """Sign the proposal, store it, sync, and answer with ProposalDurable."""

    body: ProposalBody


@dataclass(frozen=True)
class BroadcastVote:
    """Send the vote to everybody; it may be somebody else's vote that is passed on."""

    vote: Vote


@dataclass(frozen=True)
class BroadcastProposal:
    """Send the proposal to everybody; it may be somebody else's proposal that is passed on."""

    body: ProposalBody


@dataclass(frozen=True)
class SetTimer:
    """Answer with TimerFired of this name after the delay."""

    name: str
    delay_ms: int


@dataclass(frozen=True)
class CancelTimer:
    """Forget the timer of this name."""

    name: str


@dataclass(frozen=True)
class Commit:
    """The height is decided: execute the block where that is still to do, store all three, then start the next height.

    The body need not have been judged by this process (after a restart, or on a node that does not vote).
    """

    height: int
    block_hash: str
    body: ProposalBody
    certificate: CommitCertificate


@dataclass(frozen=True)
class RecordEvidence:
    """Keep and publish the proof that a validator voted twice."""

    evidence: Equivocation


@dataclass(frozen=True)
class OwnVoteHeard:
    """Say that somebody repeats a vote under the own key that is not stored here: the disk lost it, or the key leaked.

    It binds from now on like a stored one.
    """

    vote: Vote


@dataclass(frozen=True)
class RequestSync:
    """Others have decided ``height``, which is not below the own one: fetch the committed blocks up to it."""

    height: int


Effect = (
    BuildCandidate
    | JudgeCandidate
    | PersistVote
    | PersistProposal
    | BroadcastVote
    | BroadcastProposal
    | SetTimer
    | CancelTimer
    | Commit
    | RecordEvidence
    | OwnVoteHeard
    | RequestSync
)
