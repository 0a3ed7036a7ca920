"""The golden vectors: values with their one encoding, content id and signatures, and encodings that must be refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from agentworld_core.codec import encode, encode_value
from agentworld_core.consensus.certificates import vote_in
from agentworld_core.errors import RETRYABLE_WIRE_CODES, WIRE_CODES
from agentworld_core.hashing import content_id
from agentworld_core.messages import CommitCertificate
from agentworld_core.signing import Ed25519Signer, key_id_of, signed_bytes
from wirespec.refusals import refusals, unverifiable
from wirespec.samples import EVERY_KIND_OF_DATA, SmallWorld, signer, signers, smallest, world_samples
from wirespec.schema import all_messages

SAFE_INTEGER = 2**53 - 1
"""The largest integer that every reader of JSON keeps exact; larger ones are written as text."""

ABOUT = (
    "Made by hack/generate-wire-docs; docs/wire.md says what it means. In values, {'$bytes': hex} is a byte string, "
    "{'$int': text} an integer beyond 2^53 - 1, and an object with '$message' a message of that name."
)


def vectors() -> dict[str, Any]:
    """Returns the whole file."""
    messages = all_messages()
    world = SmallWorld()
    by_type: dict[type[Any], list[tuple[str, Any]]] = {message.cls: [] for message in messages.values()}
    for case, value in world_samples(world):
        by_type[type(value)].append((case, value))
    return {
        "about": ABOUT,
        "schema": [
            {
                "number": message.number,
                "name": message.name,
                "fields": [{"name": name, **kind.as_json()} for name, kind in message.fields],
            }
            for message in messages.values()
        ],
        "wire_codes": {code: {"retryable": code in RETRYABLE_WIRE_CODES} for code in sorted(WIRE_CODES)},
        "hashes": [
            {"bytes": data.hex(), "content_id": content_id(data)}
            for data in (b"", b"hello-blob", bytes(range(256)) * 8)
        ],
        "keys": [_key(signer(name), name) for name in ("gov", "a", "ada")],
        "values": [_value(value) for value in _plain_values()],
        "messages": [
            {"number": message.number, "name": message.name, "case": case, **_message(value)}
            for message in messages.values()
            for case, value in [*by_type[message.cls], ("the smallest that the rules allow", smallest(message))]
        ],
        "unverifiable": list(unverifiable(world)),
        "refusals": list(refusals(world)),
    }


def as_json(value: Any) -> Any:
    """Returns a value in the form of the file, which says of everything what it is."""
    if isinstance(value, bytes):
        return {"$bytes": value.hex()}
    if type(value) is int and abs(value) > SAFE_INTEGER:
        return {"$int": str(value)}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}
    if hasattr(value, "SCHEMA_NAME"):
        names = next(message.names for message in all_messages().values() if message.cls is type(value))
        return {"$message": value.SCHEMA_NAME, **{name: as_json(getattr(value, name)) for name in names}}
    return value


def _plain_values() -> Iterator[Any]:
    for items in (EVERY_KIND_OF_DATA[name] for name in ("int", "neg", "text", "bytes")):
        yield from items
    yield from (None, True, False, [], {}, [1, 2], ["a1", "a2"], list(range(24)))
    yield {"b": 1, "a": 2, "aa": 0, "": 3, "é": 4, "z": 5}
    yield EVERY_KIND_OF_DATA


def _value(value: Any) -> dict[str, Any]:
    data = encode_value(value)
    return {"value": as_json(value), "encoding": data.hex(), "content_id": content_id(data)}


def _message(value: Any) -> dict[str, Any]:
    data = encode(value)
    result = {"value": as_json(value), "encoding": data.hex(), "content_id": content_id(data)}
    signatures = list(_signatures(value))
    return {**result, "signatures": signatures} if signatures else result


def _signatures(value: Any) -> Iterator[dict[str, str]]:
    """Yields every signature that the message carries for itself, with the bytes that it covers."""
    if isinstance(value, CommitCertificate):
        for vote in value.votes:
            yield _signature(signers()[vote.key_id], signed_bytes(vote_in(value, vote)), vote.signature)
    elif hasattr(value, "signatures"):
        for item in value.signatures:
            yield _signature(signers()[item.key_id], signed_bytes(value), item.signature)
    elif hasattr(value, "world_id") and hasattr(value, "signature") and value.signature:
        key_id = value.key_id if hasattr(value, "key_id") else key_id_of(value.public_key)
        yield _signature(signers()[key_id], signed_bytes(value), value.signature)


def _signature(key: Ed25519Signer, covered: bytes, signature: bytes) -> dict[str, str]:
    return {**_key(key), "signed_bytes": covered.hex(), "signature": signature.hex()}


def _key(key: Ed25519Signer, name: str | None = None) -> dict[str, str]:
    known = {"seed": key.seed.hex(), "public_key": key.public_key.hex(), "key_id": key.key_id}
    return known if name is None else {"name": name, **known}
