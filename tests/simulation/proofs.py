"""What one node does with proofs that a validator voted twice: durable before they are told, passed on, fetched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentworld_core.codec import decode_value, encode, encode_value
from agentworld_core.consensus.evidence import Evidence, EvidenceSet, check_equivocation
from agentworld_core.errors import StateMismatch
from agentworld_core.messages import Equivocation
from agentworld_node.records import EVIDENCE
from tests.unit.core.membership.worlds import WORLD

if TYPE_CHECKING:
    from tests.simulation.node import SimNode

ASKS_EACH = 4
"""In how many of its announcements a node asks another one for proofs once."""


class Proofs:
    """The proofs that one node holds, as the role of production keeps them; a crash leaves those on its disk."""

    def __init__(self, node: SimNode):
        self.node = node
        self.held = EvidenceSet()
        self._announced = 0

    def found(self, evidence: Equivocation) -> None:
        """Keeps a proof that is known to be right, and tells others once it is on disk."""
        if self.held.lacks(evidence):
            self.node.disk.append(EVIDENCE, evidence, lambda: self._keep(evidence))

    def _keep(self, evidence: Equivocation) -> None:
        if self.held.add(evidence):
            self.node.kernel.progress += 1
            self.tell(evidence)

    def tell(self, evidence: Equivocation) -> None:
        """Sends a proof to everybody."""
        self.node.send(("evidence", encode(evidence)))

    def announce(self) -> None:
        """Asks somebody now and then for what this node lacks."""
        self._announced += 1
        world = self.node.world
        if world.faulty and self._announced % ASKS_EACH == 0:
            other = self.node.rng.choice([end for end in world.net.ends if end != self.node.end])
            world.net.send(self.node.end, other, ("proofs-wanted", encode_value(self.held.hash)))

    def asked(self, source: str, data: bytes) -> None:
        """Answers with all proofs unless the other one lacks none."""
        if decode_value(data) != self.held.hash:
            self.node.world.net.send(self.node.end, source, ("proofs", encode(self.held.as_message(WORLD))))

    def heard_all(self, evidence: Evidence) -> None:
        """Takes in what another node holds."""
        for item in evidence.items:
            self.heard(item)

    def heard(self, evidence: Equivocation) -> None:
        """Takes in a proof from another node if it is right; StateMismatch while its epoch is not known here."""
        if not self.held.lacks(evidence):
            return
        directory = self.node.chain.keyring.epoch(evidence.first.directory_epoch)
        if directory is None:
            raise StateMismatch("is not known here", field="first.directory_epoch")
        check_equivocation(evidence, directory)
        self.node.world.oracles.evidence_found(self.node, evidence)
        self.found(evidence)
