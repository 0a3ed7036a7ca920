"""B1: one canonical encoding per message, against a canonical CBOR map and against msgspec with fixed field order.

The peers are given their values in the form they like best. All sides do the same job: encode and hash; or decode,
check the types and that nothing else encodes to the same message. msgspec checks types, and none of our field rules.
"""

from __future__ import annotations

import dataclasses
import functools
import random
import types
from collections.abc import Callable, Iterator
from typing import Any

import cbor2
import msgspec
from blake3 import blake3

from agentworld_core.codec import decode, decode_value, encode, encode_value
from agentworld_core.errors import AgentWorldError
from agentworld_core.ledger.genesis import chain_from_genesis
from agentworld_core.messages import PREVOTE, Vote, WorldHeadAnnounce
from agentworld_core.signing import sign
from tests.bench.harness import Case, LeftOut, Setting, cpu
from tests.bench.material import VALIDATOR, moves, next_block
from tests.unit.node.material import WORLD, make_genesis, signer

SEED = 20_250_101
Work = Callable[[], object]


def cases(setting: Setting) -> Iterator[Case | LeftOut]:
    """Yields encode and decode of an action, a vote and a head against both peers."""
    for name, message in (("action", moves(1)[0]), ("vote", _vote()), ("head", _head())):
        yield from _both_ways(name, message, _CborMap(message), setting=setting)
        yield from _both_ways(name, message, _Msgspec(message), setting=setting)


def _both_ways(name: str, message: Any, other: _CborMap | _Msgspec, *, setting: Setting) -> Iterator[Case]:
    rounds = setting.size(4_000, 50)
    data = encode(message)
    struct = _Msgspec(message)

    def encode_fresh() -> float:
        copies = [_fresh(message) for _ in range(rounds)]
        return cpu(lambda: [blake3(encode(copy)).hexdigest() for copy in copies], items=rounds)

    yield Case(
        id="B1",
        case=f"{name} of {len(data)} bytes: encode and hash",
        peer=other.name,
        ours=encode_fresh,
        theirs=lambda: _repeat(other.encode, rounds),
        goal=other.goal,
        check=lambda: _wrong(setting),
        ceiling=lambda: _repeat(struct.encode, rounds),
        ceiling_name="msgspec array",
    )
    yield Case(
        id="B1",
        case=f"{name} of {len(data)} bytes: decode and check",
        peer=other.name,
        ours=lambda: _repeat(lambda: decode(type(message), data), rounds),
        theirs=lambda: _repeat(other.decode, rounds),
        goal=other.goal,
        check=lambda: _wrong(setting),
        ceiling=lambda: _repeat(struct.decode, rounds),
        ceiling_name="msgspec array",
    )


def _repeat(work: Work, rounds: int) -> float:
    def run() -> None:
        for _ in range(rounds):
            work()

    return cpu(run, items=rounds)


def _fresh(message: Any) -> Any:
    """A copy in which nothing is remembered from an earlier encoding."""
    values = {field.name: getattr(message, field.name) for field in dataclasses.fields(message)}
    inner = {name: _fresh(value) for name, value in values.items() if hasattr(value, "SCHEMA_NUMBER")}
    return dataclasses.replace(message, **inner)


def _vote() -> Vote:
    vote = Vote(
        world_id=WORLD,
        height=123_456,
        term=7,
        attempt=0,
        phase=PREVOTE,
        block_hash="ab" * 32,
        directory_epoch=3,
        validator_id=VALIDATOR,
        key_id="",
        signature=b"",
    )
    return sign(vote, signer(VALIDATOR))


def _head() -> WorldHeadAnnounce:
    bundle, execution = next_block(chain_from_genesis(make_genesis((VALIDATOR,))), ())
    chain = execution.chain_after(bundle.block)
    head = WorldHeadAnnounce(
        world_id=WORLD,
        height=chain.height,
        block_hash=chain.block_hash,
        state_root=chain.state_root,
        timestamp_ms=chain.time_ms,
        signature=b"",
        term=0,
        directory_epoch=1,
        announcer_id=VALIDATOR,
        key_id="",
        certificate=bundle.certificate,
    )
    return sign(head, signer(VALIDATOR))


