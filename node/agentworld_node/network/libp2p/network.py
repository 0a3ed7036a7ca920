"""The asyncio side of the libp2p adapter: the thread, the hand-over between the two loops, and the Network port."""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import trio

from agentworld_core.errors import AgentWorldError, Busy, InvalidField, NotAvailable, TimedOut, TooLarge
from agentworld_core.names import peer_id_of
from agentworld_node.network.counters import Counters
from agentworld_node.network.inbox import Inbox
from agentworld_node.network.libp2p.addresses import parse_peer_id
from agentworld_node.network.libp2p.channels import Call, InboundCall, Service
from agentworld_node.network.libp2p.outbox import Outbox
from agentworld_node.network.libp2p.session import Libp2pConfig, Session, Shared
from agentworld_node.network.libp2p.swarm import key_pair_of
from agentworld_node.network.port import GossipHandler, Limits, Peer, PeerUnavailable, RequestHandler
from agentworld_node.network.serving import Reply, Server

logger = logging.getLogger(__name__)

_START_SECONDS = 20.0
_STOP_SECONDS = 8.0
_RESTART_SECONDS = 1.0


class Libp2pNetwork:
    """A node on a libp2p network; implements the Network port."""

    def __init__(self, config: Libp2pConfig, *, limits: Limits | None = None):
        if len(config.seed) != 32:
            raise InvalidField("a network identity is a seed of 32 bytes", field="seed")
        self.peer_id = peer_id_of(key_pair_of(config.seed).public_key.to_bytes())
        self.port = config.listen_port
        self._config = config
        self._limits = limits or Limits()
        self._counters = Counters()
        self._inbox = Inbox(limits=self._limits, counters=self._counters)
        self._outbox = Outbox(self._limits)
        self._server = Server(limits=self._limits, counters=self._counters)
        self._peers: tuple[Peer, ...] = ()
        self._connected: tuple[str, ...] = ()
        self._numbers = itertools.count(1)
        self._calls: dict[asyncio.Future[Reply], str] = {}
        self._per_peer: Counter[str] = Counter()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._ended = asyncio.Event()
        self._stopping = threading.Event()
        self._session: Session | None = None
        self._token: trio.lowlevel.TrioToken | None = None

    # The port.

    async def start(self) -> None:
        if self._thread is not None:
            return
        self._loop = loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._stopping.clear()
        self._server.open()
        self._inbox.attach(self._call_asyncio)
        ready: asyncio.Future[None] = loop.create_future()
        self._thread = threading.Thread(target=self._run_thread, args=(ready,), name="libp2p", daemon=True)
        self._thread.start()
        try:
            async with asyncio.timeout(_START_SECONDS):
                await ready
        except BaseException as error:
            await self.stop()
            if isinstance(error, TimeoutError):
                raise NotAvailable(f"the network did not start within {_START_SECONDS:g} s") from error
            raise

    async def stop(self) -> None:
        thread = self._thread
        if thread is None:
            return
        self._stopping.set()
        self._post(Session.stop)
        for future in list(self._calls):
            if not future.done():
                future.set_exception(PeerUnavailable("this network is stopping"))
        self._inbox.detach()
        self._outbox.clear()
        await self._server.close()
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await self._ended.wait()
        except TimeoutError:
            self._counters.add("host_failures")
            logger.error("the network thread did not end within %g s and is left behind", _STOP_SECONDS)  # noqa: TRY400
        else:
            thread.join()
        self._thread = None
        self._connected = ()

    async def publish(self, topic: str, payload: bytes) -> None:
        if len(payload) > self._limits.publish_bytes:
            raise TooLarge(f"a message has {len(payload)} bytes, more than {self._limits.publish_bytes}")
        if self._token is None or not self._outbox.offer(topic, payload):
            self._counters.add("dropped_outbound")
            return
        self._counters.add("published")
        self._post(Session.wake_publisher)

    def subscribe(self, topic: str, handler: GossipHandler) -> Callable[[], None]:
        remove = self._inbox.subscribe(topic, handler)
        self._post(Session.sync_topics)

        def unsubscribe() -> None:
            remove()
            self._post(Session.sync_topics)

        return unsubscribe

    def serve(self, protocol: str, handler: RequestHandler) -> None:
        self._server.serve(protocol, handler)

    async def request(self, peer_id: str, protocol: str, payload: bytes, *, timeout: float) -> bytes:  # noqa: ASYNC109
        if len(payload) > self._limits.request_bytes:
            raise TooLarge(f"a request has {len(payload)} bytes, more than {self._limits.request_bytes}")
        if self._per_peer[peer_id] >= self._limits.requests_per_peer:
            raise Busy(f"{self._limits.requests_per_peer} requests to {peer_id} are under way")
        target = parse_peer_id(peer_id)
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

        def finish(outcome: Reply | AgentWorldError) -> None:
            self._call_asyncio(lambda: _settle(future, outcome))

        call = Call(next(self._numbers), target, protocol, payload, finish)
        self._counters.add("requests_sent")
        self._calls[future] = peer_id
        self._per_peer[peer_id] += 1
        try:
            return (await self._answer_to(call, future, timeout)).value()
        except TimedOut:
            self._counters.add("requests_timed_out")
            raise
        except AgentWorldError:
            self._counters.add("requests_failed")
            raise
        finally:
            del self._calls[future]
            self._per_peer -= Counter((peer_id,))

    def set_peers(self, peers: Sequence[Peer]) -> None:
        for peer in peers:
            parse_peer_id(peer.peer_id)
        self._peers = tuple(peer for peer in peers if peer.peer_id != self.peer_id)
        self._post(Session.sync_peers)

    def connected(self) -> tuple[str, ...]:
        return self._connected

    def counters(self) -> Mapping[str, int]:
        return self._counters.snapshot()

    # The asyncio side of requests.

    async def _answer_to(self, call: Call, future: asyncio.Future[Reply], timeout: float) -> Reply:  # noqa: ASYNC109
        if not self._post(lambda session: session.send(call)):
            raise PeerUnavailable("this network is not running")
        try:
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError:
            raise TimedOut(f"{call.peer_id} gave no answer in {timeout:g} s") from None
        finally:
            if not future.done() or future.cancelled():
                self._post(lambda session: session.give_up(call))

    def _begin(self, inbound: InboundCall) -> None:
        def begin() -> None:
            def reply(outcome: Reply) -> None:
                self._post(lambda _: inbound.respond(outcome))

            inbound.give_up = self._server.dispatch(inbound.peer_id, inbound.protocol, inbound.payload, reply=reply)

        self._call_asyncio(begin)

    def _abandon(self, inbound: InboundCall) -> None:
        self._call_asyncio(lambda: inbound.give_up() if inbound.give_up is not None else None)

    # Between the loops.

    def _call_asyncio(self, function: Callable[[], None]) -> None:
        """Runs something on the asyncio loop; nothing happens when the loop is gone."""
        if self._loop is not None:
            try:
                self._loop.call_soon_threadsafe(function)
            except RuntimeError:
                logger.debug("the event loop has ended")

    def _post(self, function: Callable[[Session], None]) -> bool:
        """Runs something in the trio loop; False when there is none."""
        session, token = self._session, self._token
        if session is None or token is None:
            return False

        def run() -> None:
            try:
                function(session)
            except Exception:  # Whatever is raised here would end the trio loop.
                self._counters.add("host_failures")
                logger.exception("a call into the network thread failed")

        try:
            token.run_sync_soon(run)
        except trio.RunFinishedError:
            return False
        return True

    def _run_thread(self, ready: asyncio.Future[None]) -> None:
        started = False

        def now_started(port: int) -> None:
            nonlocal started
            started = True
            self.port = port
            self._call_asyncio(lambda: None if ready.done() else ready.set_result(None))

        def failed(error: BaseException) -> None:
            self._call_asyncio(lambda: None if ready.done() else ready.set_exception(error))

        try:
            while not self._stopping.is_set():
                try:
                    trio.run(self._run_session, now_started)
                except Exception as error:
                    if not started:
                        failed(_first_cause(error))
                        return
                    self._counters.add("host_failures")
                    logger.exception("the libp2p host broke down and is started again")
                    self._stopping.wait(_RESTART_SECONDS)
        finally:
            self._call_asyncio(self._ended.set)

    async def _run_session(self, started: Callable[[int], None]) -> None:
        shared = Shared(
            limits=self._limits,
            counters=self._counters,
            inbox=self._inbox,
            outbox=self._outbox,
            service=Service(begin=self._begin, abandon=self._abandon),
            peers=lambda: self._peers,
            show_connected=self._show_connected,
        )
        self._session = session = Session(self._config, shared, port=self.port)
        self._token = trio.lowlevel.current_trio_token()
        try:
            if not self._stopping.is_set():
                await session.run(started)
        finally:
            self._session = self._token = None
            self._connected = ()

    def _show_connected(self, peer_ids: tuple[str, ...]) -> None:
        self._connected = peer_ids


def _settle(future: asyncio.Future[Reply], outcome: Reply | AgentWorldError) -> None:
    if future.done():
        return
    if isinstance(outcome, Reply):
        future.set_result(outcome)
    else:
        future.set_exception(outcome)


def _first_cause(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
