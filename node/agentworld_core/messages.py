"""All messages of the wire and of the ledger: their numbers, fields and order, which never change (decision 1).

New fields are appended, numbers are never reused. Times are integer milliseconds since the Unix epoch (``*_ms``);
heights, terms, epochs and nonces are unsigned 64-bit; content ids are 64 hex digits; keys and signatures are raw bytes.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

from agentworld_core.codec import (
    I64,
    U64,
    Hash,
    HashOrEmpty,
    Id,
    KeyId,
    Kind,
    LongText,
    PublicKey,
    ShortText,
    Signature,
    Value,
    bytes_up_to,
    items_up_to,
    message,
)
from agentworld_core.genesis_module import MAX_GENESIS_MODULES, GenesisModule

PREVOTE = 1
PRECOMMIT = 2
MAX_PAYLOAD_BYTES = 64 * 1024
MAX_ACTIONS_PER_BATCH = 4096
MAX_MEMBERS = 256


class Round(NamedTuple):
    """One attempt to decide a height: the lease term chooses the proposer, the attempt counts its tries."""

    term: int
    attempt: int


@message(1, "action", keeps_encoding=True)
class ActionEnvelope:
    """A signed request of one actor; ``action_id`` is the content id of all but itself and the signature."""

    world_id: Id
    action_id: HashOrEmpty
    actor_id: Id
    action_kind: Kind
    payload_cbor: Annotated[bytes, bytes_up_to(MAX_PAYLOAD_BYTES)]
    payload_hash: Hash
    nonce: U64
    timestamp_ms: I64
    signature: Signature
    public_key: PublicKey


@message(2, "key_signature")
class KeySignature:
    """One of several signatures under a document."""

    key_id: KeyId
    signature: Signature


@message(3, "key")
class KeyEntry:
    """A public key that a directory trusts, with the generation of the MembershipKey that it comes from."""

    key_id: KeyId
    public_key: PublicKey
    generation: U64


@message(4, "member")
class Member:
    """One member of a world: who it is on the network, which keys sign for it, and with what weight it votes."""

    member_id: Id
    peer_id: ShortText
    keys: Annotated[tuple[KeyEntry, ...], items_up_to(16)]
    weight: U64
    roles: Annotated[tuple[ShortText, ...], items_up_to(16)]


@message(5, "revoked_key")
class RevokedKey:
    """A key that no longer counts, with the unsigned id of the statement that says so."""

    key_id: KeyId
    statement: Hash


@message(6, "directory")
class Directory:
    """One epoch of membership, signed by the governance of its predecessor (and its own, where that changed)."""

    world_id: Id
    epoch: U64
    previous_hash: HashOrEmpty
    members: Annotated[tuple[Member, ...], items_up_to(MAX_MEMBERS)]
    fault_model: ShortText
    governance: Annotated[tuple[KeyEntry, ...], items_up_to(64)]
    governance_threshold: U64
    revoked: Annotated[tuple[RevokedKey, ...], items_up_to(4096)]
    activation_delay: U64
    issued_at_ms: I64
    expires_at_ms: I64 | None
    reason: ShortText | None
    signatures: Annotated[tuple[KeySignature, ...], items_up_to(64)]


@message(7, "revocation")
class Revocation:
    """A statement of the governance keys that a key must never count again; it proves itself and cannot be undone."""

    world_id: Id
    key_id: KeyId
    reason: ShortText
    revoked_at_ms: I64
    requester_id: Id
    signatures: Annotated[tuple[KeySignature, ...], items_up_to(64)]


@message(8, "parameters")
class Parameters:
    """The rules of a world that all nodes must share; fixed by the genesis document."""

    block_interval_ms: U64
    max_batch_actions: U64
    max_batch_bytes: U64
    journal_events_per_segment: U64
    snapshot_interval: U64
    leaseless: bool


@message(9, "genesis")
class Genesis:
    """Where a world begins: parameters, first directory, first modules; its content id is the parent of block 1."""

    world_id: Id
    created_at_ms: I64
    parameters: Parameters
    directory: Directory
    signatures: Annotated[tuple[KeySignature, ...], items_up_to(64)]
    modules: Annotated[tuple[GenesisModule, ...], items_up_to(MAX_GENESIS_MODULES)] = ()


@message(10, "batch", keeps_encoding=True)
class ActionBatch:
    """The ordered input of one block; ``batch_id`` is the content id of the ordered ids of its signed actions."""

    world_id: Id
    batch_id: Hash
    actions: Annotated[tuple[ActionEnvelope, ...], items_up_to(MAX_ACTIONS_PER_BATCH)]
    proposer_id: Id
    timestamp_ms: I64
    signature: Signature
    term: U64
    height: U64
    key_id: KeyId
    directory: Directory | None


@message(11, "journal_segment_ref")
class JournalSegmentRef:
    """Consecutive events of one block, stored as one blob; both ids are inclusive."""

    from_event_id: U64
    to_event_id: U64
    content_hash: Hash
    size_bytes: U64


@message(12, "directory_change")
class DirectoryChange:
    """A block's statement that a directory epoch governs from a later height on."""

    epoch: U64
    directory_hash: Hash
    effective_height: U64


