"""What has arrived for the next height, and how far others seem to be, in memory bounded by sender."""

from __future__ import annotations

from agentworld_core.consensus.events import ProposalReceived, VoteReceived
from agentworld_core.membership.directory import honest_weight
from agentworld_core.messages import MAX_MEMBERS, Directory

VOTES_PER_VALIDATOR = 8
PROPOSALS_KEPT = 16


class NextHeight:
    """Keeps verified messages of the height after the current one, the newest few of each sender."""

    def __init__(self) -> None:
        self._votes: dict[str, list[VoteReceived]] = {}
        self._proposals: dict[str, ProposalReceived] = {}
        self._heights: dict[str, int] = {}
        self._reported = 0

    def add(self, event: VoteReceived | ProposalReceived) -> None:
        """Keeps the message; the oldest of the same sender makes room, another sender's never does."""
        if isinstance(event, VoteReceived):
            if event.vote.validator_id not in self._votes and len(self._votes) >= MAX_MEMBERS:
                return
            kept = self._votes.setdefault(event.vote.validator_id, [])
            if event not in kept:
                kept.append(event)
                del kept[:-VOTES_PER_VALIDATOR]
            return
        proposer = event.body.proposal.proposer_id
        if proposer in self._proposals or len(self._proposals) < PROPOSALS_KEPT:
            self._proposals[proposer] = event

    def take(self, height: int) -> list[VoteReceived | ProposalReceived]:
        """Returns what was kept for the height, proposals first, and forgets all of it."""
        proposals = [item for item in self._proposals.values() if item.body.proposal.height == height]
        votes = [item for kept in self._votes.values() for item in kept if item.vote.height == height]
        self._proposals.clear()
        self._votes.clear()
        return [*proposals, *votes]

    def note_height(self, directory: Directory, event: VoteReceived | ProposalReceived, *, own: int) -> int | None:
        """Returns a height that others must have decided, once for each, when enough of them are above ``own``."""
        if isinstance(event, VoteReceived):
            sender, height = event.vote.validator_id, event.vote.height
        else:
            sender, height = event.body.proposal.proposer_id, event.body.proposal.height
        weights = {member.member_id: member.weight for member in directory.members}
        if sender not in weights:
            return None
        self._heights[sender] = max(height, self._heights.get(sender, 0))
        weight = 0
        for seen, name in sorted(((seen, name) for name, seen in self._heights.items()), reverse=True):
            weight += weights.get(name, 0)
            if weight >= honest_weight(directory):
                decided = seen - 1
                if decided < own or decided <= self._reported:
                    return None
                self._reported = decided
                return decided
        return None
