"""What a validator repeats while a height is not decided, since gossip may lose anything.

Tendermint's progress rests on "what one honest validator has received, every honest one receives in the end". So it is
not enough to repeat one's own votes of the round: those who are behind also need what let this node leave the round
before, and the block that it would not vote against.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentworld_core.consensus.events import BroadcastProposal, BroadcastVote, Effect
from agentworld_core.messages import PRECOMMIT, PREVOTE, Round, Vote

if TYPE_CHECKING:
    from agentworld_core.consensus.voting import HeightVoting


def what_to_repeat(voting: HeightVoting, tick: int) -> list[Effect]:
    """Returns what to send again at the given tick (from 0): own messages first, those of others from the second on."""
    left = voting.book.last_exit(voting.round)
    rounds = [voting.round] if left is None else [left, voting.round]
    votes: list[Vote] = []
    for round_ in rounds:
        votes.extend(_votes_of(voting, round_, own_only=tick == 0))
    effects: list[Effect] = []
    proposal = voting.proposals.accepted(voting.round)
    if proposal is not None and (tick > 0 or proposal.proposal.proposer_id == voting.own_id):
        effects.append(BroadcastProposal(proposal))
    if voting.valid is not None:
        votes.extend(voting.valid.polka)
        if proposal is None or proposal.proposal.block_hash != voting.valid.block_hash:
            effects.append(BroadcastProposal(voting.valid.body))
    effects.extend(BroadcastVote(vote) for vote in _distinct(votes))
    return effects


def _votes_of(voting: HeightVoting, round_: Round, *, own_only: bool) -> list[Vote]:
    votes = [vote for phase in (PREVOTE, PRECOMMIT) for vote in voting.book.tally(round_, phase).all_votes()]
    return [vote for vote in votes if not own_only or vote.validator_id == voting.own_id]


def _distinct(votes: list[Vote]) -> list[Vote]:
    return list({(v.validator_id, v.term, v.attempt, v.phase, v.block_hash): v for v in votes}.values())
