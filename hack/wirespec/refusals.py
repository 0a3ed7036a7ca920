"""What a decoder must refuse, and signatures that must not verify; every line says why."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import cbor2

from agentworld_core.codec import decode, decode_value, encode
from agentworld_core.codec_values import MAX_DEPTH
from agentworld_core.errors import AgentWorldError
from agentworld_core.messages import ActionEnvelope, Vote, WorldEvent
from agentworld_core.signing import signed_bytes, verify_bytes
from wirespec.samples import SmallWorld, signer, worked_action

_VALUES = (
    ("nothing", ""),
    ("a truncated list", "81"),
    ("a truncated text", "6261"),
    ("a length of 2^64 - 1 that is not there", "5bffffffffffffffff"),
    ("a list of 2^32 items that are not there", "9b0000000100000000"),
    ("a byte after the end", "8000"),
    ("two values", "0102"),
    ("an integer in one byte more than needed", "1801"),
    ("an integer in two bytes more than needed", "190018"),
    ("an integer in four bytes more than needed", "1a0000ffff"),
    ("an integer in eight bytes more than needed", "1b00000000ffffffff"),
    ("a negative integer in one byte more than needed", "3800"),
    ("a negative integer below -2^63", "3b8000000000000000"),
    ("a text length in one byte more than needed", "780161"),
    ("a list length in two bytes more than needed", "990000"),
    ("a half float", "f93c00"),
    ("a single float", "fa3f800000"),
    ("a double float", "fb3ff199999999999a"),
    ("not a number", "f97e00"),
    ("undefined", "f7"),
    ("an unassigned simple value", "e0"),
    ("a simple value in two bytes", "f820"),
    ("an unassigned additional information", "1c"),
    ("a break without a beginning", "ff"),
    ("an indefinite list", "9fff"),
    ("an indefinite map", "bfff"),
    ("an indefinite text", "7f6161ff"),
    ("an indefinite byte string", "5f4161ff"),
    ("the self-describe tag", "d9d9f780"),
    ("a tag of a time", "c101"),
    ("a big integer", "c249010000000000000000"),
    ("a tag of a regular expression", "d8236161"),
    ("a tag of a shared value", "d81c80"),
    ("an unassigned tag", "d9fffe00"),
    ("a map with a key twice", "a2616101616102"),
    ("a map whose keys are not sorted", "a2616201616102"),
    ("a map whose longer key comes first", "a262616101616202"),
    ("a map with an integer key", "a10102"),
    ("a map with a bytes key", "a1416101"),
    ("a map with a list as key", "a18001"),
    ("a map without its last value", "a16161"),
    ("text that is not UTF-8", "61ff"),
    ("text in overlong UTF-8", "62c080"),
    ("text with a surrogate", "63eda080"),
    ("text beyond U+10FFFF", "64f4908080"),
    ("a list in a list, one deeper than allowed", "81" * (MAX_DEPTH + 1) + "01"),
    ("a thousand lists in each other", "81" * 1000 + "01"),
)


def refusals(world: SmallWorld) -> Iterator[dict[str, Any]]:
    """Yields {decode_as, why, encoding, code} and, where it is not the default, the limit in bytes."""
    for why, encoding in _VALUES:
        yield _refusal("value", bytes.fromhex(encoding), why)
    yield _refusal("value", b"\x44abcd", "five bytes under a limit of four", limit=4)
    for why, data in _broken_actions():
        yield _refusal("action", data, why)
    yield _refusal("action", encode(world.polka[0]), "a vote")
    data = encode(worked_action())
    yield _refusal("action", data, "an action under a limit that is one byte less", limit=len(data) - 1)
    yield _refusal(
        "vote", _changed(world.polka[0], "block_hash", ""), "an empty text where null or a content id belongs"
    )
    yield _refusal("event", _changed(world.execution.events[0], "payload", 1.5), "a float in data")
    unsorted = encode(WorldEvent(1, 1, "", "sample", {"a": 1, "b": 2})).replace(
        b"\x61a\x01\x61b\x02", b"\x61b\x02\x61a\x01"
    )
    yield _refusal("event", unsorted, "data whose keys are not sorted")


def _broken_actions() -> Iterator[tuple[str, bytes]]:
    action = worked_action()
    plain = cbor2.loads(encode(action))
    names = [field.name for field in dataclasses.fields(ActionEnvelope)]
    yield "no schema number", cbor2.dumps(plain[1:])
    yield "another schema number", cbor2.dumps([10, *plain[1:]])
    yield "a schema number that nobody has", cbor2.dumps([2**32, *plain[1:]])
    yield "a negative schema number", cbor2.dumps([-1, *plain[1:]])
    yield "true as schema number", cbor2.dumps([True, *plain[1:]])
    yield "one field too few", cbor2.dumps(plain[:-1])
    yield "one field too many", cbor2.dumps([*plain, 0])
    yield "a map of fields", cbor2.dumps(dict(zip(names, plain[1:], strict=True)))
    yield "the schema number in two bytes", b"\x8b\x18\x01" + encode(action)[2:]
    yield "the head of the list in two bytes", b"\x98\x0b" + encode(action)[1:]
    yield "cut in the middle", encode(action)[:100]
    yield "a byte after the end", encode(action) + b"\x00"
    for field, value, why in _WRONG_FIELDS:
        yield f"{field}: {why}", _changed(action, field, value)


_WRONG_FIELDS: tuple[tuple[str, Any, str], ...] = (
    ("world_id", "", "empty"),
    ("world_id", "Aurora", "upper case"),
    ("world_id", "a" * 64, "64 characters"),
    ("world_id", "-a", "begins with a hyphen"),
    ("world_id", "a.b", "a dot"),
    ("world_id", "a/../b", "a path"),
    ("world_id", "a\x00", "NUL"),
    ("world_id", "a\n", "a line feed at the end"),
    ("world_id", "аurora", "a Cyrillic letter"),
    ("world_id", b"aurora", "bytes instead of text"),
    ("world_id", None, "null"),
    ("action_id", "A" * 64, "upper-case hex"),
    ("action_id", "0" * 63, "63 digits"),
    ("action_id", bytes(32), "raw bytes instead of hex"),
    ("action_kind", "agent..move", "an empty word"),
    ("action_kind", "a.b.c.d.e", "five words"),
    ("action_kind", "a" * 65, "65 characters"),
    ("payload_cbor", [1, 2, 3], "a list of integers instead of bytes"),
    ("payload_hash", "", "empty, which only action_id may be"),
    ("nonce", -1, "negative"),
    ("nonce", 2**64, "2^64"),
    ("nonce", True, "a boolean"),
    ("nonce", 1.0, "a float"),
    ("nonce", "7", "text"),
    ("timestamp_ms", 2**63, "2^63"),
    ("timestamp_ms", -(2**63) - 1, "below -2^63"),
    ("signature", bytes(63), "63 bytes"),
    ("signature", "", "text"),
    ("public_key", b"", "empty"),
    ("public_key", bytes(33), "33 bytes"),
)


def _changed(message: Any, field: str, value: Any) -> bytes:
    """Returns the encoding of a message in which one field holds something else, whatever it is."""
    plain = cbor2.loads(encode(message))
    plain[1 + [item.name for item in dataclasses.fields(message)].index(field)] = value
    return cbor2.dumps(plain)


_DECODERS: dict[str, Callable[..., object]] = {
    "value": decode_value,
    "action": lambda data, **limit: decode(ActionEnvelope, data, **limit),
    "vote": lambda data, **limit: decode(Vote, data, **limit),
    "event": lambda data, **limit: decode(WorldEvent, data, **limit),
}


def _refusal(decode_as: str, data: bytes, why: str, **limit: int) -> dict[str, Any]:
    try:
        found = _DECODERS[decode_as](data, **limit)
    except AgentWorldError as error:
        return {"decode_as": decode_as, "why": why, **limit, "code": error.code, "encoding": data.hex()}
    raise SystemExit(f"{why}: was accepted as {found!r}")


def unverifiable(world: SmallWorld) -> Iterator[dict[str, str]]:
    """Yields well-formed signatures that do not verify for the bytes that they should cover."""
    action, ada, vote = worked_action(), signer("ada"), world.polka[0]
    elsewhere = signed_bytes(dataclasses.replace(action, world_id="other"))
    as_vote = signed_bytes(action).replace(b"agentworld/v1/action/", b"agentworld/v1/vote/")
    cases = (
        ("made for another world", ada.sign(elsewhere), signed_bytes(action), ada.public_key),
        ("made for another kind of message", ada.sign(as_vote), signed_bytes(action), ada.public_key),
        ("over the encoding alone", ada.sign(encode(action)), signed_bytes(action), ada.public_key),
        ("over the content with its signature", ada.sign(b"agentworld/v1/action/aurora\0" + encode(action)),
         signed_bytes(action), ada.public_key),
        ("by another key", signer("bob").sign(signed_bytes(action)), signed_bytes(action), ada.public_key),
        ("of a precommit, on a prevote", world.vote("a", 2, world.block_hash).signature, signed_bytes(vote),
         signer("a").public_key),
        ("whose scalar has the group order added", _malleated(action.signature), signed_bytes(action), ada.public_key),
        ("that is all zeros", bytes(64), signed_bytes(action), ada.public_key),
    )  # fmt: skip
    for why, signature, covered, public_key in cases:
        if verify_bytes(public_key, signature, covered):
            raise SystemExit(f"a signature {why} verifies")
        yield {
            "why": why,
            "public_key": public_key.hex(),
            "signed_bytes": covered.hex(),
            "signature": signature.hex(),
        }


def _malleated(signature: bytes) -> bytes:
    """Returns the other form of a signature that a careless verifier takes (RFC 8032 section 8.4)."""
    order = 2**252 + 27742317777372353535851937790883648493
    return signature[:32] + (int.from_bytes(signature[32:], "little") + order).to_bytes(32, "little")
