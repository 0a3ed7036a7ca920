"""The codec: one encoding a value, nothing else decodes."""

import dataclasses
import random
import tracemalloc
from typing import Any

import cbor2
import pytest

from agentworld_core import messages
from agentworld_core.codec import decode, decode_value, encode, encode_value, message, schema_table
from agentworld_core.errors import MalformedEncoding, TooLarge
from agentworld_core.hashing import content_id
from agentworld_core.messages import ActionEnvelope, Directory, KeyEntry, KeySignature, Member, Revocation, Vote

HASH = content_id(b"x")


def action(**changes: Any) -> ActionEnvelope:
    fields: dict[str, Any] = {
        "world_id": "w1",
        "action_id": HASH,
        "actor_id": "agent-1",
        "action_kind": "agent.move",
        "payload_cbor": b"\x80",
        "payload_hash": content_id(b"\x80"),
        "nonce": 7,
        "timestamp_ms": 123,
        "signature": bytes(64),
        "public_key": bytes(32),
    }
    return ActionEnvelope(**(fields | changes))


def random_value(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.randrange(8 if depth < 4 else 6)
    if kind == 0:
        return rng.choice([None, True, False])
    if kind in (1, 2):
        bits = rng.choice([4, 5, 8, 9, 16, 17, 32, 33, 63])
        number = rng.getrandbits(bits)
        return -number - 1 if rng.random() < 0.3 else number
    if kind == 3:
        return "".join(chr(rng.choice([65, 97, 233, 0x4E2D, 0x1F600])) for _ in range(rng.randrange(30)))
    if kind in (4, 5):
        return rng.randbytes(rng.choice([0, 1, 23, 24, 40]))
    if kind == 6:
        return [random_value(rng, depth + 1) for _ in range(rng.randrange(5))]
    return {f"k{rng.getrandbits(rng.choice([4, 12]))}": random_value(rng, depth + 1) for _ in range(rng.randrange(5))}


@pytest.mark.box("S1.4", "canonical")
def test_a_hundred_thousand_random_values_are_canonical_cbor():
    rng = random.Random(20_260_101)
    for _ in range(100_000):
        value = random_value(rng)
        encoded = encode_value(value)
        assert encoded == cbor2.dumps(value, canonical=True)
        assert decode_value(encoded) == value


def head(major: int, argument: int, width: int) -> bytes:
    """Returns a CBOR head with a chosen, possibly not shortest, width of its argument."""
    code = {1: 24, 2: 25, 4: 26, 8: 27}[width]
    return bytes([major << 5 | code]) + argument.to_bytes(width, "big")


def wider(encoded: bytes) -> list[bytes]:
    """Returns other CBOR encodings of the same small array: wider heads, indefinite length, tags, trailing bytes."""
    first = encoded[0]
    major, argument = first >> 5, first & 31
    assert argument < 24
    body = encoded[1:]
    variants = [head(major, argument, width) + body for width in (1, 2, 4, 8)]
    variants.append(bytes([major << 5 | 31]) + body + b"\xff")
    variants.append(b"\xd9\xd9\xf7" + encoded)
    variants.append(encoded + b"\x00")
    return variants


@pytest.mark.box("S1.4", "one-encoding")
def test_other_encodings_of_the_same_message_are_refused():
    encoded = encode(action())
    assert decode(ActionEnvelope, encoded) == action()
    for variant in wider(encoded):
        with pytest.raises(MalformedEncoding):
            decode(ActionEnvelope, variant)


@pytest.mark.box("S1.4", "one-encoding")
def test_every_mutation_that_decodes_to_the_same_value_is_refused():
    rng = random.Random(7)
    encoded = encode(action(nonce=5))
    for position in range(len(encoded)):
        for _ in range(8):
            mutated = bytearray(encoded)
            mutated[position] = rng.randrange(256)
            for data in (
                bytes(mutated),
                encoded[:position] + rng.randbytes(1) + encoded[position:],
                encoded[:position],
            ):
                if data == encoded:
                    continue
                try:
                    result = decode(ActionEnvelope, data)
                except MalformedEncoding:
                    continue
                assert result != action(nonce=5), "another encoding of the same value was accepted"
                assert encode(result) == data


@pytest.mark.box("S1.4", "one-encoding")
@pytest.mark.parametrize(
    ("hexadecimal", "why"),
    [
        ("9fff", "indefinite list"),
        ("a2616101616102", "duplicate key"),
        ("a2616201616102", "unsorted keys"),
        ("1801", "integer not shortest"),
        ("f90000", "half float"),
        ("fb3ff199999999999a", "double float"),
        ("c101", "tag"),
        ("d8236161", "tag of a regular expression"),
        ("d81c81d81d00", "shared reference"),
        ("f7", "undefined"),
        ("a10102", "key that is not text"),
        ("8001", "trailing byte"),
        ("81", "truncated"),
        ("61ff", "text that is not UTF-8"),
        ("", "nothing"),
        ("c249010000000000000000", "big integer"),
    ],
)
def test_what_is_not_deterministic_cbor_is_refused(hexadecimal, why):
    with pytest.raises(MalformedEncoding):
        decode_value(bytes.fromhex(hexadecimal))


@pytest.mark.box("S1.4", "bounds")
def test_size_is_checked_before_any_work():
    with pytest.raises(TooLarge):
        decode_value(b"\x5a\xff\xff\xff\xff" + bytes(100), limit=50)


@pytest.mark.box("S1.4", "bounds")
def test_depth_is_limited_both_ways():
    deep: Any = 1
    for _ in range(30):
        deep = [deep]
    with pytest.raises(MalformedEncoding):
        encode_value(deep)
    with pytest.raises(MalformedEncoding):
        decode_value(b"\x81" * 30 + b"\x01")
    with pytest.raises(MalformedEncoding):
        decode_value(b"\x81" * 100_000 + b"\x01")


@pytest.mark.box("S1.1", "grammar")
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("world_id", "UPPER"),
        ("world_id", "a.b"),
        ("world_id", "a" * 64),
        ("actor_id", ""),
        ("action_id", "zz"),
        ("payload_hash", ""),
        ("action_kind", "Agent Move"),
        ("nonce", -1),
        ("nonce", 2**64),
        ("nonce", True),
        ("timestamp_ms", 2**63),
        ("signature", b"short"),
        ("public_key", bytes(31)),
        ("payload_cbor", bytes(64 * 1024 + 1)),
        ("payload_cbor", "text"),
    ],
)
def test_a_field_that_breaks_its_rule_is_named(field, value):
    with pytest.raises(MalformedEncoding) as caught:
        encode(action(**{field: value}))
    assert caught.value.field == field
    plain = cbor2.loads(encode(action()))
    plain[1 + [f.name for f in dataclasses.fields(ActionEnvelope)].index(field)] = value
    with pytest.raises(MalformedEncoding):
        decode(ActionEnvelope, cbor2.dumps(plain))


