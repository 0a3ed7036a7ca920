"""A picture of one height for who watches it: the round, its step, who has voted what, and what this node stands on.

It is data, copied out of the engine; nothing that is done with it can touch what the engine decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentworld_core.membership.directory import total_weight
from agentworld_core.messages import PRECOMMIT, PREVOTE, Round, Vote

if TYPE_CHECKING:
    from agentworld_core.consensus.events import LockedValue
    from agentworld_core.consensus.voting import HeightVoting


@dataclass(frozen=True, kw_only=True)
class Ballot:
    """What this node has seen of one validator in its round; ``heard`` is any vote at all at this height."""

    validator_id: str
    weight: int
    prevote: Vote | None = None
    precommit: Vote | None = None
    heard: bool = False

    def vote(self, phase: int) -> Vote | None:
        """Returns the first vote seen of a phase."""
        return self.prevote if phase == PREVOTE else self.precommit


@dataclass(frozen=True, kw_only=True)
class HeightView:
    """One height as one node sees it; block hashes are content ids, weights are of the directory in force.

    ``in_turn``: the members propose in turn in this round, since the world has no lease or its holder decided nothing.
    ``step`` is propose, prevote or precommit, empty at a node that does not vote. ``proposer`` is whose proposals
    count in the round, ``may_propose`` whose turn it is now; they differ once a lease is released or has expired.
    ``found_right`` is this node's own verdict on the proposal, None while there is none.
    """

    height: int
    epoch: int
    round: Round
    own_id: str | None
    step: str
    active: bool
    open: bool
    decided: bool
    unknown_decided: str | None
    in_turn: bool
    proposer: str | None
    may_propose: str | None
    proposal: str | None
    found_right: bool | None
    ballots: tuple[Ballot, ...]
    quorum: int
    total: int
    locked: tuple[Round, str] | None
    valid: tuple[Round, str] | None

    def weight(self, phase: int) -> int:
        """Returns the weight of the validators whose vote of a phase is known."""
        return sum(ballot.weight for ballot in self.ballots if ballot.vote(phase) is not None)

    def missing(self, phase: int) -> list[str]:
        """Returns the validators whose vote of a phase is not known, in the order of the directory."""
        return [ballot.validator_id for ballot in self.ballots if ballot.vote(phase) is None]

    def is_uniform(self) -> bool:
        """True when every validator has the weight 1, so that weights can be told as numbers of validators."""
        return all(ballot.weight == 1 for ballot in self.ballots)


def view_of(voting: HeightVoting) -> HeightView:
    """Returns the picture of a height."""
    turn = {"height": voting.height, "directory": voting.directory}
    proposal = voting.proposals.accepted(voting.round)
    block_hash = None if proposal is None else proposal.proposal.block_hash
    return HeightView(
        height=voting.height,
        epoch=voting.directory.epoch,
        round=voting.round,
        own_id=voting.own_id,
        step=voting.step.name.lower() if voting.is_validator else "",
        active=_is_active(voting),
        open=voting.opened,
        decided=voting.decided,
        unknown_decided=_unknown_decided(voting),
        in_turn=voting.proposers.rotates(voting.round),
        proposer=voting.proposers.proposer_of(voting.round, **turn),  # type: ignore[arg-type]
        may_propose=voting.proposers.live(voting.round, **turn),  # type: ignore[arg-type]
        proposal=block_hash,
        found_right=None if block_hash is None else voting.verdicts.get(block_hash),
        ballots=_ballots(voting),
        quorum=voting.book.quorum,
        total=total_weight(voting.directory),
        locked=_place(voting.locked),
        valid=_place(voting.valid),
    )


def _is_active(voting: HeightVoting) -> bool:
    """True when there is something to decide, also at a node that has no part in it."""
    begun = voting.proposals.seen or voting.book.others_weight() >= voting.book.honest
    return not voting.decided and (voting.in_progress or voting.work_pending or begun)


def _unknown_decided(voting: HeightVoting) -> str | None:
    """Returns the block that a quorum has decided while this node has not got it, if that is so."""
    if voting.decided:
        return None
    return next((found for _, found in voting.book.decisions() if voting.proposals.block(found) is None), None)


def _ballots(voting: HeightVoting) -> tuple[Ballot, ...]:
    prevotes, precommits = (voting.book.tally(voting.round, phase) for phase in (PREVOTE, PRECOMMIT))
    return tuple(
        Ballot(
            validator_id=member.member_id,
            weight=member.weight,
            prevote=prevotes.first_of(member.member_id),
            precommit=precommits.first_of(member.member_id),
            heard=voting.book.has_heard(member.member_id),
        )
        for member in voting.directory.members
    )


def _place(value: LockedValue | None) -> tuple[Round, str] | None:
    return None if value is None else (value.round, value.block_hash)
