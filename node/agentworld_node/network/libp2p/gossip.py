"""Gossipsub that keeps to bounds whatever peers send, and hands messages on without queues of its own.

What stock 0.8.1 does otherwise: an RPC that does not parse ends the swarm; each message starts a task, found again by
walking all tasks; a broken stream forgets the peer's subscriptions, which the peer never repeats; messages for peers
that do not subscribe are kept; delivery times are kept for ever; a PRUNE may name strangers to dial; one IWANT may ask
for a message ten thousand times.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable

import trio
from google.protobuf.message import DecodeError
from libp2p.abc import IHost, IMuxedConn, INetStream
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.mcache import MessageCache
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.rpc_queue import RpcQueue
from libp2p.pubsub.validators import signature_validator

from agentworld_node.network.counters import Counters
from agentworld_node.network.libp2p.relay import LazyRelay
from agentworld_node.network.libp2p.swarm import bare_stream

logger = logging.getLogger(__name__)

PROTOCOL = TProtocol("/meshsub/1.1.0")
RPC_BYTES = 1024 * 1024
_READ_BYTES = 64 * 1024
_TOGETHER = 32 * 1024  # short RPCs that wait share a write
_CACHE_BYTES = 32 * 1024 * 1024
_CONTROL_ENTRIES = 512  # in one RPC, and message ids in one IHAVE
_WANTED = 64  # messages that one IWANT gets
_TELL_SECONDS = 0.25  # a peer gets a message from its author sooner than it hears of it from others
_SEEN_SECONDS = 120.0
_SEEN_IDS = 200_000

Deliver = Callable[[str, str, bytes], None]
Abort = Callable[[IMuxedConn], object]


class MalformedRpc(Exception):
    """The peer's bytes are not a gossip RPC within the limits."""


class RecentIds:
    """Remembers message ids for at least ``seconds``, and no more than twice ``limit`` of them; needs no thread."""

    def __init__(self, *, seconds: float, limit: int, clock: Callable[[], float]):
        self._seconds = seconds
        self._limit = limit
        self._clock = clock
        self._turned = clock()
        self._young: set[bytes] = set()
        self._old: set[bytes] = set()

    def has(self, key: bytes) -> bool:
        """True when the id was added not long ago."""
        return key in self._young or key in self._old

    def add(self, key: bytes) -> bool:
        """Remembers the id; True when it is new."""
        now = self._clock()
        if now - self._turned > self._seconds or len(self._young) >= self._limit:
            self._old, self._young, self._turned = self._young, set(), now
        new = not self.has(key)
        self._young.add(key)
        return new


class BoundedCache(MessageCache):
    """Keeps the messages of the last seconds for peers that missed them, up to a number of bytes."""

    _held = 0

    def put(self, msg: rpc_pb2.Message) -> None:
        if self._held + len(msg.data) <= _CACHE_BYTES:
            self._held += len(msg.data)
            super().put(msg)

    def shift(self) -> None:
        super().shift()
        self._held = sum(len(kept.data) for kept in self.msgs.values())