@pytest.mark.box("S1.4", "byte-strings")
@pytest.mark.parametrize("field", ["payload_cbor", "signature", "public_key"])
def test_bytes_are_byte_strings_and_no_lists_of_integers(field):
    plain = cbor2.loads(encode(action()))
    place = 1 + [item.name for item in dataclasses.fields(ActionEnvelope)].index(field)
    assert isinstance(plain[place], bytes)
    plain[place] = list(plain[place])
    with pytest.raises(MalformedEncoding):
        decode(ActionEnvelope, cbor2.dumps(plain))


def test_nested_errors_carry_the_path():
    member = Member(member_id="a", peer_id="p", keys=(KeyEntry("bad", bytes(32), 1),), weight=1, roles=())
    directory = Directory("w", 1, "", (member,), "Byzantine", (), 1, (), 2, 0, None, None, ())
    with pytest.raises(MalformedEncoding) as caught:
        encode(directory)
    assert caught.value.field == "members[0].keys[0].key_id"


@pytest.mark.box("S1.2", "version")
def test_another_message_or_another_number_of_fields_is_refused():
    vote = Vote("w", 1, 1, 0, 1, None, 1, "a", "0" * 32, b"")
    with pytest.raises(MalformedEncoding):
        decode(ActionEnvelope, encode(vote))
    plain = cbor2.loads(encode(vote))
    with pytest.raises(MalformedEncoding):
        decode(Vote, cbor2.dumps([*plain, 0]))
    with pytest.raises(MalformedEncoding):
        decode(Vote, cbor2.dumps(plain[:-1]))