@message(13, "block", keeps_encoding=True)
class WorldBlock:
    """One step of a world: what went in, what came out, under which round and directory (design decision 10)."""

    world_id: Id
    height: U64
    prev_block_hash: Hash
    action_root: Hash
    event_root: Hash
    state_root: Hash
    journal_ref: Hash
    snapshot_ref: Hash | None
    receipts_root: Hash
    proposer_id: Id
    timestamp_ms: I64
    signature: Signature
    term: U64
    attempt: U64
    directory_epoch: U64
    directory_hash: Hash
    prev_state_root: Hash
    segments: Annotated[tuple[JournalSegmentRef, ...], items_up_to(4096)]
    tick: U64
    directory_change: DirectoryChange | None
    key_id: KeyId


@message(14, "event")
class WorldEvent:
    """One change of the world, caused by an action or by the step itself."""

    event_id: U64
    tick: U64
    caused_by: HashOrEmpty
    kind: Kind
    payload: Value


@message(15, "receipt")
class Receipt:
    """What became of one committed action; ``ok`` false means it was executed and refused, with code and message."""

    action_id: Hash
    height: U64
    position: U64
    ok: bool
    code: ShortText
    message: LongText
    first_event_id: U64
    event_count: U64


@message(16, "events")
class EventSegment:
    """The content of a journal segment."""

    events: tuple[WorldEvent, ...]


@message(17, "receipts")
class ReceiptList:
    """All receipts of a block in batch order; its content id is the block's ``receipts_root``."""

    receipts: tuple[Receipt, ...]


@message(18, "state_chunk_ref")
class StateChunkRef:
    """A leaf of the state tree: its first key, content id and size."""

    first_key: Annotated[bytes, bytes_up_to(256)]
    content_hash: Hash
    size_bytes: U64


@message(19, "snapshot_manifest")
class SnapshotManifest:
    """The leaves of the state tree at a height (its ``epoch``), enough to rebuild the state root."""

    world_id: Id
    epoch: U64
    chunks: tuple[StateChunkRef, ...]
    state_root: Hash


@message(20, "proposal")
class Proposal:
    """A proposer's signed word for a block in a round, with the earlier round that had a quorum for it, if any."""

    world_id: Id
    height: U64
    term: U64
    attempt: U64
    valid_term: U64 | None
    valid_attempt: U64 | None
    block_hash: Hash
    directory_epoch: U64
    proposer_id: Id
    key_id: KeyId
    signature: Signature


@message(21, "proposal_body")
class ProposalBody:
    """A proposal together with the block and batch that it names."""

    proposal: Proposal
    block: WorldBlock
    batch: ActionBatch


@message(22, "vote")
class Vote:
    """A validator's signed prevote or precommit; ``block_hash`` null is a vote against deciding in this round."""

    world_id: Id
    height: U64
    term: U64
    attempt: U64
    phase: U64
    block_hash: Hash | None
    directory_epoch: U64
    validator_id: Id
    key_id: KeyId
    signature: Signature


@message(23, "certificate_vote")
class CertificateVote:
    """One precommit inside a certificate; the voted values are those of the certificate."""

    validator_id: Id
    key_id: KeyId
    signature: Signature


@message(24, "certificate")
class CommitCertificate:
    """Proof that a quorum of a directory epoch precommitted a block; anyone can check it offline."""

    world_id: Id
    height: U64
    term: U64
    attempt: U64
    block_hash: Hash
    directory_epoch: U64
    votes: Annotated[tuple[CertificateVote, ...], items_up_to(MAX_MEMBERS)]


@message(25, "head")
class WorldHeadAnnounce:
    """A node's signed word on the newest committed block it has, with the certificate that proves it."""

    world_id: Id
    height: U64
    block_hash: Hash
    state_root: Hash
    timestamp_ms: I64
    signature: Signature
    term: U64
    directory_epoch: U64
    announcer_id: Id
    key_id: KeyId
    certificate: CommitCertificate


@message(26, "block_bundle")
class BlockBundle:
    """All that is needed to verify and re-execute one height."""

    block: WorldBlock
    batch: ActionBatch
    certificate: CommitCertificate


@message(27, "get_blocks")
class GetBlocks:
    """Asks for up to ``limit`` consecutive bundles from a height on."""

    world_id: Id
    from_height: U64
    limit: U64


@message(28, "blocks")
class Blocks:
    """The answer to GetBlocks, in order of height; empty when there is none."""

    bundles: Annotated[tuple[BlockBundle, ...], items_up_to(1024)]


@message(29, "equivocation")
class Equivocation:
    """Two votes, or two proposals, of one validator that contradict each other; anyone can check it."""

    first: Vote | Proposal
    second: Vote | Proposal


@message(30, "revocations")
class Revocations:
    """A set of revocation statements, sorted by key id."""

    world_id: Id
    statements: Annotated[tuple[Revocation, ...], items_up_to(4096)]


@message(31, "actions")
class Actions:
    """Several actions in one gossip message or one submission."""

    actions: Annotated[tuple[ActionEnvelope, ...], items_up_to(MAX_ACTIONS_PER_BATCH)]
