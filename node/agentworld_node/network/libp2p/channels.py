"""Requests over one long-lived framed stream per peer and direction, which also shows whether the peer is alive.

Opening a stream costs several round trips and a negotiation that a frozen peer drags out to ten seconds, so every
connection gets its request stream once. Requests carry numbers and overtake each other; a peer that is silent for
``_SILENT_SECONDS`` although it was pinged loses the connection.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import trio
from libp2p.abc import IHost, IMuxedConn, INetStream
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID

from agentworld_core.errors import AgentWorldError, Busy
from agentworld_core.names import PROTOCOL_PREFIX
from agentworld_node.network.counters import Counters
from agentworld_node.network.libp2p.frames import (
    FrameError,
    FrameReader,
    FrameWriter,
    Kind,
    Message,
    parse_request,
    request_body,
)
from agentworld_node.network.libp2p.swarm import bare_stream
from agentworld_node.network.port import Limits, PeerUnavailable
from agentworld_node.network.serving import Reply, reply_of

logger = logging.getLogger(__name__)

PROTOCOL = TProtocol(PROTOCOL_PREFIX)
_READ_BYTES = 64 * 1024
_OPEN_SECONDS = 9.0
_REOPEN_SECONDS = 2.0
_PING_SECONDS = 4.0
_SILENT_SECONDS = 12.0
_PROTOCOL_BYTES = 512


@dataclass(frozen=True)
class Call:
    """A request to a peer; ``finish`` is called once, with the reply or the reason why there is none."""

    number: int
    peer_id: ID
    protocol: str
    payload: bytes
    finish: Callable[[Reply | AgentWorldError], None]


@dataclass(eq=False)
class InboundCall:
    """A request of a peer; ``respond`` must be called in the trio thread, ``give_up`` belongs to whoever serves."""

    peer_id: str
    protocol: str
    payload: bytes
    respond: Callable[[Reply], None]
    give_up: Callable[[], None] | None = None


@dataclass(frozen=True)
class Service:
    """Where inbound requests go; both functions return at once and may be called in the trio thread."""

    begin: Callable[[InboundCall], None]
    abandon: Callable[[InboundCall], None]


class FramedStream:
    """A libp2p stream that carries messages; ends with an exception, never in silence."""

    def __init__(self, stream: INetStream, limits: Limits):
        self._stream = bare_stream(stream)
        self._reader = FrameReader(
            message_bytes=limits.request_bytes + _PROTOCOL_BYTES, open_messages=limits.requests_per_peer
        )
        self._writer = FrameWriter(queue_bytes=4 * limits.request_bytes)
        self._wake = trio.Event()
        self.scope = trio.CancelScope()
        self.heard_at = trio.current_time()

    def send(self, message: Message) -> bool:
        """Queues a message; False when the peer takes them too slowly."""
        sent = self._writer.put(message)
        self._wake.set()
        return sent

    async def run(self, take: Callable[[Message], None]) -> None:
        """Calls ``take`` for every message until the stream breaks or ``scope`` is cancelled."""
        with self.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                while data := await self._stream.read(_READ_BYTES):
                    self.heard_at = trio.current_time()
                    for message in self._reader.feed(data):
                        take(message)
                raise EOFError("the peer closed the stream")

    async def _write(self) -> None:
        while True:
            data = self._writer.take()
            if data:
                await self._stream.write(data)
            else:
                self._wake = trio.Event()
                await self._wake.wait()


@dataclass
class _Channel:
    scope: trio.CancelScope
    framed: FramedStream | None = None
    calls: dict[int, Call] = field(default_factory=dict)


class Channels:
    """The request streams of a host, to and from all connected peers."""

    def __init__(
        self,
        host: IHost,
        *,
        nursery: trio.Nursery,
        limits: Limits,
        counters: Counters,
        service: Service,
        abort: Callable[[IMuxedConn], object],
    ):
        self._host = host
        self._nursery = nursery
        self._limits = limits
        self._counters = counters
        self._service = service
        self._abort = abort
        self._channels: dict[ID, _Channel] = {}
        self._inbound: dict[ID, FramedStream] = {}

    def opened(self, peer_id: ID, muxed_conn: IMuxedConn) -> None:
        """A connection has come: opens the request stream on it."""
        self.closed(peer_id)
        channel = self._channels[peer_id] = _Channel(trio.CancelScope())
        self._nursery.start_soon(self._keep, peer_id, channel, muxed_conn)

    def closed(self, peer_id: ID) -> None:
        """The connection is gone: every request under way on it fails."""
        channel = self._channels.pop(peer_id, None)
        if channel is not None:
            channel.scope.cancel()
            _fail_all(channel, peer_id)

    def send(self, call: Call) -> None:
        """Sends a request, or finishes it at once when that cannot be done."""
        channel = self._channels.get(call.peer_id)
        if channel is None:
            call.finish(PeerUnavailable(f"{call.peer_id} is not connected"))
            return
        channel.calls[call.number] = call
        if channel.framed is not None:
            _put(channel, call)

    def give_up(self, peer_id: ID, number: int) -> None:
        """Forgets a request and tells the peer, who need not work on it any longer."""
        channel = self._channels.get(peer_id)
        call = channel.calls.pop(number, None) if channel is not None else None
        if channel is not None and call is not None and channel.framed is not None:
            channel.framed.send(Message(Kind.CANCEL, number))

    async def _keep(self, peer_id: ID, channel: _Channel, muxed_conn: IMuxedConn) -> None:
        with channel.scope:
            while True:
                stream = await self._open(peer_id, muxed_conn)
                if stream is not None:
                    await self._use(stream, channel)
                    self._abort(muxed_conn)
                # A peer that serves no requests may still gossip.
                _fail_all(channel, peer_id)
                await trio.sleep(_REOPEN_SECONDS)

    async def _open(self, peer_id: ID, muxed_conn: IMuxedConn) -> INetStream | None:
        async def watch() -> None:
            await trio.sleep(_OPEN_SECONDS)
            self._abort(muxed_conn)

        # Not by cancelling: libp2p then resets the stream, shielded, and waits for a peer that does not read.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            stream = None
            try:
                stream = await self._host.new_stream(peer_id, [PROTOCOL])
            except Exception as error:  # noqa: BLE001 - libp2p has no common base for broken streams
                logger.debug("no request stream to %s: %r", peer_id, error)
            nursery.cancel_scope.cancel()
        return stream

    async def _use(self, stream: INetStream, channel: _Channel) -> None:
        framed = FramedStream(stream, self._limits)
        for call in list(channel.calls.values()):
            _put(channel, call, framed)
        channel.framed = framed
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_ping, framed)
                await framed.run(lambda message: self._answered(channel, message))
                nursery.cancel_scope.cancel()
        except* Exception as errors:  # noqa: BLE001 - as above; what the reader and the writer met
            # With a star: it may come together with a cancellation, which has to go on, and alone.
            self._broken(stream, errors)
        finally:
            channel.framed = None

    def _answered(self, channel: _Channel, message: Message) -> None:
        if message.kind in (Kind.VALUE, Kind.ERROR):
            call = channel.calls.pop(message.number, None)
            if call is not None:
                call.finish(Reply(ok=message.kind is Kind.VALUE, body=message.body))
        elif message.kind is not Kind.PONG:
            raise FrameError(f"a {message.kind.name} from a server")

    async def accept(self, stream: INetStream) -> None:
        """Serves the requests of a peer until its stream breaks; a second stream of the peer ends the first."""
        peer_id = stream.muxed_conn.peer_id
        framed = FramedStream(stream, self._limits)
        previous = self._inbound.get(peer_id)
        if previous is not None:
            previous.scope.cancel()
        self._inbound[peer_id] = framed
        serving: dict[int, InboundCall] = {}
        try:
            await framed.run(lambda message: self._asked(framed, str(peer_id), serving, message))
        except* Exception as errors:  # noqa: BLE001 - as above
            self._broken(stream, errors)
        finally:
            for inbound in serving.values():
                self._service.abandon(inbound)
            if self._inbound.get(peer_id) is framed:
                del self._inbound[peer_id]
                self._abort(stream.muxed_conn)

    def _asked(self, framed: FramedStream, peer_id: str, serving: dict[int, InboundCall], message: Message) -> None:
        number = message.number
        if message.kind is Kind.PING:
            if not framed.send(Message(Kind.PONG, number)):
                raise FrameError("pings and does not read")
        elif message.kind is Kind.CANCEL:
            if number in serving:
                self._service.abandon(serving.pop(number))
        elif message.kind is Kind.REQUEST and number not in serving:
            protocol, payload = parse_request(message.body)

            def respond(reply: Reply) -> None:
                if serving.pop(number, None) is not None:
                    _answer(framed, number, reply)

            held = sum(len(inbound.payload) for inbound in serving.values()) + len(payload)
            serving[number] = inbound = InboundCall(peer_id, protocol, payload, respond)
            if len(serving) > self._limits.serve_per_peer or held > 4 * self._limits.request_bytes:
                self._counters.add("requests_refused")
                respond(reply_of(Busy("as many requests as allowed are being served")))
            else:
                self._service.begin(inbound)
        else:
            raise FrameError(f"an unexpected {message.kind.name}")

    def _broken(self, stream: INetStream, errors: ExceptionGroup[Exception]) -> None:
        if errors.subgroup(FrameError) is not None:
            self._counters.add("malformed")
        logger.debug("the request stream with %s ended: %r", stream.muxed_conn.peer_id, errors)


def _put(channel: _Channel, call: Call, framed: FramedStream | None = None) -> None:
    framed = framed or channel.framed
    body = request_body(call.protocol, call.payload)
    if framed is not None and not framed.send(Message(Kind.REQUEST, call.number, body)):
        channel.calls.pop(call.number, None)
        call.finish(Busy(f"{call.peer_id} takes requests too slowly"))


def _answer(framed: FramedStream, number: int, reply: Reply) -> None:
    sent = framed.send(Message(Kind.VALUE if reply.ok else Kind.ERROR, number, reply.body))
    if not sent and not framed.send(Message(Kind.ERROR, number, reply_of(Busy("answers are taken too slowly")).body)):
        framed.scope.cancel()


def _fail_all(channel: _Channel, peer_id: ID) -> None:
    calls, channel.calls = channel.calls, {}
    for call in calls.values():
        call.finish(PeerUnavailable(f"the connection to {peer_id} broke, or it serves no requests"))


async def _ping(framed: FramedStream) -> None:
    number = 0
    while True:
        await trio.sleep(_PING_SECONDS)
        silent = trio.current_time() - framed.heard_at
        if silent > _SILENT_SECONDS:
            raise TimeoutError(f"silent for {silent:.0f} s")
        if silent > _PING_SECONDS / 2:
            number += 1
            framed.send(Message(Kind.PING, number))
