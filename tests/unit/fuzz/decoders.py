"""Everything that turns bytes of others into values, each with bytes to begin from and what must hold of its answer."""

from __future__ import annotations

import dataclasses
import functools
import json
import random
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agentworld_client.documents import document
from agentworld_core.codec import decode, decode_value, encode, encode_value, schema_number
from agentworld_core.errors import AgentWorldError
from agentworld_core.hashing import content_id
from agentworld_core.ledger.segments import read_events
from agentworld_core.ledger.snapshot import load_manifest, restore
from agentworld_core.messages import ActionEnvelope, EventSegment, JournalSegmentRef, StateChunkRef
from agentworld_core.signing import Ed25519Signer
from agentworld_core.world.actions import make_action, parse_payload
from agentworld_core.world.kernel import replay_events
from agentworld_core.world.tree_proof import StateProof, parse_node, verify_proof
from agentworld_node.api.server import _actions
from agentworld_node.network.serving import Reply, reply_of
from agentworld_node.storage.wal_format import (
    FIRST_LINK,
    RECORD_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    SegmentScan,
    encode_record,
    encode_segment_header,
)
from tests.unit.fuzz.judges import judges
from tests.unit.fuzz.modules import module_decoders
from tests.unit.fuzz.mutate import mutated, mutated_bytes, mutated_tree
from tests.unit.fuzz.streams import frame_decoders
from wirespec.samples import SmallWorld, signer, smallest, world_samples
from wirespec.schema import all_messages

Mutate = Callable[[random.Random, Sequence[bytes]], bytes]


@dataclasses.dataclass(frozen=True)
class Decoder:
    """``take`` returns the one encoding of what it understood, or None where there is none to compare.

    It may raise an AgentWorldError or one of ``typed``, and fails by any other exception.
    """

    name: str
    seeds: tuple[bytes, ...]
    take: Callable[[bytes], bytes | None]
    mutate: Mutate = mutated
    typed: tuple[type[Exception], ...] = ()


def only_typed_errors(call: Callable[[], Any]) -> Any:
    """Returns what the call returns, None when it raises an error of ours with a code of its own."""
    try:
        return call()
    except AgentWorldError as error:
        if type(error) is AgentWorldError:
            raise AssertionError("an error without a code of its own") from error
        return None


@functools.cache
def decoders() -> dict[str, Decoder]:
    """Returns all of them by name."""
    world = SmallWorld()
    found = [*_messages(world), *_values(world), *_http(world), *_ledger(world), *_files(world), *_streams(world)]
    found += module_decoders(Decoder)
    return {decoder.name: decoder for decoder in found}


def _messages(world: SmallWorld) -> list[Decoder]:
    samples = [value for _, value in world_samples(world)]
    judge = judges(world)

    def decoder_of(cls: type[Any], name: str, seeds: tuple[bytes, ...]) -> Decoder:
        def take(data: bytes) -> bytes:
            value = decode(cls, data)
            assert schema_number(data) == cls.SCHEMA_NUMBER
            if cls in judge:
                only_typed_errors(lambda: judge[cls](value))
            return encode(value)

        return Decoder(f"message {name}", seeds, take)

    found = []
    for message in all_messages().values():
        own = [value for value in samples if type(value) is message.cls]
        seeds = tuple(encode(value) for value in [*own, smallest(message)])
        found.append(decoder_of(message.cls, message.name, seeds))
    return found


def _values(world: SmallWorld) -> list[Decoder]:
    payloads = tuple(action.payload_cbor for action in world.actions)
    data = tuple(encode_value(event.payload) for event in world.execution.events)

    def take_number(data: bytes) -> None:
        number = schema_number(data)
        assert number is None or 0 <= number < 256

    def take_payload(data: bytes) -> None:
        for kind in ("agent.register", "object.create", "message.send", "mailbox.clear"):
            fields = {"world_id": "aurora", "actor_id": "ada", "kind": kind, "nonce": 1, "timestamp_ms": 1}
            draft = make_action(payload={}, **fields)  # type: ignore[arg-type]
            action = dataclasses.replace(draft, payload_cbor=data)
            only_typed_errors(functools.partial(parse_payload, action))

    return [
        Decoder("data without a schema", data, lambda data: encode_value(decode_value(data))),
        Decoder("schema number", (encode(world.actions[0]), encode(world.head)), take_number),
        Decoder("payload of an action", payloads, take_payload),
    ]


def _http(world: SmallWorld) -> list[Decoder]:
    one, several = document(world.actions[0]), {"actions": [document(action) for action in world.actions]}

    def checked(actions: list[ActionEnvelope]) -> None:
        for action in actions:
            assert decode(ActionEnvelope, encode(action)) == action

    return [
        Decoder(
            "body application/json",
            (json.dumps(one).encode(), json.dumps(several).encode()),
            lambda body: checked(_actions("application/json", body)[0]),
            mutate=_mutated_json,
        ),
        Decoder(
            "body application/cbor",
            (encode(world.actions[0]), _sample(world, "Actions")),
            lambda body: checked(_actions("application/cbor", body)[0]),
        ),
    ]


