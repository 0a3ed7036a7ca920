"""Proof that a validator signed two different votes where it may sign one; anyone can check it offline."""

from __future__ import annotations

from agentworld_core.consensus.verify import verify_vote
from agentworld_core.errors import StateMismatch
from agentworld_core.messages import Directory, Equivocation, Vote


def contradicts(first: Vote, second: Vote) -> bool:
    """True when both votes are of one validator for one height, round and phase, and name different blocks."""
    place = (first.world_id, first.validator_id, first.height, first.term, first.attempt, first.phase)
    other = (second.world_id, second.validator_id, second.height, second.term, second.attempt, second.phase)
    return place == other and first.block_hash != second.block_hash


def evidence_of(first: Vote, second: Vote) -> Equivocation:
    """Returns the evidence made of two contradicting votes, the same whichever was seen first."""
    if (first.block_hash or "") > (second.block_hash or ""):
        first, second = second, first
    return Equivocation(first=first, second=second)


def check_equivocation(evidence: Equivocation, directory: Directory) -> None:
    """Raises a typed error unless both votes verify under the directory of their height and contradict each other."""
    for vote in (evidence.first, evidence.second):
        verify_vote(directory, (), vote)
    if not contradicts(evidence.first, evidence.second):
        raise StateMismatch("do not contradict each other", field="second", value=evidence.second.block_hash)
    if evidence != evidence_of(evidence.first, evidence.second):
        raise StateMismatch("are not in the order of their block hashes", field="second")
