"""Whoever could have split a world must be named (oracle I14), judged by what nodes were sent.

Two different votes of one validator for one place put agreement at risk as soon as one honest node has seen both in the
round that it is in, or one then and the other for a height that it has decided in that round. From then on this node,
and in the end every node, must hold evidence against the validator. Votes for rounds far ahead prove nothing about the
oracle: nobody can remember them all.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from agentworld_core.consensus.decided import HEIGHTS_KEPT
from agentworld_core.consensus.evidence import PER_VALIDATOR, accused
from agentworld_core.consensus.offers import ROUNDS_PER_PROPOSER
from agentworld_core.consensus.verify import verify_vote
from agentworld_core.errors import AgentWorldError
from agentworld_core.messages import Proposal, Round, Vote
from tests.simulation.kernel import Violation

if TYPE_CHECKING:
    from tests.simulation.node import SimNode

STORED_IN_MS = 3000
"""What was found later may not be on disk yet when the run ends."""

Place = tuple[str, int, Round, int]
Life = tuple[str, int]


class Accusations:
    """Remembers for each life of each honest node what it was sent in time, and whom it should accuse."""

    def __init__(self) -> None:
        self._seen: dict[Life, dict[Place, str | None]] = {}
        self._rounds: dict[Life, dict[int, Round]] = {}
        self._offered: dict[tuple[Life, str], dict[tuple[int, Round], str]] = {}
        self._due: dict[Life, dict[tuple[str, int], int]] = {}

    def heard(self, node: SimNode, vote: Vote) -> None:
        """A vote has arrived whose signature nobody has looked at yet."""
        round_, life = Round(vote.term, vote.attempt), (node.end, node.life)
        if vote.height == node.engine.height:
            if round_ != node.engine.round:
                return
        elif (
            self._rounds.get(life, {}).get(vote.height) != round_ or vote.height < node.chain.height + 1 - HEIGHTS_KEPT
        ):
            return
        place = (vote.validator_id, vote.height, round_, vote.phase)
        seen = self._seen.setdefault(life, {})
        known = seen.get(place, vote.block_hash)
        late = vote.height != node.engine.height
        if (late and known == vote.block_hash) or (place in seen and known == vote.block_hash):
            return
        try:
            verify_vote(node.chain.keyring.at(vote.height), (), vote)
        except AgentWorldError:
            return
        if known == vote.block_hash:
            if vote.term >= node.chain.term:  # what is fenced off may be forgotten
                seen[place] = vote.block_hash
            return
        self._due.setdefault(life, {}).setdefault((vote.validator_id, vote.height), node.kernel.now)
        if late:
            node.kernel.reach("a late vote that contradicts")

    def offered(self, node: SimNode, proposal: Proposal) -> None:
        """A verified proposal is taken in: two for one round are no risk, and yet to be named while both are recent."""
        life, name = (node.end, node.life), proposal.proposer_id
        kept = self._offered.setdefault((life, name), {})
        first = kept.setdefault((proposal.height, Round(proposal.term, proposal.attempt)), proposal.block_hash)
        if len(kept) > ROUNDS_PER_PROPOSER:
            del kept[next(iter(kept))]
        if first != proposal.block_hash and proposal.height == node.engine.height:
            node.kernel.reach("two proposals in a round")
            self._due.setdefault(life, {}).setdefault((name, proposal.height), node.kernel.now)

    def decided(self, node: SimNode, height: int, round_: Round) -> None:
        """The node decides a height; late votes matter if it was in the round that decided."""
        if node.engine.height == height and node.engine.round == round_:
            self._rounds.setdefault((node.end, node.life), {})[height] = round_

    def crashed(self, node: SimNode) -> None:
        """What the node has found and not stored is lost with its memory, and no fault of its."""
        self._seen.pop((node.end, node.life), None)
        proven = {(accused(item), item.first.height) for _, item in node.proofs.held.items()}
        due = self._due.get((node.end, node.life), {})
        for key in [key for key in due if key not in proven]:
            del due[key]

    def all_named(self, nodes: list[SimNode]) -> bool:
        """True when every node holds evidence against everybody who must be named."""
        names = {name for due in self._due.values() for name, _ in due}
        return all(names <= set(_count(node)) for node in nodes)

    def check(self, nodes: list[SimNode]) -> None:
        """Raises Violation when somebody who voted twice is not named: by who saw it, and by everybody else."""
        for node in nodes:
            counts = _count(node)
            proven = {(accused(item), item.first.height) for _, item in node.proofs.held.items()}
            for life, due in self._due.items():
                for (name, height), since in due.items():
                    if not counts[name]:
                        raise Violation("I14", f"{node.name} does not name {name}, who voted twice at {height}")
                    stored = node.kernel.now - since > STORED_IN_MS and life[0] == node.end
                    if stored and counts[name] < PER_VALIDATOR and (name, height) not in proven:
                        raise Violation("I14", f"{node.name} saw two votes of {name} at {height} and accuses nobody")
        if self._due:
            nodes[0].kernel.reach("named who voted twice")


def _count(node: SimNode) -> Counter[str]:
    return Counter(accused(item) for _, item in node.proofs.held.items())
