"""Values of every message: those of one small world that really ran, and the smallest that the rules allow.

Everything follows from names: the key of ``ada`` is the Ed25519 key whose seed is the BLAKE3 of the text ``ada``.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

from agentworld_core.codec import encode_value
from agentworld_core.consensus.certificates import certificate_of
from agentworld_core.consensus.drafts import draft_proposal, draft_vote
from agentworld_core.consensus.evidence import evidence_of
from agentworld_core.consensus.parts import GetPart, Part, ProposalOffer, split
from agentworld_core.hashing import EMPTY_HASH, content_id, digest
from agentworld_core.ledger.block import Execution, HeaderInput, block_hash_of, execute
from agentworld_core.ledger.chain import ChainState
from agentworld_core.ledger.genesis import chain_from_genesis
from agentworld_core.ledger.segments import Journal
from agentworld_core.ledger.snapshot import StateChunk, load_manifest
from agentworld_core.membership.builder import Changes, key_entry, next_directory, revoked_key
from agentworld_core.messages import (
    PRECOMMIT,
    PREVOTE,
    ActionEnvelope,
    Actions,
    BlockBundle,
    Blocks,
    Directory,
    EventSegment,
    Genesis,
    GetBlocks,
    Member,
    Parameters,
    Proposal,
    ReceiptList,
    Revocation,
    Revocations,
    Round,
    SnapshotManifest,
    Vote,
    WorldEvent,
    WorldHeadAnnounce,
)
from agentworld_core.names import peer_id_of
from agentworld_core.ordering.batch import draft_batch
from agentworld_core.ordering.transfer import WriterTransfer
from agentworld_core.signing import Ed25519Signer, add_signature, sign
from agentworld_core.world.actions import make_action, sign_action
from agentworld_core.world.modules.receipts import make_receipt, params_hash_of
from agentworld_core.world.modules.records import EffectRecord
from agentworld_core.world.tree import Tree
from agentworld_core.world.tree_nodes import TreeInner
from agentworld_core.world.tree_proof import StateProof, parse_node
from agentworld_node.records import SnapshotMark, StoredLock, StoredVote
from wirespec.schema import FieldType, Message, all_messages

WORLD = "aurora"
VOTERS = ("a", "b", "c")
NAMES = ("gov", *VOTERS, "ada", "bob")
EVERY_KIND_OF_DATA: Any = {
    "": None,
    "b": [True, False],
    "int": [0, 23, 24, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**63, 2**64 - 1],
    "neg": [-1, -24, -25, -256, -257, -65536, -65537, -(2**32), -(2**32) - 1, -(2**63)],
    "text": ["", "a" * 23, "a" * 24, "ключ", "\u0000\u2028", "😀"],
    "bytes": [b"", bytes(range(32))],
    "ü": {"z": {}, "aa": []},
}


@functools.cache
def signer(name: str) -> Ed25519Signer:
    """Returns the key that a name always has."""
    return Ed25519Signer(digest(name.encode()))


def signers() -> dict[str, Ed25519Signer]:
    """Returns all keys of the samples by key id."""
    return {signer(name).key_id: signer(name) for name in NAMES}


def _action(actor: str, kind: str, payload: dict[str, Any], nonce: int) -> ActionEnvelope:
    draft = make_action(
        world_id=WORLD, actor_id=actor, kind=kind, payload=payload, nonce=nonce, timestamp_ms=1_767_225_600_000
    )
    return sign_action(draft, signer(actor))


def worked_action() -> ActionEnvelope:
    """Returns the action of the worked example: ada enters the world at (3, -4)."""
    return _action("ada", "agent.register", {"position": [3, -4]}, 1)


def _genesis() -> Genesis:
    directory = Directory(
        world_id=WORLD,
        epoch=1,
        previous_hash="",
        members=tuple(
            Member(
                name, peer_id_of(signer(name).public_key), (key_entry(signer(name).public_key, 1),), 1, ("validator",)
            )
            for name in VOTERS
        ),
        fault_model="Crash",
        governance=(key_entry(signer("gov").public_key, 1),),
        governance_threshold=1,
        revoked=(),
        activation_delay=2,
        issued_at_ms=1_767_225_500_000,
        expires_at_ms=None,
        reason="genesis",
        signatures=(),
    )
    genesis = Genesis(
        world_id=WORLD,
        created_at_ms=1_767_225_500_000,
        parameters=Parameters(1000, 512, 512 * 1024, 4, 1, leaseless=False),
        directory=add_signature(directory, signer("gov")),
        signatures=(),
    )
    return add_signature(genesis, signer("gov"))


class SmallWorld:
    """One block on top of a genesis: two actions that change the world, one that is refused, a change of directory."""

    def __init__(self) -> None:
        self.genesis = _genesis()
        self.chain: ChainState = chain_from_genesis(self.genesis)
        statement = Revocation(WORLD, signer("c").key_id, "leaked", 1_767_225_590_000, "operator", ())
        self.revocation = add_signature(statement, signer("gov"))
        changes = Changes(
            members=self.genesis.directory.members[:2],
            revoked=[revoked_key(self.revocation)],
        )
        successor = next_directory(
            self.genesis.directory, changes, now_ms=1_767_225_595_000, expires_at_ms=1_767_312_000_000
        )
        self.successor = add_signature(successor, signer("gov"))
        self.actions = (
            worked_action(),
            _action("ada", "object.create", {"object_id": "lamp", "data": {"lit": True, "hue": [1, 2]}}, 2),
            _action("bob", "agent.move", {"to": [0, 1]}, 1),
        )
        self.execution, self.bundle = self._block()
        block = self.bundle.block
        self.block_hash = block_hash_of(block)
        self.body = draft_proposal(
            self.genesis.directory,
            (block, self.bundle.batch),
            block_hash=self.block_hash,
            round_=Round(7, 1),
            since=Round(7, 0),
            proposer_id="a",
        )
        self.body = dataclasses.replace(self.body, proposal=sign(self.body.proposal, signer("a")))
        self.polka = tuple(self.vote(name, PREVOTE, self.block_hash) for name in ("a", "b"))
        self.head = sign(
            WorldHeadAnnounce(
                world_id=WORLD,
                height=1,
                block_hash=self.block_hash,
                state_root=block.state_root,
                timestamp_ms=1_767_225_602_000,
                signature=b"",
                term=7,
                directory_epoch=1,
                announcer_id="b",
                key_id="",
                certificate=self.bundle.certificate,
            ),
            signer("b"),
        )

    def vote(self, name: str, phase: int, block_hash: str | None) -> Vote:
        """Returns a signed vote at height 1 in round (7, 0)."""
        draft = draft_vote(
            self.genesis.directory,
            validator_id=name,
            height=1,
            round_=Round(7, 0),
            phase=phase,
            block_hash=block_hash,
        )
        return sign(draft, signer(name))

    def proposal(self, name: str, block_hash: str) -> Proposal:
        """Returns a signed proposal of any block, in the round and height of the one of block 1."""
        draft = dataclasses.replace(self.body.proposal, proposer_id=name, block_hash=block_hash)
        return sign(draft, signer(name))

    def _block(self) -> tuple[Execution, BlockBundle]:
        header = HeaderInput(
            height=1,
            term=7,
            attempt=0,
            proposer_id="a",
            key_id=signer("a").key_id,
            timestamp_ms=1_767_225_601_000,
        )
        batch = draft_batch(
            WORLD,
            self.actions,
            height=1,
            term=7,
            proposer_id="a",
            timestamp_ms=header.timestamp_ms,
            directory=self.successor,
        )
        batch = sign(batch, signer("a"))
        execution = execute(self.chain, batch, header)
        block = sign(execution.block, signer("a"))
        certificate = certificate_of(self.vote(name, PRECOMMIT, block_hash_of(block)) for name in ("a", "b"))
        return execution, BlockBundle(block, batch, certificate)


def world_samples(world: SmallWorld) -> Iterator[tuple[str, Any]]:
    """Yields (what it is, value) for the messages of the small world; a message may come more than once."""
    directory, bundle, execution = world.genesis.directory, world.bundle, world.execution
    data = encode_value(EVERY_KIND_OF_DATA)
    for action in world.actions:
        yield f"{action.actor_id}: {action.action_kind}", action
    yield "the signature of governance under epoch 2", world.successor.signatures[0]
    yield "the governance key", directory.governance[0]
    yield "validator a", directory.members[0]
    yield "the key of c, revoked by epoch 2", world.successor.revoked[0]
    yield "epoch 1", directory
    yield "epoch 2: c is gone and its key revoked", world.successor
    yield "the key of c has leaked", world.revocation
    yield "the parameters of the world", world.genesis.parameters
    yield "the genesis document", world.genesis
    yield "the batch of block 1, with the directory it brings", bundle.batch
    yield "the first segment of block 1", bundle.block.segments[0]
    if bundle.block.directory_change is not None:
        yield "epoch 2 governs from height 3", bundle.block.directory_change
    yield "block 1", bundle.block
    for event in execution.events:
        yield f"event {event.event_id} of block 1", event
    yield "an event with every kind of data", WorldEvent(9, 2, content_id(data), "sample", EVERY_KIND_OF_DATA)
    for receipt in execution.receipts:
        yield f"the receipt at position {receipt.position} of block 1", receipt
    yield "the first segment's content", EventSegment(execution.events[:4])
    yield "the receipts of block 1", ReceiptList(execution.receipts)
    yield from _state_samples(world)
    yield from _effect_samples()
    yield "the block proposed again in a later attempt", world.body.proposal
    yield "the whole proposal", world.body
    yield from _offer_samples(world)
    yield "a prevotes block 1", world.polka[0]
    yield "b prevotes for nothing", world.vote("b", PREVOTE, None)
    yield "a precommits block 1", world.vote("a", PRECOMMIT, world.block_hash)
    yield "the vote of a in the certificate", bundle.certificate.votes[0]
    yield "the certificate of block 1", bundle.certificate
    yield "the head of b", world.head
    yield "block 1 with all that proves it", bundle
    yield "blocks from height 1 on", GetBlocks(WORLD, 1, 64)
    yield "the answer", Blocks((bundle,))
    yield (
        "c voted twice",
        evidence_of(world.vote("c", PRECOMMIT, world.block_hash), world.vote("c", PRECOMMIT, EMPTY_HASH)),
    )
    yield "c proposed twice", evidence_of(*(world.proposal("c", value) for value in (world.block_hash, EMPTY_HASH)))
    transfer = WriterTransfer(WORLD, "b", 7, world.genesis.created_at_ms + 60_000, ())
    yield "governance wants b to write", add_signature(transfer, signer("gov"))
    yield "all that is revoked", Revocations(WORLD, (world.revocation,))
    yield "two actions in one message", Actions(world.actions[:2])
    lock = StoredLock(7, 0, world.body, world.polka)
    yield "block 1 with the prevotes that lock a on it", lock
    yield "a's precommit with its lock", StoredVote(world.vote("a", PRECOMMIT, world.block_hash), lock)
    yield "a's prevote, without a lock", StoredVote(world.polka[0], None)
    yield "the snapshot of height 1 is durable", SnapshotMark(1, world.block_hash, bundle.block.state_root)


def _offer_samples(world: SmallWorld) -> Iterator[tuple[str, Any]]:
    batch = split(world.body)
    yield "the same proposal as an offer", ProposalOffer(world.body.proposal, world.body.block, batch.size, batch.ids)
    yield "the only part of its batch, asked for", GetPart(WORLD, batch.ids[0])
    yield "the answer with the part", Part(batch.parts[0])


def _effect_samples() -> Iterator[tuple[str, Any]]:
    asked = EffectRecord("courier", "mail.send", 7, "post", params_hash_of({"to": "x"}), 20, "letter 1")
    done = make_receipt(asked, world_id=WORLD, intent=1, status="done", result={"id": b"\x07"}, cost_cents=2)
    failed = make_receipt(asked, world_id=WORLD, intent=1, status="failed", result=None)
    yield "bob has sent the letter, for two cents", sign(done, signer("bob"))
    yield "bob has not", sign(failed, signer("bob"))


def _state_samples(world: SmallWorld) -> Iterator[tuple[str, Any]]:
    tree = world.execution.tree
    entries = list(tree.items())
    chunk = StateChunk(tuple(key for key, _ in entries), tuple(value for _, value in entries))
    ref_of = world.execution.block.snapshot_ref
    manifest = SnapshotManifest(WORLD, 1, (), tree.root)
    if ref_of is not None:
        manifest = load_manifest(ref_of, world.execution.blobs.__getitem__)
        yield "the only chunk of the snapshot", manifest.chunks[0]
    yield "the snapshot of height 1", manifest
    yield "the state after block 1, one leaf", parse_node(tree.prove(b"meta").nodes[0])
    branching = Tree.of({b"agent/ada": b"a" * 2100, b"agent/bob": b"b" * 2100})
    inner = parse_node(branching.prove(b"nothing").nodes[0])
    assert isinstance(inner, TreeInner)
    yield "a branching where the keys agent/ada and agent/bob part", inner
    yield "proof that there is no key nothing", branching.prove(b"nothing")
    yield "proof of the object lamp", StateProof(tree.prove(b"object/lamp").nodes)
    yield "the state after block 1 as a chunk", chunk
    yield "the segments of block 1", Journal(world.execution.block.segments)


def smallest(message: Message) -> Any:
    """Returns the smallest value that the rules allow: zeros, nulls, empty lists, the shortest texts."""
    return message.cls(*(_smallest(kind) for _, kind in message.fields))


_SMALLEST_TEXTS = ("", "a", "0" * 32, "0" * 64)
_SMALLEST_BYTES = (b"", bytes(32))


def _smallest(kind: FieldType) -> Any:
    if kind.optional or kind.kind == "value":
        return None
    if kind.kind == "list":
        return ()
    if kind.kind == "message":
        return smallest(_by_name(str(kind.of)))
    if kind.kind == "int":
        return 0
    if kind.kind == "bool":
        return False
    candidates: tuple[Any, ...] = _SMALLEST_TEXTS if kind.kind == "text" else _SMALLEST_BYTES
    return next(value for value in candidates if kind.allows(value))


def _by_name(name: str) -> Message:
    return next(message for message in all_messages().values() if message.name == name)
