"""Runs served handlers with bounded concurrency; every request gets exactly one reply, whatever the handler does.

A reply is a status and a body. The body of an error is three short texts (wire code, stable code, message), each
with a two-byte length, so that it needs no codec and cannot be misread.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from agentworld_core.errors import WIRE_CODES, AgentWorldError, Busy, NotAvailable, TimedOut, TooLarge
from agentworld_node.network.counters import Counters
from agentworld_node.network.port import Limits, ProtocolUnavailable, RequestFailed, RequestHandler

logger = logging.getLogger(__name__)

_TEXT_LIMITS = (32, 64, 1024)


@dataclass(frozen=True)
class Reply:
    """The one answer to a request: the value, or an encoded error."""

    ok: bool
    body: bytes

    def value(self) -> bytes:
        """Returns the value; raises RequestFailed with the peer's code, or ProtocolUnavailable."""
        if self.ok:
            return self.body
        texts = _decode_texts(self.body)
        if texts is None or texts[0] not in WIRE_CODES:
            raise RequestFailed(
                "the peer's error does not parse", remote_code="malformed", remote_wire="ERR_BAD_REQUEST"
            )
        wire, code, message = texts
        kind = ProtocolUnavailable if code == ProtocolUnavailable.code else RequestFailed
        raise kind(message, remote_code=code, remote_wire=wire)


def reply_of(error: AgentWorldError) -> Reply:
    """The reply that carries an error to the requester; long messages are cut."""
    # An error that a peer gave us is passed on with the peer's codes, so that its cause is not lost on the way.
    wire, code = (
        (error.remote_wire, error.remote_code) if isinstance(error, RequestFailed) else (error.wire, error.code)
    )
    body = b""
    for text, limit in zip((wire, code, str(error)), _TEXT_LIMITS, strict=True):
        data = text.encode("utf-8", "replace")[:limit].decode("utf-8", "ignore").encode()
        body += len(data).to_bytes(2, "big") + data
    return Reply(ok=False, body=body)


def _decode_texts(body: bytes) -> tuple[str, str, str] | None:
    texts = []
    position = 0
    for limit in _TEXT_LIMITS:
        length = int.from_bytes(body[position : position + 2], "big")
        data = body[position + 2 : position + 2 + length]
        if len(data) != length or length > limit or position + 2 > len(body):
            return None
        try:
            texts.append(data.decode())
        except UnicodeDecodeError:
            return None
        position += 2 + length
    return (texts[0], texts[1], texts[2]) if position == len(body) else None


class _NotServed(AgentWorldError):
    code = ProtocolUnavailable.code
    wire = "ERR_UNSUPPORTED"


class _Broken(AgentWorldError):
    code = "internal"
    wire = NotAvailable.wire


class Server:
    """The handlers of one network and the requests they are working on; lives on the asyncio loop."""

    def __init__(self, *, limits: Limits, counters: Counters):
        self._limits = limits
        self._counters = counters
        self._handlers: dict[str, RequestHandler] = {}
        self._tasks: set[asyncio.Task[Reply]] = set()
        self._per_peer: Counter[str] = Counter()
        self._open = True

    def serve(self, protocol: str, handler: RequestHandler) -> None:
        """Registers the handler of a protocol; the last registration wins."""
        self._handlers[protocol] = handler

    def open(self) -> None:
        """Accepts requests (again)."""
        self._open = True

    async def close(self) -> None:
        """Cancels the handlers that are running and waits for their end; requests from now on are refused."""
        self._open = False
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def dispatch(
        self, peer_id: str, protocol: str, payload: bytes, *, reply: Callable[[Reply], None]
    ) -> Callable[[], None]:
        """Starts the handler and calls ``reply`` once with the outcome; the returned function gives up the request."""
        refusal = self._refusal(peer_id, protocol)
        if refusal is not None:
            reply(reply_of(refusal))
            return lambda: None
        self._per_peer[peer_id] += 1
        task = asyncio.get_running_loop().create_task(self._outcome(peer_id, protocol, payload))
        self._tasks.add(task)

        # In a callback, because a task that is cancelled before its first step runs none of its code.
        def finished(done: asyncio.Task[Reply]) -> None:
            self._tasks.discard(done)
            self._per_peer -= Counter((peer_id,))
            if done.cancelled():
                reply(reply_of(NotAvailable("the request was given up")))
            else:
                self._counters.add("requests_served")
                reply(done.result())

        task.add_done_callback(finished)

        def give_up() -> None:
            task.cancel()

        return give_up

    def _refusal(self, peer_id: str, protocol: str) -> AgentWorldError | None:
        if protocol not in self._handlers:
            return _NotServed(f"this node does not serve {protocol[:100]}")
        if not self._open:
            return NotAvailable("this node is stopping")
        if len(self._tasks) >= self._limits.serve_at_once or self._per_peer[peer_id] >= self._limits.serve_per_peer:
            self._counters.add("requests_refused")
            return Busy("as many requests as allowed are being served")
        return None

    async def _outcome(self, peer_id: str, protocol: str, payload: bytes) -> Reply:
        deadline = asyncio.timeout(self._limits.serve_seconds)
        try:
            async with deadline:
                value = await self._handlers[protocol](peer_id, payload)
        except AgentWorldError as error:
            return reply_of(error)
        except Exception as error:
            if isinstance(error, TimeoutError) and deadline.expired():
                return reply_of(TimedOut(f"{protocol} did not answer within {self._limits.serve_seconds:g} s"))
            self._counters.add("handler_errors")
            logger.exception("the handler of %s failed", protocol)
            return reply_of(_Broken(f"the handler of {protocol} failed"))
        if len(value) > self._limits.request_bytes:
            return reply_of(TooLarge(f"the answer has {len(value)} bytes, more than {self._limits.request_bytes}"))
        return Reply(ok=True, body=value)