@pytest.mark.box("S1.2", "fields")
def test_schema_numbers_are_unique_and_never_reused():
    table = schema_table()
    assert table[1] is ActionEnvelope
    assert len({cls.SCHEMA_NAME for cls in table.values()}) == len(table)
    with pytest.raises(ValueError, match="taken"):

        @message(1, "again")
        class Again:
            world_id: str


def test_every_message_of_the_wire_has_a_number_under_forty():
    numbers = [cls.SCHEMA_NUMBER for cls in schema_table().values() if cls.__module__ == messages.__name__]
    assert numbers == sorted(numbers)
    assert numbers[-1] < 40


def test_a_list_above_its_limit_is_refused():
    signatures = tuple(KeySignature(f"{i:032x}", bytes(64)) for i in range(65))
    with pytest.raises(MalformedEncoding) as caught:
        encode(Directory("w", 1, "", (), "Byzantine", (), 1, (), 2, 0, None, None, signatures))
    assert caught.value.field == "signatures"


@pytest.mark.parametrize("text", ["\ud800", "ok\udfff"])
def test_text_that_is_not_unicode_is_refused_with_its_field(text):
    """Half a surrogate pair comes out of JSON and of file names; UTF-8 cannot hold it."""
    with pytest.raises(MalformedEncoding) as caught:
        encode(Revocation("w", "0" * 32, text, 0, "a", ()))
    assert caught.value.field == "reason"
    for value, field in ((text, "value"), ([text], "value[0]"), ({text: 1}, "value"), ({"a": text}, "value.a")):
        with pytest.raises(MalformedEncoding) as caught:
            encode_value(value)
        assert caught.value.field == field


@pytest.mark.box("S1.4", "bounds")
@pytest.mark.parametrize("tiny", [b"\x80", b"\xa0", b"\x81" * 12 + b"\x80", b"\x98\x00", b"\x82\x61a\x80"])
def test_what_would_cost_far_more_memory_than_it_has_bytes_is_refused_before_it_is_built(tiny):
    """Four million empty lists in four mebibytes would need 300 MiB, and seconds in which nothing else runs."""
    count = 1024 * 1024 // len(tiny)
    data = b"\x82\x18\x1f\x9a" + count.to_bytes(4, "big") + tiny * count
    tracemalloc.start()
    try:
        with pytest.raises(MalformedEncoding, match="more lists"):
            decode(messages.Actions, data)
        assert tracemalloc.get_traced_memory()[1] < 2 * len(data)
    finally:
        tracemalloc.stop()


def test_large_messages_that_are_right_are_not_taken_for_that():
    signatures = tuple(KeySignature(f"{i:032x}", b"") for i in range(64))
    statements = tuple(Revocation("w", f"{i:032x}", "", 0, "a", signatures[: i % 2]) for i in range(4096))
    actions = tuple(action(nonce=i, payload_cbor=b"\x80" * 500) for i in range(1000))
    for large in (messages.Revocations("w", statements), messages.Actions(actions)):
        data = encode(large)
        assert len(data) > 100_000
        assert decode(type(large), data) == large
    dense = encode(messages.EventSegment((messages.WorldEvent(1, 1, "", "k", [[[]] * 20_000]),)))
    assert encode(decode(messages.EventSegment, dense)) == dense, "data without a schema may be lists of lists"