def _mutated_json(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    seed = rng.choice(seeds)
    if rng.random() < 0.4:
        return mutated_bytes(rng, seed, seeds)
    tree = json.loads(seed)
    for _ in range(rng.choice((1, 1, 2))):
        tree = mutated_tree(rng, tree)
    if rng.random() < 0.1:
        tree = {"actions": [tree, "\ud800", tree]}
    return json.dumps(_jsonable(tree), ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")


def _jsonable(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {str(key): _jsonable(item) for key, item in tree.items()}
    if isinstance(tree, list):
        return [_jsonable(item) for item in tree]
    return tree if tree is None or isinstance(tree, bool | int | float | str) else "\udc80" + str(tree)


def _ledger(world: SmallWorld) -> list[Decoder]:
    execution = world.execution
    manifest_ref = execution.block.snapshot_ref or ""
    manifest = load_manifest(manifest_ref, execution.blobs.__getitem__)
    chunk = execution.blobs[manifest.chunks[0].content_hash]
    segments = execution.block.segments
    proof = execution.tree.prove(b"object/lamp")

    def take_chunk(data: bytes) -> bytes:
        ref = StateChunkRef(manifest.chunks[0].first_key, content_id(data), len(data))
        tree = restore(dataclasses.replace(manifest, chunks=(ref,)), lambda _: data)
        assert tree.root == manifest.state_root
        return chunk

    def take_manifest(data: bytes) -> bytes:
        found = load_manifest(content_id(data), lambda _: data)
        only_typed_errors(lambda: restore(found, lambda name: execution.blobs.get(name, b"")))
        return encode(found)

    def take_segment(data: bytes) -> bytes:
        ref = JournalSegmentRef(segments[0].from_event_id, segments[0].to_event_id, content_id(data), len(data))
        events = read_events([ref], lambda _: data)
        only_typed_errors(lambda: replay_events(world.chain.tree, events))
        return encode(EventSegment(events))

    def take_proof(data: bytes) -> bytes:
        given = decode(StateProof, data)
        root = content_id(given.nodes[0]) if given.nodes else execution.tree.root
        for key in (b"object/lamp", b"", b"agent/ada", b"zz"):
            value = only_typed_errors(functools.partial(verify_proof, root, key, given))
            assert root != execution.tree.root or value in (None, execution.tree.get(key))
        return encode(given)

    return [
        Decoder("chunk of a snapshot", (chunk,), take_chunk),
        Decoder("manifest of a snapshot", (encode(manifest),), take_manifest),
        Decoder("segment of a journal", (execution.blobs[segments[0].content_hash],), take_segment),
        Decoder("proof of state", (encode(proof), _sample(world, "StateProof")), take_proof),
        Decoder(
            "node of the state tree",
            (*proof.nodes, _sample(world, "TreeInner")),
            lambda data: encode(parse_node(data)),
        ),
    ]


def _sample(world: SmallWorld, kind: str) -> bytes:
    return next(encode(value) for _, value in world_samples(world) if type(value).__name__ == kind)


def _files(world: SmallWorld) -> list[Decoder]:
    mark = b"\x01\x02\x03\x04mark"
    data, link, originals = encode_segment_header(mark, FIRST_LINK), FIRST_LINK, []
    for number, payload in enumerate((encode(world.polka[0]), b"", encode(world.body), b"x" * 50), 1):
        record, link = encode_record(number, payload, mark=mark, link=link, synced=number - 1)
        data += record
        originals.append((number, payload))

    def take_log(changed: bytes) -> None:
        scan = SegmentScan(changed, file="fuzz")
        records = [(record.kind, record.payload) for record in scan.records()]
        assert records == originals[: len(records)], "the CRC or the chain let a changed record pass"
        scan.torn_tail(last_segment=bool(len(changed) % 2))

    def take_checked_log(changed: bytes) -> None:
        scan = SegmentScan(changed, file="fuzz")
        kinds = [record.kind for record in scan.records()]
        assert len(kinds) <= len(originals)
        scan.torn_tail(last_segment=True)

    def with_right_crcs(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
        """Damages the inside of one record, or the header, and makes its CRC right again."""
        ends = [SEGMENT_HEADER_BYTES]
        for _, payload in originals:
            ends.append(ends[-1] + RECORD_HEADER_BYTES + len(payload))
        part = rng.randrange(len(ends))
        start, end = (0, ends[0]) if part == 0 else (ends[part - 1], ends[part])
        body = bytearray(seeds[0][start + 4 : end])
        for _ in range(rng.choice((1, 2, 8))):
            body[rng.randrange(len(body))] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
        return seeds[0][:start] + zlib.crc32(body).to_bytes(4, "little") + bytes(body) + seeds[0][end:]

    pem = signer("ada").pem()
    return [
        Decoder("segment of the log, CRC made right", (data,), take_checked_log, mutate=with_right_crcs),
        Decoder("segment of the log", (data,), take_log, mutate=lambda rng, seeds: mutated_bytes(rng, seeds[0], seeds)),
        Decoder(
            "private key in PEM",
            (pem,),
            lambda text: Ed25519Signer.from_pem(text).seed and None,
            mutate=lambda rng, seeds: mutated_bytes(rng, seeds[0], seeds),
        ),
    ]


def _streams(world: SmallWorld) -> list[Decoder]:
    def take_reply(body: bytes) -> None:
        reply = Reply(ok=False, body=body)
        assert reply.value() is not None

    refusal = reply_of(AgentWorldError("a sentence", field="x", value="ключ")).body
    frames = (
        Decoder(name, seeds, take, mutate=lambda rng, seeds: mutated_bytes(rng, rng.choice(seeds), seeds), typed=typed)
        for name, seeds, take, typed in frame_decoders(encode(world.head))
    )
    as_bytes: Mutate = lambda rng, seeds: mutated_bytes(rng, seeds[0], seeds)  # noqa: E731
    return [*frames, Decoder("error in a reply", (refusal,), take_reply, mutate=as_bytes)]
