"""The checks of a vote or a proposal that need no state: everything the engine relies on when it is handed one.

``directory`` is the one in force at the message's height; ``revoked_key_ids`` are the revocations this node knows,
which count at once for live messages (certificates are judged by the directory alone).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from agentworld_core.codec import encode
from agentworld_core.consensus.events import ProposalReceived, VoteReceived
from agentworld_core.errors import HashMismatch, InvalidField, KeyRevoked, StateMismatch, WrongWorld
from agentworld_core.hashing import content_id
from agentworld_core.membership.directory import key_in_directory
from agentworld_core.messages import PRECOMMIT, PREVOTE, Directory, Proposal, ProposalBody, Round, Vote, WorldBlock
from agentworld_core.signing import verify


class _Live(Protocol):
    @property
    def world_id(self) -> str: ...
    @property
    def directory_epoch(self) -> int: ...
    @property
    def key_id(self) -> str: ...


def receive_vote(directory: Directory, revoked_key_ids: Collection[str], vote: Vote) -> VoteReceived:
    """Returns the event for a vote that has arrived; raises as ``verify_vote`` does, but marks a revoked key only.

    A vote under a revoked key decides nothing. But before they knew of the revocation, others may have locked on a
    quorum with it, or left a round because of it; a lock can be given up as little as a promise. Were what moved them
    refused here, those who know and those who moved could wait for each other for ever. So the engine gets the vote,
    marked, and lets it prove past rounds and move the round, never decide.
    """
    verify_vote(directory, (), vote)
    return VoteReceived(vote, vote.key_id in revoked_key_ids)


def receive_proposal(directory: Directory, revoked_key_ids: Collection[str], body: ProposalBody) -> ProposalReceived:
    """Returns the event for a proposal that has arrived; raises as ``verify_proposal`` does, but marks a revoked key.

    One under a revoked key is never voted on; its block is kept when others have voted for it.
    """
    verify_proposal(directory, (), body)
    return ProposalReceived(body, body.proposal.key_id in revoked_key_ids)


def verify_vote(directory: Directory, revoked_key_ids: Collection[str], vote: Vote) -> None:
    """Raises a typed error unless the vote is a member's, of this epoch, under a key that counts, and verifies."""
    _check_place(directory, revoked_key_ids, vote)
    if vote.phase not in (PREVOTE, PRECOMMIT):
        raise InvalidField("must be 1 (prevote) or 2 (precommit)", field="phase", value=vote.phase)
    verify(vote, key_in_directory(directory, vote.validator_id, vote.key_id).public_key)


def verify_proposal_alone(directory: Directory, revoked_key_ids: Collection[str], proposal: Proposal) -> None:
    """Raises a typed error unless a member of this epoch signed the proposal, whatever block it names."""
    _check_place(directory, revoked_key_ids, proposal)
    verify(proposal, key_in_directory(directory, proposal.proposer_id, proposal.key_id).public_key)


def verify_proposal(directory: Directory, revoked_key_ids: Collection[str], body: ProposalBody) -> None:
    """Raises a typed error unless a member signed the proposal and the body is the block and round that it names.

    Whether the block is right is for JudgeCandidate, whether it was the proposer's turn is for the engine.
    """
    verify_offer(directory, revoked_key_ids, body.proposal, body.block)
    if (body.batch.world_id, body.batch.height) != (body.proposal.world_id, body.proposal.height):
        raise StateMismatch("is not of the proposal's world and height", field="batch.height", value=body.batch.height)
    # The proposal signs the block alone: a batch exchanged on the way would make a right block look wrong.
    action_root = body.block.action_root
    if content_id(encode(body.batch)) != action_root:
        raise HashMismatch("is not the content id of the batch", field="block.action_root", value=action_root)


def verify_offer(directory: Directory, revoked_key_ids: Collection[str], proposal: Proposal, block: WorldBlock) -> None:
    """Raises a typed error unless a member signed the proposal and the block is the one, and of the round, it names."""
    _check_place(directory, revoked_key_ids, proposal)
    made_in, last = Round(block.term, block.attempt), proposal_round(proposal)
    valid = valid_round(proposal)
    if valid is None and made_in != last:
        raise StateMismatch("a first proposal carries a block of its own round", field="block.attempt", value=made_in)
    if valid is not None and not made_in <= valid < last:
        raise StateMismatch("must be before the proposal and not before the block", field="valid_attempt", value=valid)
    if (block.world_id, block.height) != (proposal.world_id, proposal.height):
        raise StateMismatch("is not of the proposal's world and height", field="block.height", value=block.height)
    if block.directory_epoch != proposal.directory_epoch:
        raise StateMismatch("is not the proposal's epoch", field="block.directory_epoch", value=block.directory_epoch)
    if valid is None and block.proposer_id != proposal.proposer_id:
        raise StateMismatch("is not the proposer", field="block.proposer_id", value=block.proposer_id)
    verify(proposal, key_in_directory(directory, proposal.proposer_id, proposal.key_id).public_key)
    if content_id(encode(block)) != proposal.block_hash:
        raise HashMismatch("is not the content id of the block", field="block_hash", value=proposal.block_hash)
    verify(block, key_in_directory(directory, block.proposer_id, block.key_id).public_key)


def proposal_round(proposal: Proposal) -> Round:
    """Returns the round that the proposal is for."""
    return Round(proposal.term, proposal.attempt)


def valid_round(proposal: Proposal) -> Round | None:
    """Returns the earlier round with a quorum of prevotes that the proposal points to, if any; half is InvalidField."""
    if proposal.valid_term is None and proposal.valid_attempt is None:
        return None
    if proposal.valid_term is None or proposal.valid_attempt is None:
        raise InvalidField("must come with valid_term", field="valid_attempt", value=proposal.valid_attempt)
    return Round(proposal.valid_term, proposal.valid_attempt)


def _check_place(directory: Directory, revoked_key_ids: Collection[str], message: _Live) -> None:
    if message.world_id != directory.world_id:
        raise WrongWorld("is another world", field="world_id", value=message.world_id)
    if message.directory_epoch != directory.epoch:
        says = f"epoch {directory.epoch} is in force"
        raise StateMismatch(says, field="directory_epoch", value=message.directory_epoch)
    if message.key_id in revoked_key_ids:
        raise KeyRevoked("is revoked", field="key_id", value=message.key_id)
