"""The names that a world uses on the network: topics, stream protocols, DHT keys, peer ids (runtime spec, 2.1)."""

from __future__ import annotations

from agentworld_core.ids import check_id

PROTOCOL_PREFIX = "/aw/rr/1.0.0"

TOPICS = (
    "action",
    "block",
    "head",
    "event",
    "membership",
    "membership.revoke",
    "membership.reconcile",
    "consensus.proposal",
    "consensus.offer",
    "consensus.vote",
    "consensus.evidence",
)

_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_ED25519_PEER_PREFIX = bytes.fromhex("002408011220")


def topic(world_id: str, suffix: str) -> str:
    """Returns the gossip topic ``aw.<world>.<suffix>``; the suffix is one of TOPICS."""
    if suffix not in TOPICS:
        raise ValueError(f"unknown topic suffix {suffix!r}")
    return f"aw.{check_id(world_id, field='world_id')}.{suffix}"


def protocol(method: str) -> str:
    """Returns the stream protocol id of a request method."""
    return f"{PROTOCOL_PREFIX}/{method}"


def head_key(world_id: str) -> str:
    """Returns the DHT key of a world's head."""
    return f"/aw/world/{check_id(world_id, field='world_id')}/head"


def providers_key(world_id: str, content_hash: str) -> str:
    """Returns the DHT key of the providers of a content id."""
    return f"/aw/world/{check_id(world_id, field='world_id')}/providers/{content_hash}"


def membership_key(world_id: str) -> str:
    """Returns the DHT key of a world's membership directory."""
    return f"/aw/world/{check_id(world_id, field='world_id')}/membership"


def peer_id_of(public_key: bytes) -> str:
    """Returns the libp2p peer id (base58 identity multihash, ``12D3Koo…``) of a 32-byte Ed25519 public key."""
    if len(public_key) != 32:
        raise ValueError("an Ed25519 public key has 32 bytes")
    return _base58(_ED25519_PEER_PREFIX + public_key)


def _base58(data: bytes) -> str:
    number = int.from_bytes(data, "big")
    digits = []
    while number:
        number, remainder = divmod(number, 58)
        digits.append(_BASE58[remainder])
    zeros = len(data) - len(data.lstrip(b"\0"))
    return _BASE58[0] * zeros + "".join(reversed(digits))
