"""The network as the rest of the node sees it: lossy gossip on topics, requests to one peer, and who is connected.

Everything here is on the asyncio side. Gossip is best effort: messages may be lost, repeated never, reordered at
times; whoever needs more repairs it by asking again. Requests either answer or raise one of the errors below within
their timeout. Who may connect is decided by the list of peers and ``allow_unknown``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from agentworld_core.errors import RETRYABLE_WIRE_CODES, AgentWorldError, InvalidField, NotAvailable

MIB = 1024 * 1024

GossipHandler = Callable[[str, bytes], None]
RequestHandler = Callable[[str, bytes], Awaitable[bytes]]


class PeerUnavailable(NotAvailable):
    """The peer is not connected, or the connection broke before the answer; whether it acted is not known."""

    code = "peer_unavailable"


class RequestFailed(AgentWorldError):
    """The peer answered with an error; its code, coarse wire code and words are kept."""

    code = "request_failed"
    http_status = 502

    def __init__(self, message: str, *, remote_code: str, remote_wire: str):
        super().__init__(message)
        self.remote_code = remote_code
        self.remote_wire = remote_wire

    @property
    def retryable(self) -> bool:
        """Follows from the peer's wire code, never from what the peer claims about it."""
        return self.remote_wire in RETRYABLE_WIRE_CODES

    def as_dict(self) -> dict[str, object]:
        return super().as_dict() | {"remote_code": self.remote_code}


class ProtocolUnavailable(RequestFailed):
    """The peer does not serve this protocol."""

    code = "protocol_unavailable"


@dataclass(frozen=True)
class Peer:
    """A peer and where to dial it: addresses are ``host:port``, the host a DNS name, an IPv4 or a ``[IPv6]``."""

    peer_id: str
    addresses: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for address in self.addresses:
            split_address(address)


@dataclass(frozen=True)
class Limits:
    """What one network may hold and send; whatever is over a limit is refused or dropped and counted.

    Sizes in bytes, times in seconds. Queues are bounded in messages and in bytes, whichever is reached first.
    """

    publish_bytes: int = MIB - 8 * 1024
    request_bytes: int = 8 * MIB
    queue_messages: int = 1024
    queue_bytes: int = 16 * MIB
    serve_at_once: int = 256
    serve_per_peer: int = 64
    serve_seconds: float = 60.0
    requests_per_peer: int = 256


class Network(Protocol):
    """A node's place on the network. All methods are called on, and all handlers run on, one asyncio loop."""

    peer_id: str

    async def start(self) -> None:
        """Listens and begins to dial; raises NotAvailable when the address cannot be used."""

    async def stop(self) -> None:
        """Ends within seconds, leaving no thread or socket; requests under way raise PeerUnavailable. Idempotent."""

    async def publish(self, topic: str, payload: bytes) -> None:
        """Gives a message to the gossip of a topic; lost messages are counted, not reported. Raises TooLarge."""

    def subscribe(self, topic: str, handler: GossipHandler) -> Callable[[], None]:
        """Calls ``handler(author, payload)`` for messages of others until the returned function is called.

        Every subscription has a bounded queue of its own; when it is full the oldest message goes.
        """

    async def request(self, peer_id: str, protocol: str, payload: bytes, *, timeout: float) -> bytes:  # noqa: ASYNC109
        """Returns the peer's answer; raises PeerUnavailable, TimedOut, TooLarge, Busy or RequestFailed."""

    def serve(self, protocol: str, handler: RequestHandler) -> None:
        """Answers requests of a protocol with ``await handler(peer_id, payload)``; the last registration wins.

        An AgentWorldError raised by the handler reaches the requester as RequestFailed with the same code.
        """

    def set_peers(self, peers: Sequence[Peer]) -> None:
        """Replaces the peers to stay connected with; peers that are gone from the list are no longer dialled."""

    def connected(self) -> tuple[str, ...]:
        """The peer ids that have an open connection, sorted."""

    def counters(self) -> Mapping[str, int]:
        """What happened since the start; the names are ``COUNTERS`` of ``agentworld_node.network.counters``."""


def split_address(address: str) -> tuple[str, int]:
    """Splits ``host:port`` (an IPv6 host in brackets); raises InvalidField that says what would be right."""
    host, _, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not host or not port.isdecimal() or not 0 < int(port) < 65536 or any(c in host for c in "/ \t\n[]"):
        raise InvalidField("is not an address", field="address", value=address, remedy="use host:port or [ipv6]:port")
    return host, int(port)
