"""What a validator has said itself at one height: it never says anything else in the same place."""

from __future__ import annotations

import enum

from agentworld_core.consensus.events import DurableVotes
from agentworld_core.consensus.votes import round_of
from agentworld_core.errors import StateMismatch
from agentworld_core.messages import PRECOMMIT, PREVOTE, Round, Vote

OWN_VOTES_KEPT = 64


class Step(enum.IntEnum):
    """How far this validator has come in its round."""

    PROPOSE = 1
    PREVOTE = 2
    PRECOMMIT = 3


def check_owner(durable: DurableVotes, validator_id: str) -> None:
    """Raises StateMismatch unless all that was stored was signed by this validator."""
    signers = {vote.validator_id for vote in durable.votes} | {item.proposal.proposer_id for item in durable.proposals}
    if strangers := sorted(signers - {validator_id}):
        raise StateMismatch(
            f"the log holds votes of another validator, and this one is {validator_id}",
            field="validator_id",
            value=strangers[0],
            remedy="give each validator a data folder of its own; one without its votes begins with a new key",
        )


class OwnWords:
    """The rounds proposed in, and the votes by round and phase, from the moment they are asked to be stored."""

    def __init__(self) -> None:
        self.votes: dict[tuple[Round, int], str | None] = {}
        self._proposed: dict[Round, None] = {}

    def note_vote(self, vote: Vote) -> None:
        """Takes in a vote; the first in a place stays."""
        self.votes.setdefault((round_of(vote), vote.phase), vote.block_hash)

    def note_heard(self, vote: Vote, current: Round) -> bool:
        """Takes in an own vote that has come from elsewhere, if it is of this round or later; True if it is new here.

        It is unknown here only if our own record of it was lost: never contradict it. Were it somebody else who has our
        key, there could be any number of them.
        """
        is_new = round_of(vote) >= current and (round_of(vote), vote.phase) not in self.votes
        if is_new and len(self.votes) < OWN_VOTES_KEPT:
            self.note_vote(vote)
            return True
        return False

    def note_proposed(self, round_: Round) -> None:
        """Takes in that this validator proposes in the round."""
        self._proposed[round_] = None

    def has_proposed(self, round_: Round) -> bool:
        """True when this validator has proposed in the round."""
        return round_ in self._proposed

    def step(self, round_: Round) -> Step:
        """Returns how far it has come in the round."""
        if (round_, PRECOMMIT) in self.votes:
            return Step.PRECOMMIT
        return Step.PREVOTE if (round_, PREVOTE) in self.votes else Step.PROPOSE

    def prune(self, current: Round) -> None:
        """Forgets earlier rounds."""
        self._proposed = {past: None for past in self._proposed if past >= current}
        self.votes = {place: value for place, value in self.votes.items() if place[0] >= current}
