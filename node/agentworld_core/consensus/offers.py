"""What validators have proposed lately, so that who proposes two blocks in one round is named."""

from __future__ import annotations

from agentworld_core.consensus.evidence import evidence_of
from agentworld_core.messages import MAX_MEMBERS, Equivocation, Proposal, Round

ROUNDS_PER_PROPOSER = 16


class Offers:
    """The first proposal of each validator in each of its latest rounds, without the blocks."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[tuple[int, Round], Proposal]] = {}
        self._reported: dict[tuple[str, int], None] = {}

    def note(self, proposal: Proposal) -> Equivocation | None:
        """Takes in a verified proposal; returns the proof if it is the second, once for each validator and height."""
        name, place = proposal.proposer_id, (proposal.height, Round(proposal.term, proposal.attempt))
        if name not in self._seen and len(self._seen) >= MAX_MEMBERS:
            return None
        seen = self._seen.setdefault(name, {})
        first = seen.setdefault(place, proposal)
        if len(seen) > ROUNDS_PER_PROPOSER:
            del seen[next(iter(seen))]
        if first.block_hash == proposal.block_hash or (name, proposal.height) in self._reported:
            return None
        self._reported[name, proposal.height] = None
        return evidence_of(first, proposal)

    def forget_below(self, height: int) -> None:
        """Forgets what is decided."""
        for name in list(self._seen):
            self._seen[name] = {place: item for place, item in self._seen[name].items() if place[0] >= height}
            if not self._seen[name]:
                del self._seen[name]
        self._reported = {key: None for key in self._reported if key[1] >= height}