class LeanGossip(GossipSub):
    """The gossipsub router without scores, peer exchange and adaptive modes, and with bounds on what is asked of it."""

    def __init__(self, *, counters: Counters):
        super().__init__(
            protocols=[PROTOCOL],
            degree=6,
            degree_low=4,
            degree_high=12,
            heartbeat_interval=1,
            heartbeat_initial_delay=0.1,
            adaptive_gossip_enabled=False,
            spam_protection_enabled=False,
            eclipse_protection_enabled=False,
            prune_back_off=10,
            unsubscribe_back_off=5,
        )
        self.scorer = None  # Peers are authenticated and listed; a score would only lock out honest ones.
        self.mcache = BoundedCache(self.mcache.window_size, self.mcache.history_size)
        self._counters = counters
        self.max_iwant_requests_per_second = 100.0  # one for each topic that a peer tells of, four times a second
        self._relay = LazyRelay()
        self._to_tell = trio.Event()

    async def publish(self, msg_forwarder: ID, pubsub_msg: rpc_pb2.Message) -> None:
        if self.pubsub is None:
            return
        self.mcache.put(pubsub_msg)
        rpc = rpc_pb2.RPC(publish=[pubsub_msg])
        author = ID(pubsub_msg.from_id)
        targets = self._get_peers_to_send(pubsub_msg.topicIDs, msg_forwarder=msg_forwarder, origin=author)
        message_id = self.pubsub.get_message_id(pubsub_msg)
        if author == self.pubsub.my_id:
            # To all who subscribe, not to the mesh alone, since others do not push on what comes from its author.
            targets = {*targets, *self.pubsub.peer_topics.get(pubsub_msg.topicIDs[0], ())}
        elif msg_forwarder == author and self.mcache.get(message_id) is not None:
            targets = self._relay.note(pubsub_msg.topicIDs[0], message_id, pubsub_msg.from_id, targets)
            self._to_tell.set()
        for peer_id in targets:
            self.send_rpc(peer_id, rpc)
        for topic in pubsub_msg.topicIDs:
            self.time_since_last_publish[topic] = int(time.time())

    async def tell_forever(self) -> None:
        """Tells peers, a little later, what came straight from its author and was not pushed to them."""
        while True:
            await self._to_tell.wait()
            await trio.sleep(_TELL_SECONDS)
            self._to_tell = trio.Event()
            for peer_id, topics in self._relay.take().items():
                for topic, ids in topics.items():
                    for start in range(0, len(ids), _WANTED):  # a peer asks at once for all that it is told at once
                        ihave = rpc_pb2.ControlIHave(topicID=topic, messageIDs=ids[start : start + _WANTED])
                        self.send_rpc(peer_id, rpc_pb2.RPC(control=rpc_pb2.ControlMessage(ihave=[ihave])))

    async def handle_rpc(self, rpc: rpc_pb2.RPC, sender_peer_id: ID) -> None:
        control = rpc.control
        entries = len(control.ihave) + len(control.iwant) + len(control.graft) + len(control.prune)
        if entries > _CONTROL_ENTRIES:
            raise MalformedRpc("too many control entries")
        for ihave in control.ihave:
            if ihave.topicID in self.mesh and len(ihave.messageIDs) <= _CONTROL_ENTRIES:
                await self.handle_ihave(ihave, sender_peer_id)
        wanted = list(dict.fromkeys(mid for iwant in control.iwant for mid in iwant.messageIDs))[:_WANTED]
        if wanted:
            for message in filter(None, map(self.mcache.get, wanted)):
                self._relay.asked(message.from_id, sender_peer_id, now=trio.current_time())
            await self.handle_iwant(rpc_pb2.ControlIWant(messageIDs=wanted), sender_peer_id)
        for graft in control.graft:
            if graft.topicID in self.mesh:
                await self.handle_graft(graft, sender_peer_id)
            else:
                await self.emit_prune(graft.topicID, sender_peer_id, False, False)
        for prune in control.prune:
            if prune.topicID in self.mesh:
                del prune.peers[:]
                await self.handle_prune(prune, sender_peer_id)

    def _handle_dropped_rpc(self, peer_id: ID, rpc: rpc_pb2.RPC, reason: str) -> None:
        if rpc.publish:
            self._counters.add("dropped_gossip", len(rpc.publish))
        super()._handle_dropped_rpc(peer_id, rpc, reason)


