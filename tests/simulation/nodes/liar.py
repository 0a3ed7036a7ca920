"""A validator that signs twice, serves wrong blocks and sends rubbish: a production node whose network says more."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections import deque
from typing import TYPE_CHECKING

from agentworld_core.codec import decode, encode
from agentworld_core.errors import AgentWorldError
from agentworld_core.hashing import content_id
from agentworld_core.messages import BlockBundle, Blocks, Vote
from agentworld_core.signing import sign
from agentworld_node.network.port import RequestHandler
from agentworld_node.roles.sync import GET_BLOCKS
from tests.simulation.nodes.network import SimulatedNetwork
from tests.unit.node.material import peer_id, signer

if TYPE_CHECKING:
    from tests.simulation.nodes.world import World


HEARD = 40
RUBBISH_SECONDS = (0.02, 0.6)
REQUEST_SECONDS = 1.0


class Liar:
    """Contradicts its validator's votes towards some of the others, spoils blocks that they ask it for, and repeats
    what it has heard: as it was, damaged, on other topics, in requests.
    """

    def __init__(self, world: World, name: str):
        self.world = world
        self.name = name
        self.peer_id = peer_id(name)
        self.rng = world.rng(f"liar/{name}")
        self.lied = 0
        self._network: SimulatedNetwork | None = None
        self._sending: asyncio.Task[None] | None = None
        self._heard: deque[tuple[str, bytes]] = deque(maxlen=HEARD)
        self._asked: deque[tuple[str, bytes]] = deque(maxlen=HEARD)

    def take(self, network: SimulatedNetwork) -> None:
        """Has its way with the network of a new life of its validator."""
        self._network = network
        serve = network.serve

        def spoiling(protocol: str, handler: RequestHandler) -> None:
            serve(protocol, self._spoiled(handler) if protocol == GET_BLOCKS else handler)

        network.serve = spoiling  # type: ignore[method-assign]

    async def run(self) -> None:
        """Sends rubbish until the chaos is over."""
        if not self.world.scenario.rubbish:
            return
        while not self.world.calm:
            await asyncio.sleep(self.rng.uniform(*RUBBISH_SECONDS))
            process = self.world.machines[self.name].process
            if process is not None and self._network is not None:
                self.world.reach("rubbish")
                self._sending = process.spawn(self._send_rubbish(self._network))

    def hear(self, topic: str, payload: bytes) -> None:
        """Remembers what somebody has published."""
        self._heard.append((topic, payload))

    def overhear(self, protocol: str, payload: bytes) -> None:
        """Remembers what somebody has asked for."""
        self._asked.append((protocol, payload))

    async def _send_rubbish(self, network: SimulatedNetwork) -> None:
        with contextlib.suppress(AgentWorldError):  # refused, or too large, or nobody there
            if self._asked and self.rng.random() < 0.5:
                protocol, payload = self.rng.choice(self._asked)
                peer = self.rng.choice(network.connected() or (self.peer_id,))
                await network.request(peer, protocol, self._damaged(payload), timeout=REQUEST_SECONDS)
            elif self._heard:
                topic = self.rng.choice(self._heard)[0]
                to = {peer for peer in network.connected() if self.rng.random() < 0.6}
                network.whisper(topic, self._damaged(self.rng.choice(self._heard)[1]), to=to.__contains__)

    def _damaged(self, payload: bytes) -> bytes:
        """Returns the payload with some of it changed, cut, repeated, made up, or as it was."""
        data, place = bytearray(payload), self.rng.randrange(len(payload) + 1)
        match self.rng.randrange(5):
            case 0:
                for _ in range(min(len(data), self.rng.randint(1, 4))):
                    data[self.rng.randrange(len(data))] = self.rng.randrange(256)
            case 1:
                del data[place:]
            case 2:
                data[place:place] = data[: self.rng.randrange(64)]
            case 3:
                data[:] = self.rng.randbytes(self.rng.randrange(200))
        return bytes(data)

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
