"""Which proposals of a height are kept: one accepted per round, a few waiting per proposer, those with votes."""

from __future__ import annotations

from collections.abc import Callable

from agentworld_core.consensus.verify import proposal_round
from agentworld_core.messages import ProposalBody, Round

ROUNDS_KEPT = 4
WAITING_PER_PROPOSER = 3


class Proposals:
    """The proposals of one height, in memory that grows with the members, not with what is sent."""

    def __init__(self) -> None:
        self._accepted: dict[Round, ProposalBody] = {}
        self._blocks: dict[str, ProposalBody] = {}
        self._waiting: dict[str, list[ProposalBody]] = {}
        self.seen = False

    def accept(self, body: ProposalBody) -> None:
        """Takes the body as the proposal of its round, unless the round has one."""
        self.seen = True
        self._accepted.setdefault(proposal_round(body.proposal), body)
        self.keep(body)

    def keep(self, body: ProposalBody) -> None:
        """Keeps the block, because it is accepted or because there are votes for it."""
        self._blocks.setdefault(body.proposal.block_hash, body)

    def wait(self, body: ProposalBody) -> None:
        """Keeps the newest few proposals of a proposer whose turn it is not (yet), as far as this node can tell."""
        kept = self._waiting.setdefault(body.proposal.proposer_id, [])
        if body not in kept:
            kept.append(body)
            del kept[:-WAITING_PER_PROPOSER]

    def accepted(self, round_: Round) -> ProposalBody | None:
        """Returns the accepted proposal of the round."""
        return self._accepted.get(round_)

    def waiting(self, round_: Round) -> list[ProposalBody]:
        """Returns the waiting proposals for the round."""
        return [body for body in self._all_waiting() if proposal_round(body.proposal) == round_]

    def block(self, block_hash: str) -> ProposalBody | None:
        """Returns a proposal that carries the block, whatever its round."""
        body = self._blocks.get(block_hash)
        if body is not None:
            return body
        for waiting in self._all_waiting():
            if waiting.proposal.block_hash == block_hash:
                return waiting
        return None

    def prune(self, current: Round, *, needed: Callable[[str], bool]) -> None:
        """Forgets past rounds but the latest few, and blocks that belong to none of them and are not needed."""
        past = sorted((round_ for round_ in self._accepted if round_ < current), reverse=True)
        for round_ in past[ROUNDS_KEPT:]:
            del self._accepted[round_]
        held = {body.proposal.block_hash for body in self._accepted.values()}
        for body in self._all_waiting():
            if proposal_round(body.proposal) < current:
                self._waiting[body.proposal.proposer_id].remove(body)
                if needed(body.proposal.block_hash):
                    self.keep(body)
        for block_hash in [item for item in self._blocks if item not in held and not needed(item)]:
            del self._blocks[block_hash]

    def _all_waiting(self) -> list[ProposalBody]:
        return [body for kept in self._waiting.values() for body in kept]
