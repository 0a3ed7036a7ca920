"""A validator that signs twice, and serves wrong blocks: a production node whose network says more than it does."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from agentworld_core.codec import decode, encode
from agentworld_core.hashing import content_id
from agentworld_core.messages import BlockBundle, Blocks, Vote
from agentworld_core.signing import sign
from agentworld_node.network.port import RequestHandler
from agentworld_node.roles.sync import GET_BLOCKS
from tests.simulation.nodes.network import SimulatedNetwork
from tests.unit.node.material import peer_id, signer

if TYPE_CHECKING:
    from tests.simulation.nodes.world import World


class Liar:
    """Contradicts its validator's votes towards some of the others, and spoils blocks that they ask it for."""

    def __init__(self, world: World, name: str):
        self.world = world
        self.name = name
        self.peer_id = peer_id(name)
        self.rng = world.rng(f"liar/{name}")
        self.lied = 0
        self._network: SimulatedNetwork | None = None

    def take(self, network: SimulatedNetwork) -> None:
        """Has its way with the network of a new life of its validator."""
        self._network = network
        serve = network.serve

        def spoiling(protocol: str, handler: RequestHandler) -> None:
            serve(protocol, self._spoiled(handler) if protocol == GET_BLOCKS else handler)

        network.serve = spoiling  # type: ignore[method-assign]

    def contradict(self, vote: Vote, topic: str) -> None:
        """Signs the opposite of a vote of its own, and lets some hear it."""
        if self._network is None or self.rng.random() > 0.2:
            return
        wrong = None if vote.block_hash is not None else content_id(self.rng.randbytes(8))
        other = sign(dataclasses.replace(vote, block_hash=wrong), signer(self.name))
        if other.key_id != vote.key_id:
            return
        hearing = {peer for peer in self._network.connected() if self.rng.random() < 0.6}
        self.lied += bool(hearing)
        self.world.note(self.name, "lies", f"about {vote.height} ({vote.term}.{vote.attempt}) to {len(hearing)}")
        self._network.whisper(topic, encode(other), to=hearing.__contains__)

    def _spoiled(self, handler: RequestHandler) -> RequestHandler:
        async def serve(peer: str, payload: bytes) -> bytes:
            answer = await handler(peer, payload)
            if self.rng.random() < 0.5:
                return answer
            bundles = decode(Blocks, answer).bundles
            self.world.reach("spoiled blocks") if bundles else None
            return encode(Blocks(tuple(self._spoil(bundle) for bundle in bundles)))

        return serve

    def _spoil(self, bundle: BlockBundle) -> BlockBundle:
        block, certificate, batch = bundle.block, bundle.certificate, bundle.batch
        match self.rng.randrange(4):
            case 0:
                certificate = dataclasses.replace(certificate, votes=certificate.votes[:-1])
            case 1:
                certificate = dataclasses.replace(certificate, votes=(certificate.votes[0],) * len(certificate.votes))
            case 2:
                block = dataclasses.replace(block, timestamp_ms=block.timestamp_ms + 1)
            case _:
                batch = dataclasses.replace(batch, actions=batch.actions[:-1])
        return BlockBundle(block, batch, certificate)
