"""Addresses between ``host:port``, sockets and libp2p's multiaddresses."""

from __future__ import annotations

import ipaddress
import socket

import trio
from libp2p.peer.id import ID
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from agentworld_core.errors import InvalidField, NotAvailable
from agentworld_node.network.port import split_address

_MOST_ADDRESSES = 4
_ED25519_PREFIX = bytes.fromhex("002408011220")


def tcp(host: str, port: int) -> Multiaddr:
    """The multiaddress of a TCP port; the host is an IP address or, for announcements, a DNS name."""
    return Multiaddr(f"/{_family(host)}/{host}/tcp/{port}")


def announced(address: str) -> Multiaddr:
    """The multiaddress of a ``host:port`` that other nodes are told to dial."""
    return tcp(*split_address(address))


async def resolve(address: str) -> list[Multiaddr]:
    """The multiaddresses to dial for a ``host:port``; raises OSError when the name does not resolve.

    libp2p's own resolver asks name servers directly and knows neither hosts files nor search domains.
    """
    host, port = split_address(address)
    found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    hosts = dict.fromkeys(str(info[4][0]) for info in found)
    return [tcp(ip, port) for ip in hosts][:_MOST_ADDRESSES]


def check_free(host: str, port: int) -> None:
    """Raises NotAvailable when the port cannot be listened on.

    libp2p listens with SO_REUSEPORT, which lets two processes share a port in silence.
    """
    family = socket.AF_INET6 if _family(host) == "ip6" else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise NotAvailable(f"cannot listen on {host}:{port}: {error}", remedy="choose another port or host") from error


def parse_peer_id(text: str) -> ID:
    """The libp2p peer id of an Ed25519 key; raises InvalidField when the text is not one."""
    try:
        peer_id = ID.from_base58(text)
    except ValueError:
        peer_id = ID(b"")
    if len(peer_id.to_bytes()) != len(_ED25519_PREFIX) + 32 or not peer_id.to_bytes().startswith(_ED25519_PREFIX):
        raise InvalidField("is not a peer id", field="peer_id", value=text, remedy="a peer id begins with 12D3Koo")
    return peer_id


def _family(host: str) -> str:
    try:
        return f"ip{ipaddress.ip_address(host).version}"
    except ValueError:
        return "dns"
