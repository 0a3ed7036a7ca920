"""One life of the libp2p host inside the trio loop: builds it, runs it until told to stop, takes it down again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import trio
from libp2p.abc import INetConn, INetStream, INetwork, INotifee
from libp2p.host.basic_host import BasicHost
from libp2p.peer.id import ID
from libp2p.tools.anyio_service import background_trio_service
from libp2p.tools.anyio_service.api import ManagerAPI

from agentworld_core.errors import NotAvailable
from agentworld_node.network.counters import Counters
from agentworld_node.network.inbox import Inbox
from agentworld_node.network.libp2p import tuning
from agentworld_node.network.libp2p.addresses import announced, check_free, tcp
from agentworld_node.network.libp2p.channels import PROTOCOL, Call, Channels, Service
from agentworld_node.network.libp2p.dialer import Dialer
from agentworld_node.network.libp2p.gossip import GuardedPubsub, LeanGossip
from agentworld_node.network.libp2p.outbox import Outbox
from agentworld_node.network.libp2p.swarm import key_pair_of, make_swarm
from agentworld_node.network.port import Limits, Peer

_STOP_SECONDS = 5.0
_RECONCILE_SECONDS = 2.0


@dataclass(frozen=True)
class Libp2pConfig:
    """Who a node is on the network and where it listens.

    ``seed`` is the 32-byte Ed25519 seed of the network identity; port 0 means any free port. ``announce`` are the
    ``host:port`` that peers are told; it is needed when listening on all interfaces.
    """

    seed: bytes
    listen_host: str = "127.0.0.1"
    listen_port: int = 0
    announce: tuple[str, ...] = ()
    allow_unknown: bool = False


@dataclass(frozen=True)
class Shared:
    """What both threads use: thread-safe queues and counters, and what the asyncio side wants at this moment."""

    limits: Limits
    counters: Counters
    inbox: Inbox
    outbox: Outbox
    service: Service
    peers: Callable[[], Sequence[Peer]]
    show_connected: Callable[[tuple[str, ...]], None]


class Session:
    """Runs one host; the methods other than ``run`` are called in the trio thread and return at once."""

    def __init__(self, config: Libp2pConfig, shared: Shared, *, port: int):
        self.port = port
        self._config = config
        self._shared = shared
        self._stop = trio.Event()
        self._published = trio.Event()
        self._topics_changed = trio.Event()
        self._admitted: frozenset[str] = frozenset()
        self._connections: dict[ID, INetConn] = {}
        self._dialer: Dialer | None = None
        self._channels: Channels | None = None
        tuning.apply()
        self._swarm = make_swarm(key_pair_of(config.seed), admit=self._admits, counters=shared.counters)
        host = BasicHost(
            self._swarm,
            announce_addrs=_announced(config),
            negotiate_timeout=10,
            disable_identify_address_discovery=True,
        )
        self._host = host
        self._router = LeanGossip(counters=shared.counters)
        self._pubsub = GuardedPubsub(
            host,
            self._router,
            counters=shared.counters,
            deliver=shared.inbox.offer,
            abort=self._swarm.abort_muxed,
        )

    async def run(self, started: Callable[[int], None]) -> None:
        """Serves until ``stop``; calls ``started`` with the port once peers can connect."""
        try:
            await self._serve(started)
        finally:
            await self._swarm.cut_all()

    async def _serve(self, started: Callable[[int], None]) -> None:
        async with AsyncExitStack() as stack:
            # Whatever hangs while the host is taken down is cancelled.
            last = stack.enter_context(trio.CancelScope())
            services = [
                await stack.enter_async_context(background_trio_service(service))
                for service in (self._swarm, self._pubsub, self._router)
            ]
            await self._pubsub.wait_until_ready()
            nursery = await stack.enter_async_context(trio.open_nursery())
            stack.callback(nursery.cancel_scope.cancel)
            for manager in services:
                nursery.start_soon(_watch, manager)
            self._begin(nursery)
            await self._listen()
            started(self.port)
            await self._stop.wait()
            last.deadline = trio.current_time() + _STOP_SECONDS
            self._shared.show_connected(())
            await self._swarm.abort_all()

    def _begin(self, nursery: trio.Nursery) -> None:
        self._dialer = Dialer(self._swarm, nursery=nursery, counters=self._shared.counters)
        self._channels = Channels(
            self._host,
            nursery=nursery,
            limits=self._shared.limits,
            counters=self._shared.counters,
            service=self._shared.service,
            abort=self._swarm.abort_muxed,
        )
        self._host.set_stream_handler(PROTOCOL, self._channels.accept)
        self._swarm.register_notifee(_Notifee(self))
        nursery.start_soon(self._publish)
        nursery.start_soon(self._reconcile)
        nursery.start_soon(self._follow_topics)
        nursery.start_soon(self._router.tell_forever)
        self.sync_peers()

    async def _listen(self) -> None:
        host = self._config.listen_host
        check_free(host, self.port)
        if not await self._swarm.listen(tcp(host, self.port)):
            raise NotAvailable(f"cannot listen on {host}:{self.port}")
        for listener in self._swarm.listeners.values():
            for address in listener.get_addrs():
                self.port = int(str(address.value_for_protocol("tcp")))

    def stop(self) -> None:
        """Lets ``run`` end."""
        self._stop.set()

    def sync_peers(self) -> None:
        """Takes over the list of peers; connections of peers that may no longer be here are closed."""
        peers = self._shared.peers()
        self._admitted = frozenset(peer.peer_id for peer in peers)
        if self._dialer is not None:
            self._dialer.set_peers(peers)
        for connection in self._swarm.get_connections():
            if not self._admits(connection.muxed_conn.peer_id):
                self._swarm.abort(connection)

    def sync_topics(self) -> None:
        """Takes over the subscribed topics."""
        self._topics_changed.set()

    def wake_publisher(self) -> None:
        """There is something in the outbox."""
        self._published.set()

    def send(self, call: Call) -> None:
        """Sends a request."""
        if self._channels is None:
            call.finish(NotAvailable("the network is starting"))
        else:
            self._channels.send(call)

    def give_up(self, call: Call) -> None:
        """Forgets a request."""
        if self._channels is not None:
            self._channels.give_up(call.peer_id, call.number)

    def _admits(self, peer_id: ID) -> bool:
        return self._config.allow_unknown or str(peer_id) in self._admitted

    async def _publish(self) -> None:
        while True:
            message = self._shared.outbox.take()
            if message is None:
                self._published = trio.Event()
                await self._published.wait()
            else:
                await self._pubsub.publish(*message)
                # Publishing does not yield; a burst must not keep the streams waiting.
                await trio.lowlevel.checkpoint()

    async def _follow_topics(self) -> None:
        subscribed: set[str] = set()
        while True:
            self._topics_changed = trio.Event()
            wanted = self._shared.inbox.topics()
            for topic in sorted(wanted - subscribed):
                await self._pubsub.subscribe(topic)
            for topic in sorted(subscribed - wanted):
                await self._pubsub.unsubscribe(topic)
            subscribed = set(wanted)
            await self._topics_changed.wait()

    def connection_changed(self, connection: INetConn, *, opened: bool) -> None:
        """Tells everybody who follows connections."""
        muxed_conn = connection.muxed_conn
        peer_id = muxed_conn.peer_id
        if self._channels is None or self._dialer is None or self._stop.is_set():
            return
        if opened:
            self._connections[peer_id] = connection
            self._channels.opened(peer_id, muxed_conn)
        elif self._connections.get(peer_id) is connection:
            del self._connections[peer_id]
            self._channels.closed(peer_id)
        self._dialer.changed(peer_id)
        self._shared.show_connected(tuple(sorted(str(peer_id) for peer_id in self._connections)))

    async def _reconcile(self) -> None:
        """Finds connections that went without a notification, which libp2p loses when the task that closes is cut."""
        while True:
            await trio.sleep(_RECONCILE_SECONDS)
            live = self._swarm.get_connections()
            for connection in [one for one in self._connections.values() if one not in live]:
                self.connection_changed(connection, opened=False)
            self._pubsub.forget_stale()


class _Notifee(INotifee):
    """Turns libp2p's notifications into calls of the session."""

    def __init__(self, session: Session):
        self._session = session

    async def connected(self, network: INetwork, conn: INetConn) -> None:  # noqa: ARG002
        self._session.connection_changed(conn, opened=True)

    async def disconnected(self, network: INetwork, conn: INetConn) -> None:  # noqa: ARG002
        self._session.connection_changed(conn, opened=False)

    async def opened_stream(self, network: INetwork, stream: INetStream) -> None:
        """Of no interest."""

    async def closed_stream(self, network: INetwork, stream: INetStream) -> None:
        """Of no interest."""

    async def listen(self, network: INetwork, multiaddr: Any) -> None:
        """Of no interest."""

    async def listen_close(self, network: INetwork, multiaddr: Any) -> None:
        """Of no interest."""


async def _watch(manager: ManagerAPI) -> None:
    """Makes a breakdown of a service that ends without a word."""
    await manager.wait_finished()
    raise RuntimeError("a libp2p service has ended")


def _announced(config: Libp2pConfig) -> list[Any] | None:
    """What peers are told; None lets libp2p tell them what it listens on, which must not be 0.0.0.0."""
    if config.announce:
        return [announced(address) for address in config.announce]
    return [] if config.listen_host in ("0.0.0.0", "::") else None  # noqa: S104 - a comparison