class GuardedPubsub(Pubsub):
    """Pubsub whose streams end with their connection, and whose messages go straight to ``deliver``.

    A gossip stream that breaks or carries garbage takes its connection with it: both ends then begin afresh, and none
    believes in subscriptions that the other has forgotten.
    """

    def __init__(self, host: IHost, router: LeanGossip, *, counters: Counters, deliver: Deliver, abort: Abort):
        super().__init__(host, router, strict_signing=True)
        # The stock cache sweeps in a thread of its own and has no bound.
        self.seen_messages.stop()
        self.seen_messages = RecentIds(  # type: ignore[assignment]
            seconds=_SEEN_SECONDS, limit=_SEEN_IDS, clock=trio.current_time
        )
        self.counter = time.time_ns()  # A restarted node must not repeat sequence numbers: peers remember them.
        self._counters = counters
        self._deliver = deliver
        self._abort = abort

    def forget_stale(self) -> None:
        """Begins afresh with peers whose gossip stream belongs to a connection that is gone.

        It happens when a connection is replaced before everybody has heard of its end: libp2p then keeps the dead
        stream and opens none on the new connection.
        """
        for peer_id, stream in list(self.peers.items()):
            live = [connection.muxed_conn for connection in self.host.get_network().get_connections(peer_id)]
            if stream.muxed_conn not in live:
                self._handle_dead_peer(peer_id)
                for muxed_conn in live:
                    self._abort(muxed_conn)

    async def _handle_new_peer(self, peer_id: ID) -> None:
        before = set(self.topic_ids)
        await super()._handle_new_peer(peer_id)
        # Between its first message and its place among the peers it is told of no change.
        now = set(self.topic_ids)
        queue = self.peer_queues.get(peer_id)
        if queue is not None and before != now:
            changes = [rpc_pb2.RPC.SubOpts(subscribe=topic in now, topicid=topic) for topic in sorted(before ^ now)]
            queue.push(rpc_pb2.RPC(subscriptions=changes))

    async def stream_handler(self, stream: INetStream) -> None:
        try:
            await self._read(stream)
        except Exception as error:  # noqa: BLE001 - libp2p has no common base for the ways in which a stream breaks
            if isinstance(error, MalformedRpc):
                self._counters.add("malformed")
            logger.debug("gossip from %s ended: %r", stream.muxed_conn.peer_id, error)
        self._abort(stream.muxed_conn)

    async def _read(self, stream: INetStream) -> None:
        forwarder = stream.muxed_conn.peer_id
        buffer = bytearray()
        bare = bare_stream(stream)
        while data := await bare.read(_READ_BYTES):
            buffer += data
            position = 0
            while (frame := _frame_at(buffer, position)) is not None:
                start, position = frame
                await self._take(forwarder, bytes(memoryview(buffer)[start:position]))
            del buffer[:position]

    async def _take(self, forwarder: ID, data: bytes) -> None:
        rpc = rpc_pb2.RPC()
        try:
            rpc.ParseFromString(data)
        except DecodeError as error:
            raise MalformedRpc(str(error)) from error
        if len(rpc.subscriptions) > self.max_subscriptions_per_peer:
            raise MalformedRpc(f"{len(rpc.subscriptions)} subscriptions")
        for message in rpc.publish:
            await self.push_msg(forwarder, message)
        for subscription in rpc.subscriptions:
            self.handle_subscription(forwarder, subscription)
        if rpc.HasField("control"):
            await self.router.handle_rpc(rpc, forwarder)

    async def push_msg(self, msg_forwarder: ID, msg: rpc_pb2.Message) -> None:
        own = msg_forwarder == self.my_id
        if len(msg.topicIDs) != 1 or len(msg.from_id) > 64 or len(msg.seqno) > 16:
            self._counters.add("malformed")
            return
        topic = msg.topicIDs[0]
        if not own and topic not in self.topic_ids:
            return
        # What comes back in our own name was said before a restart.
        if self._is_msg_seen(msg) or (not own and msg.from_id == self.my_id.to_bytes()):
            self._counters.add("duplicates")
            return
        if not own and not _is_signed(msg):
            self._counters.add("malformed")
            return
        self._mark_msg_seen(msg)
        if not own:
            self._deliver(topic, _author(msg.from_id), msg.data)
        await self.router.publish(msg_forwarder, msg)

    async def write_msg(self, stream: INetStream, rpc_msg: rpc_pb2.RPC) -> bool:
        # Into the queue like everything else: two writers would mix the pieces of large messages.
        queue = self.peer_queues.get(stream.muxed_conn.peer_id)
        return queue is not None and queue.push(rpc_msg)

    async def handle_sending_messages(self, peer_id: ID, stream: INetStream, queue: RpcQueue) -> None:
        bare = bare_stream(stream)
        try:
            while (rpc := await queue.pop()) is not None:
                data = _framed(rpc)
                while len(queue) and len(data) < _TOGETHER:
                    rpc = await queue.pop()
                    data += _framed(rpc) if rpc is not None else b""
                await bare.write(data)
        except Exception as error:  # noqa: BLE001 - as above
            logger.debug("gossip to %s ended: %r", peer_id, error)
            self._abort(stream.muxed_conn)
            self.forget_stale()


def _frame_at(buffer: bytearray, position: int) -> tuple[int, int] | None:
    """The start and end of the length-prefixed frame at a position, or None when it is not complete."""
    length = shift = 0
    for index in range(position, len(buffer)):
        length |= (buffer[index] & 0x7F) << shift
        if buffer[index] < 0x80:
            if length > RPC_BYTES:
                raise MalformedRpc(f"an RPC of {length} bytes")
            start = index + 1
            return (start, start + length) if start + length <= len(buffer) else None
        shift += 7
        if shift > 21:
            raise MalformedRpc("a length of more than four bytes")
    return None


def _framed(rpc: rpc_pb2.RPC) -> bytes:
    data = rpc.SerializeToString()
    return _varint(len(data)) + data


def _varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _is_signed(msg: rpc_pb2.Message) -> bool:
    try:
        return bool(signature_validator(msg))
    except Exception as error:  # noqa: BLE001 - whatever a key of somebody else's making provokes in the decoders
        logger.debug("a gossip message with an unreadable key: %r", error)
        return False


@functools.lru_cache(maxsize=1024)
def _author(from_id: bytes) -> str:
    return ID(from_id).to_base58()
