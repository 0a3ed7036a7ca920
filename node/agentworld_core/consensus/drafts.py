"""Votes and proposals before they are signed: who signs, and with which key, is the caller's business."""

from __future__ import annotations

from agentworld_core.messages import ActionBatch, Directory, Proposal, ProposalBody, Round, Vote, WorldBlock


def draft_vote(
    directory: Directory, *, validator_id: str, height: int, round_: Round, phase: int, block_hash: str | None
) -> Vote:
    """Returns the unsigned vote."""
    return Vote(
        world_id=directory.world_id,
        height=height,
        term=round_.term,
        attempt=round_.attempt,
        phase=phase,
        block_hash=block_hash,
        directory_epoch=directory.epoch,
        validator_id=validator_id,
        key_id="",
        signature=b"",
    )


def draft_proposal(
    directory: Directory,
    candidate: tuple[WorldBlock, ActionBatch],
    *,
    block_hash: str,
    round_: Round,
    since: Round | None,
    proposer_id: str,
) -> ProposalBody:
    """Returns the body of an unsigned proposal; ``since`` is the earlier round in which a quorum prevoted the block."""
    block, batch = candidate
    proposal = Proposal(
        world_id=directory.world_id,
        height=block.height,
        term=round_.term,
        attempt=round_.attempt,
        valid_term=since.term if since is not None else None,
        valid_attempt=since.attempt if since is not None else None,
        block_hash=block_hash,
        directory_epoch=directory.epoch,
        proposer_id=proposer_id,
        key_id="",
        signature=b"",
    )
    return ProposalBody(proposal=proposal, block=block, batch=batch)
