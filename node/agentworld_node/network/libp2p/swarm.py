"""The libp2p swarm with an admission rule, one connection per peer, and handlers that cannot bring it down.

What stock 0.8.1 does otherwise: an inbound connection keeps its slot until the whole swarm stops, so a node takes no
more after 250; a stream handler that raises ends the swarm; a second connection with a peer leaves gossip on the
first, dead or alive; closing a connection whose peer is frozen blocks on the last write.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from typing import Any

import trio
from libp2p.abc import IMuxedConn, IMuxedStream, INetConn, INetStream, IRawConnection
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.x25519 import create_new_key_pair as create_new_x25519_key_pair
from libp2p.custom_types import StreamHandlerFn, TProtocol
from libp2p.network.auto_connector import AutoConnector
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.exceptions import SwarmException
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.rcmgr import Direction
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_ID
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_ID
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.transport.tcp.tcp import TCP
from libp2p.transport.upgrader import TransportUpgrader

from agentworld_node.network.counters import Counters

logger = logging.getLogger(__name__)

# libp2p reports what peers do wrong as errors of ours; what matters of it is in the counters.
logging.getLogger("libp2p").setLevel(logging.CRITICAL)

# Two connections made within this time are the two ends dialling at once; later, the older one has lost its peer.
_SIMULTANEOUS_SECONDS = 3.0
_CLOSE_SECONDS = 4.0


class _NoAutoConnector(AutoConnector):
    """Dials nobody; stock dials whomever it has heard of until it has 150 connections, whatever its lower marks."""

    async def maybe_connect(self) -> None:
        """Does nothing."""


class AdmittingSwarm(Swarm):
    """Holds at most one connection per peer, and only with peers that ``admit`` lets in.

    When the two ends dial each other at the same time, the connection dialled by the smaller peer id stays, on both
    ends. Any other second connection replaces the first, because a peer dials only when it has none.
    """

    def __init__(
        self,
        peer_id: ID,
        *,
        peerstore: PeerStore,
        upgrader: TransportUpgrader,
        admit: Callable[[ID], bool],
        counters: Counters,
    ):
        config = ConnectionConfig(min_connections=0, low_watermark=0, inbound_upgrade_timeout=5.0)
        retry = RetryConfig(max_retries=0)
        super().__init__(peer_id, peerstore, upgrader, [TCP()], retry_config=retry, connection_config=config)
        self.auto_connector = _NoAutoConnector(self)
        self._admit = admit
        self._counters = counters
        self._gates: dict[ID, trio.Lock] = {}
        self._opened_at: dict[ID, float] = {}
        self._gone: dict[INetConn, trio.Event] = {}
        self._made: weakref.WeakSet[IMuxedConn] = weakref.WeakSet()

    async def add_conn(self, muxed_conn: IMuxedConn, direction: str = "unknown") -> SwarmConn:
        peer_id = muxed_conn.peer_id
        self._made.add(muxed_conn)
        if not self._admit(peer_id):
            self._counters.add("refused_peers")
            await _cut(muxed_conn)
            raise SwarmException(f"peer {peer_id} is not on the list")
        lock = self._gates.setdefault(peer_id, trio.Lock())
        try:
            async with lock:
                for existing in self.get_connections(peer_id):
                    if self._stays(existing, peer_id, newcomer=direction):
                        await _cut(muxed_conn)
                        raise SwarmException(f"peer {peer_id} is connected already")
                    with trio.move_on_after(_CLOSE_SECONDS):
                        await self.abort(existing).wait()
                self._opened_at[peer_id] = trio.current_time()
                return await super().add_conn(muxed_conn, direction)
        finally:
            if not lock.statistics().tasks_waiting and not lock.locked():
                self._gates.pop(peer_id, None)

    def _stays(self, existing: INetConn, peer_id: ID, *, newcomer: str) -> bool:
        existing_is_ours = getattr(existing, "direction", None) == Direction.OUTBOUND
        if existing.is_closed or existing_is_ours == (newcomer == "outbound"):
            return False
        young = trio.current_time() - self._opened_at.get(peer_id, 0.0) < _SIMULTANEOUS_SECONDS
        return young and existing_is_ours == (str(self.self_id) < str(peer_id))

    def abort(self, connection: INetConn) -> trio.Event:
        """Closes a connection, socket first, so that nothing waits for a peer that does not read.

        Works in a task of the swarm, because closing a connection ends whoever uses it. The event comes when everybody
        has been told that the connection is gone.
        """
        gone = self._gone.get(connection)
        if gone is None:
            gone = self._gone[connection] = trio.Event()
            if self.background_nursery is not None:
                self.background_nursery.start_soon(self._close, connection)
        return gone

    def abort_muxed(self, muxed_conn: IMuxedConn) -> None:
        """Aborts the connection that a stream belongs to."""
        for connection in self.get_connections(muxed_conn.peer_id):
            if connection.muxed_conn is muxed_conn and not connection.is_closed:
                self._counters.add("connections_aborted")
                self.abort(connection)

    async def abort_all(self) -> None:
        """Aborts all connections and waits until they are gone."""
        with trio.move_on_after(_CLOSE_SECONDS):
            for gone in [self.abort(connection) for connection in self.get_connections()]:
                await gone.wait()

    async def cut_all(self) -> None:
        """Closes the sockets of all connections there ever were; for when the swarm has broken down."""
        with trio.CancelScope(shield=True):
            for muxed_conn in list(self._made):
                await _cut(muxed_conn)

    async def _close(self, connection: INetConn) -> None:
        # Without a deadline: cancelled half-way, it would tell nobody that the connection is gone.
        try:
            await _cut(connection.muxed_conn)
            await connection.close()
        except Exception as error:  # noqa: BLE001 - the connection is of no use any more, whatever it says to that
            logger.debug("closing a connection: %r", error)
        with trio.move_on_after(_CLOSE_SECONDS):  # it may have been closing already
            await self._gone[connection].wait()
        self._gone.pop(connection).set()

    async def dial_peer(self, peer_id: ID) -> list[INetConn]:
        """Dials nobody: whoever wants a stream to a peer that is gone gets an error, and the dialer alone dials."""
        connections = [connection for connection in self.get_connections(peer_id) if not connection.is_closed]
        if not connections:
            raise SwarmException(f"peer {peer_id} is not connected")
        return connections

    async def notify_connected(self, conn: INetConn) -> None:
        self._counters.add("connections_opened")
        await super().notify_connected(conn)

    async def notify_disconnected(self, conn: INetConn) -> None:
        self._counters.add("connections_closed")
        await super().notify_disconnected(conn)
        if conn in self._gone:
            self._gone[conn].set()

    async def upgrade_inbound_raw_conn(self, raw_conn: IRawConnection, maddr: Any) -> IMuxedConn:
        muxed_conn = await super().upgrade_inbound_raw_conn(raw_conn, maddr)
        if isinstance(muxed_conn, Yamux):
            # The caller would hold the inbound slot until the swarm stops. By raising when the connection has ended
            # it is given back.
            await muxed_conn.event_closed.wait()
            raise SwarmException("the connection has ended")
        return muxed_conn

    def set_stream_handler(self, stream_handler: StreamHandlerFn) -> None:
        async def guarded(stream: INetStream) -> None:
            try:
                await stream_handler(stream)
            except Exception as error:  # Whatever a handler lets through would end the swarm.
                self._counters.add("malformed")
                logger.debug("a stream of %s ended: %r", stream.muxed_conn.peer_id, error, exc_info=True)
                await stream.reset()

        super().set_stream_handler(guarded)


def make_swarm(key_pair: KeyPair, *, admit: Callable[[ID], bool], counters: Counters) -> AdmittingSwarm:
    """Builds a swarm that speaks TCP, noise and yamux and nothing else, and dials nobody by itself."""
    peer_id = ID.from_pubkey(key_pair.public_key)
    peerstore = PeerStore()
    peerstore.add_key_pair(peer_id, key_pair)
    noise = NoiseTransport(key_pair, noise_privkey=create_new_x25519_key_pair().private_key)
    upgrader = TransportUpgrader(
        secure_transports_by_protocol={NOISE_ID: noise},
        muxer_transports_by_protocol={TProtocol(YAMUX_ID): Yamux},
    )
    return AdmittingSwarm(peer_id, peerstore=peerstore, upgrader=upgrader, admit=admit, counters=counters)


def key_pair_of(seed: bytes) -> KeyPair:
    """The Ed25519 key pair of a 32-byte seed."""
    return create_new_key_pair(seed)


def bare_stream(stream: INetStream) -> INetStream | IMuxedStream:
    """The stream below libp2p's bookkeeping, which takes a lock for every read and write."""
    return getattr(stream, "muxed_stream", stream)


async def _cut(muxed_conn: IMuxedConn) -> None:
    secured = getattr(muxed_conn, "secured_conn", None)
    if secured is not None:
        await secured.close()