class _CborMap:
    """cbor2 with a map of field names, sorted when encoding; checked by encoding again when decoding."""

    name = "cbor2 canonical map"
    goal = 6.0

    def __init__(self, message: Any):
        self._plain = _map_of(message)
        self._data = cbor2.dumps(self._plain, canonical=True)

    def encode(self) -> str:
        return blake3(cbor2.dumps(self._plain, canonical=True)).hexdigest()

    def decode(self) -> object:
        plain = cbor2.loads(self._data)
        assert cbor2.dumps(plain, canonical=True) == self._data
        return plain


class _Msgspec:
    """msgspec structs as arrays in a fixed order of fields; checked by encoding again when decoding."""

    name = "msgspec deterministic"
    goal = 0.4

    def __init__(self, message: Any):
        self._value = _struct_of(message)
        self._encoder = msgspec.msgpack.Encoder(order="deterministic")
        self._decoder = msgspec.msgpack.Decoder(type(self._value))
        self._data = self._encoder.encode(self._value)

    def encode(self) -> str:
        return blake3(self._encoder.encode(self._value)).hexdigest()

    def decode(self) -> object:
        value = self._decoder.decode(self._data)
        assert self._encoder.encode(value) == self._data
        return value


def _map_of(value: Any) -> Any:
    if hasattr(value, "SCHEMA_NUMBER"):
        return {field.name: _map_of(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return [_map_of(item) for item in value] if isinstance(value, tuple) else value


def _struct_of(value: Any) -> Any:
    if hasattr(value, "SCHEMA_NUMBER"):
        fields = {field.name: _struct_of(getattr(value, field.name)) for field in dataclasses.fields(value)}
        declared = [(name, _type_of(item)) for name, item in fields.items()]
        return msgspec.defstruct(type(value).__name__, declared, array_like=True, frozen=True)(**fields)
    return tuple(_struct_of(item) for item in value) if isinstance(value, tuple) else value


def _type_of(value: Any) -> Any:
    return types.GenericAlias(tuple, (type(value[0]), ...)) if isinstance(value, tuple) and value else type(value)


@functools.cache
def _wrong(setting: Setting) -> str | None:
    """Compares random values with cbor2's canonical form, and tries to have other encodings accepted."""
    chance = random.Random(SEED)
    for number in range(setting.size(100_000, 200)):
        value = _random_value(chance, 3)
        data = cbor2.dumps(value, canonical=True)
        if encode_value(value) != data or decode_value(data) != value:
            return f"value {number} of seed {SEED} differs from cbor2's canonical form"
    for message in (moves(1)[0], _vote(), _head()):
        data = encode(message)
        if decode(type(message), data) != message:
            return f"{type(message).__name__} does not come back"
        for other in _other_encodings(data, chance, setting.size(400, 20)):
            if _accepts(type(message), other) not in (None, other):
                return f"a second encoding of a {type(message).__name__} is accepted: {other.hex()}"
    return None


def _accepts(cls: type[Any], data: bytes) -> bytes | None:
    """The encoding of what the bytes decode to, None when they are refused."""
    try:
        return encode(decode(cls, data))
    except AgentWorldError:
        return None


def _other_encodings(data: bytes, chance: random.Random, count: int) -> Iterator[bytes]:
    """The same content in longer forms, and bytes that were changed, added or left out by chance."""
    plain = cbor2.loads(data)
    yield data + b"\0"
    yield b"\x9f" + data[1:] + b"\xff"
    yield bytes([0x98, len(plain)]) + data[1:]
    yield data[:1] + b"\x18" + data[1:]
    for _ in range(count):
        place = chance.randrange(len(data))
        yield data[:place] + bytes([chance.randrange(256)]) + data[place + chance.randrange(2) :]


def _random_value(chance: random.Random, depth: int) -> Any:
    kind = chance.randrange(7 if depth else 5)
    if kind == 0:
        return chance.choice([None, True, False])
    if kind in (1, 2):
        return chance.choice([1, -1]) * chance.getrandbits(chance.randrange(1, 63))
    if kind == 3:
        return _random_text(chance)
    if kind == 4:
        return chance.randbytes(chance.randrange(40))
    if kind == 5:
        return [_random_value(chance, depth - 1) for _ in range(chance.randrange(5))]
    entries = {_random_text(chance): _random_value(chance, depth - 1) for _ in range(chance.randrange(5))}
    return dict(sorted(entries.items(), key=lambda item: (len(item[0].encode()), item[0].encode())))


def _random_text(chance: random.Random) -> str:
    return "".join(
        chr(chance.choice([chance.randrange(32, 127), chance.randrange(0xA0, 0x3000)]))
        for _ in range(chance.randrange(30))
    )
