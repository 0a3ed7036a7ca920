"""Networks that live in one process and are joined by a hub; what tests and the simulator use in place of sockets.

A hub without weather delivers in the next turn of the event loop and times requests out by the loop's clock. A hub
with weather moves only when ``advance`` is called: losses and delays come from the given random numbers, time is
virtual, so that a run depends on nothing but its seed.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from agentworld_core.errors import AgentWorldError, Busy, TimedOut, TooLarge
from agentworld_node.network.counters import Counters
from agentworld_node.network.inbox import Inbox
from agentworld_node.network.port import GossipHandler, Limits, Peer, PeerUnavailable, RequestHandler
from agentworld_node.network.serving import Reply, Server

_TURNS = 5  # turns of the event loop that handlers get after each event of virtual time


@dataclass(frozen=True)
class Weather:
    """What goes wrong between networks: the share of messages lost, and the least and most delay in seconds."""

    rng: random.Random
    loss: float = 0.0
    latency: tuple[float, float] = (0.0, 0.0)


class MemoryHub:
    """Joins the networks it has made; may lose and delay messages and cut the networks into groups."""

    def __init__(self, weather: Weather | None = None):
        self.weather = weather
        self.now = 0.0
        self._networks: dict[str, MemoryNetwork] = {}
        self._groups: tuple[frozenset[str], ...] = ()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = itertools.count()

    def network(self, peer_id: str, *, allow_unknown: bool = False, limits: Limits | None = None) -> MemoryNetwork:
        """Makes a network of this hub; a second one of the same peer id takes the place of the first once started."""
        return MemoryNetwork(self, peer_id, allow_unknown=allow_unknown, limits=limits or Limits())

    def partition(self, *groups: Collection[str]) -> None:
        """Cuts all links between the groups; who is in no group is alone. Requests under way break."""
        self._groups = tuple(frozenset(group) for group in groups)
        for network in list(self._networks.values()):
            network.drop_unreachable()

    def heal(self) -> None:
        """Joins all groups again."""
        self._groups = ()

    async def advance(self, seconds: float) -> None:
        """Moves virtual time on and lets happen, in order, everything that is due; needs weather."""
        end = self.now + seconds
        await _turns()
        while self._events and self._events[0][0] <= end:
            self.now, _, happen = heapq.heappop(self._events)
            happen()
            await _turns()
        self.now = end

    def join(self, network: MemoryNetwork) -> None:
        """Adds a started network."""
        previous = self._networks.get(network.peer_id)
        if previous is not None and previous is not network:
            raise PeerUnavailable(f"{network.peer_id} is running already")
        self._networks[network.peer_id] = network

    def leave(self, network: MemoryNetwork) -> None:
        """Removes a stopped network and breaks the requests that others have with it."""
        if self._networks.get(network.peer_id) is network:
            del self._networks[network.peer_id]
            for other in list(self._networks.values()):
                other.drop_unreachable()

    def peers_of(self, network: MemoryNetwork) -> list[MemoryNetwork]:
        """The networks that have a connection with this one."""
        return [other for other in self._networks.values() if self.linked(network, other)]

    def find(self, network: MemoryNetwork, peer_id: str) -> MemoryNetwork | None:
        """The network of a peer, when the two are connected."""
        other = self._networks.get(peer_id)
        return other if other is not None and self.linked(network, other) else None

    def runs(self, network: MemoryNetwork) -> bool:
        """True between the start and the stop of the network."""
        return self._networks.get(network.peer_id) is network

    def linked(self, one: MemoryNetwork, other: MemoryNetwork) -> bool:
        """True when one of the two dials the other, both admit it, and nothing lies between them."""
        if one is other or not (self.runs(one) and self.runs(other)):
            return False
        if self._groups and not any({one.peer_id, other.peer_id} <= group for group in self._groups):
            return False
        dialled = one.lists(other.peer_id) or other.lists(one.peer_id)
        return dialled and one.admits(other.peer_id) and other.admits(one.peer_id)

    def carry(self, source: MemoryNetwork, target: MemoryNetwork, deliver: Callable[[], None]) -> None:
        """Brings something to another network, unless it is lost on the way or the link is gone by then."""
        delay = 0.0
        if self.weather is not None:
            if self.weather.rng.random() < self.weather.loss:
                return
            delay = self.weather.rng.uniform(*self.weather.latency)
        self.later(delay, lambda: deliver() if self.linked(source, target) else None)

    def later(self, delay: float, happen: Callable[[], None]) -> Callable[[], None]:
        """Lets something happen after a delay; the returned function calls it off."""
        if self.weather is None:
            loop = asyncio.get_running_loop()
            return (loop.call_later(delay, happen) if delay else loop.call_soon(happen)).cancel
        wanted = [True]
        event = (self.now + delay, next(self._sequence), lambda: happen() if wanted else None)
        heapq.heappush(self._events, event)
        return wanted.clear


class MemoryNetwork:
    """One node's place on a hub; implements the Network port."""

    def __init__(self, hub: MemoryHub, peer_id: str, *, allow_unknown: bool, limits: Limits):
        self.peer_id = peer_id
        self._hub = hub
        self._allow_unknown = allow_unknown
        self._limits = limits
        self._counters = Counters()
        self._inbox = Inbox(limits=limits, counters=self._counters)
        self._server = Server(limits=limits, counters=self._counters)
        self._peers: frozenset[str] = frozenset()
        self._calls: dict[int, tuple[str, asyncio.Future[bytes]]] = {}
        self._sequence = itertools.count()

    async def start(self) -> None:
        self._hub.join(self)
        self._server.open()
        # With weather the hub alone decides when something happens, so subscribers are called at once.
        manual = self._hub.weather is not None
        self._inbox.attach((lambda call: call()) if manual else asyncio.get_running_loop().call_soon)

    async def stop(self) -> None:
        self._hub.leave(self)
        self._inbox.detach()
        self.drop_unreachable()
        await self._server.close()

    async def publish(self, topic: str, payload: bytes) -> None:
        if len(payload) > self._limits.publish_bytes:
            raise TooLarge(f"a message has {len(payload)} bytes, more than {self._limits.publish_bytes}")
        self._counters.add("published" if self._hub.runs(self) else "dropped_outbound")
        # Gossip is relayed: it reaches everybody who subscribes and hangs together with us through others who do.
        reached = {self.peer_id}
        frontier: list[MemoryNetwork] = [self]
        while frontier:
            relay = frontier.pop(0)
            for peer in self._hub.peers_of(relay):
                if peer.peer_id not in reached and topic in peer.topics():
                    reached.add(peer.peer_id)
                    frontier.append(peer)
                    self._hub.carry(relay, peer, lambda peer=peer: peer.receive(topic, self.peer_id, payload))  # type: ignore[misc]

    def subscribe(self, topic: str, handler: GossipHandler) -> Callable[[], None]:
        return self._inbox.subscribe(topic, handler)

    def serve(self, protocol: str, handler: RequestHandler) -> None:
        self._server.serve(protocol, handler)

    async def request(self, peer_id: str, protocol: str, payload: bytes, *, timeout: float) -> bytes:  # noqa: ASYNC109
        if len(payload) > self._limits.request_bytes:
            raise TooLarge(f"a request has {len(payload)} bytes, more than {self._limits.request_bytes}")
        if sum(peer == peer_id for peer, _ in self._calls.values()) >= self._limits.requests_per_peer:
            raise Busy(f"{self._limits.requests_per_peer} requests to {peer_id} are under way")
        self._counters.add("requests_sent")
        target = self._hub.find(self, peer_id)
        if target is None:
            self._counters.add("requests_failed")
            raise PeerUnavailable(f"{peer_id} is not connected")
        number = next(self._sequence)
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._calls[number] = (peer_id, future)
        call_off = self._hub.later(
            timeout, lambda: _fail(future, TimedOut(f"{peer_id} gave no answer in {timeout:g} s"))
        )

        def answer(reply: Reply) -> None:
            self._hub.carry(target, self, lambda: _settle(future, reply))

        self._hub.carry(self, target, lambda: target.take(self.peer_id, protocol, payload, reply=answer))
        try:
            return await future
        except AgentWorldError as error:
            self._counters.add("requests_timed_out" if isinstance(error, TimedOut) else "requests_failed")
            raise
        finally:
            call_off()
            del self._calls[number]

    def set_peers(self, peers: Sequence[Peer]) -> None:
        self._peers = frozenset(peer.peer_id for peer in peers)
        self.drop_unreachable()

    def connected(self) -> tuple[str, ...]:
        return tuple(sorted(peer.peer_id for peer in self._hub.peers_of(self)))

    def counters(self) -> Mapping[str, int]:
        return self._counters.snapshot()

    # What the hub and the other networks of the hub call.

    def lists(self, peer_id: str) -> bool:
        """True when this network dials the peer."""
        return peer_id in self._peers

    def admits(self, peer_id: str) -> bool:
        """True when the peer may be connected with this network."""
        return self._allow_unknown or peer_id in self._peers

    def topics(self) -> frozenset[str]:
        """The topics that are subscribed to."""
        return self._inbox.topics()

    def receive(self, topic: str, author: str, payload: bytes) -> None:
        """Takes a gossip message in."""
        self._inbox.offer(topic, author, payload)

    def take(self, peer_id: str, protocol: str, payload: bytes, *, reply: Callable[[Reply], None]) -> None:
        """Takes a request in."""
        self._server.dispatch(peer_id, protocol, payload, reply=reply)

    def drop_unreachable(self) -> None:
        """Breaks the requests to peers that are no longer connected."""
        for peer_id, future in list(self._calls.values()):
            if self._hub.find(self, peer_id) is None:
                _fail(future, PeerUnavailable(f"the connection to {peer_id} broke"))


async def _turns() -> None:
    for _ in range(_TURNS):
        await asyncio.sleep(0)


def _fail(future: asyncio.Future[bytes], error: AgentWorldError) -> None:
    if not future.done():
        future.set_exception(error)


def _settle(future: asyncio.Future[bytes], reply: Reply) -> None:
    if future.done():
        return
    try:
        future.set_result(reply.value())
    except AgentWorldError as error:
        future.set_exception(error)
