"""The network between simulated processes: delays, losses, cuts in one direction, and who hears what is published."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from agentworld_node.network.memory import MemoryHub, MemoryNetwork
from agentworld_node.network.port import Limits
from tests.simulation.nodes.loop import Process, SimulatedLoop


@dataclass(frozen=True)
class Weather:
    """What befalls messages when nothing is cut: the share that is lost, that is late, and seconds."""

    loss: float = 0.0
    late: float = 0.0
    latency: tuple[float, float] = (0.0005, 0.005)
    latest: float = 2.0


CALM = Weather()


class SimulatedHub(MemoryHub):
    """Joins the networks of processes; what arrives at a process happens in it, whoever sent it."""

    def __init__(self, loop: SimulatedLoop, rng: random.Random):
        super().__init__()
        self.conditions = CALM
        self.silent: set[tuple[str, str]] = set()  # (from, to): directions in which nothing arrives
        self.messages = 0
        self.on_publish: Callable[[str, str, bytes], None] = lambda _peer, _topic, _payload: None
        self.on_request: Callable[[str, bytes], None] = lambda _protocol, _payload: None
        self._loop = loop
        self._rng = rng
        self._processes: dict[MemoryNetwork, Process] = {}

    def network_of(self, peer_id: str, process: Process) -> SimulatedNetwork:
        """Makes the network of a process."""
        network = SimulatedNetwork(self, peer_id, allow_unknown=True, limits=Limits())
        self._processes[network] = process
        return network

    def unplug(self, network: MemoryNetwork) -> None:
        """Removes a network whose machine is without power: nobody is told, requests to it are left to time out."""
        self._networks.pop(network.peer_id, None)

    def carry(self, source: MemoryNetwork, target: MemoryNetwork, deliver: Callable[[], None]) -> None:
        self.messages += 1
        process = self._processes[target]
        weather = self.conditions
        if self._rng.random() < weather.loss or (source.peer_id, target.peer_id) in self.silent:
            return
        delay = self._rng.uniform(*weather.latency)
        if self._rng.random() < weather.late:
            delay = self._rng.uniform(delay, weather.latest)

        def arrive() -> None:
            if self.linked(source, target):
                deliver()

        self._loop.call_later(delay, arrive, context=process.context)


class SimulatedNetwork(MemoryNetwork):
    """A network of which the world is told what it publishes, and through which a liar can say more."""

    async def publish(self, topic: str, payload: bytes) -> None:
        self._hub.on_publish(self.peer_id, topic, payload)  # type: ignore[attr-defined]
        await super().publish(topic, payload)

    async def request(self, peer_id: str, protocol: str, payload: bytes, *, timeout: float) -> bytes:  # noqa: ASYNC109
        self._hub.on_request(protocol, payload)  # type: ignore[attr-defined]
        return await super().request(peer_id, protocol, payload, timeout=timeout)

    def whisper(self, topic: str, payload: bytes, *, to: Callable[[str], bool]) -> None:
        """Says something to some of the peers only."""
        for peer in self._hub.peers_of(self):
            if to(peer.peer_id):
                self._hub.carry(self, peer, lambda peer=peer: peer.receive(topic, self.peer_id, payload))  # type: ignore[misc]
