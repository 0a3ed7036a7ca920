"""Who sends each message, by which way, and how many bytes a receiver takes before it decodes anything."""

from __future__ import annotations

import dataclasses

from agentworld_client.gateway import MAX_ANSWER_BYTES
from agentworld_core.codec import DEFAULT_LIMIT
from agentworld_core.consensus.parts import OFFER_BYTES
from agentworld_core.ledger.segments import SEGMENT_LIMIT
from agentworld_core.ledger.snapshot import CHUNK_LIMIT, MANIFEST_LIMIT
from agentworld_core.world.modules.receipts import MAX_RECEIPT_BYTES
from agentworld_core.world.tree_proof import MAX_NODE_BYTES
from agentworld_node.api.limits import MAX_BODY_BYTES
from agentworld_node.ledger_reads import BLOB_LIMIT
from agentworld_node.ledger_stores import RECORD_LIMIT
from agentworld_node.network.port import Limits
from agentworld_node.roles import evidence, gateway, handover, membership, parts, sync, validator

GOSSIP, STREAM, HTTP, LOG, BLOB, ACTION = "gossip", "request", "HTTP", "log", "blob", "action"
_MANY = 8 * membership.MESSAGE_LIMIT


@dataclasses.dataclass(frozen=True)
class Journey:
    """One way of a message: ``limit`` is what the receiver takes, in bytes."""

    way: str
    where: str
    sender: str
    limit: int


JOURNEYS: dict[str, tuple[Journey, ...]] = {
    "actions": (
        Journey(GOSSIP, "`aw.<world>.action`", "a node that took them from clients", gateway.MESSAGE_LIMIT),
        Journey(HTTP, "`POST /v1/actions`", "a client", MAX_BODY_BYTES),
    ),
    "action": (Journey(HTTP, "`POST /v1/actions`", "a client", MAX_BODY_BYTES),),
    "proposal_body": (
        Journey(GOSSIP, "`aw.<world>.consensus.proposal`", "the proposer of a round", validator.PROPOSAL_LIMIT),
        Journey(LOG, "kind 3 of votes, behind the height", "the node itself, before it sends it", RECORD_LIMIT),
    ),
    "proposal_offer": (
        Journey(GOSSIP, "`aw.<world>.consensus.offer`", "a validator that has a large proposal", OFFER_BYTES),
    ),
    "get_part": (
        Journey(STREAM, "`/aw/rr/1.0.0/get_part`, question", "a node that got an offer", parts.QUESTION_BYTES),
    ),
    "part": (Journey(STREAM, "`/aw/rr/1.0.0/get_part`, answer", "a node that has the batch", parts.ANSWER_BYTES),),
    "vote": (Journey(GOSSIP, "`aw.<world>.consensus.vote`", "a validator", validator.VOTE_LIMIT),),
    "head": (
        Journey(GOSSIP, "`aw.<world>.head`", "every node that has a block", sync.HEAD_LIMIT),
        Journey(HTTP, "`GET /v1/head`", "a node", DEFAULT_LIMIT),
    ),
    "directory": (
        Journey(GOSSIP, "`aw.<world>.membership`", "a node that governance gave it to", membership.MESSAGE_LIMIT),
        Journey(HTTP, "`POST /control/v1/directories`", "governance", MAX_BODY_BYTES),
        Journey(HTTP, "`GET /v1/directories/{epoch}`", "a node", DEFAULT_LIMIT),
        Journey(BLOB, "by content id", "a node, with the block that carried it", RECORD_LIMIT),
    ),
    "revocation": (
        Journey(GOSSIP, "`aw.<world>.membership.revoke`", "a node that has just learned it", membership.MESSAGE_LIMIT),
        Journey(HTTP, "`POST /control/v1/revocations`", "governance", MAX_BODY_BYTES),
        Journey(LOG, "kind 4", "the node itself", RECORD_LIMIT),
    ),
    "revocations": (
        Journey(STREAM, "`/aw/rr/1.0.0/get_revocations`, answer", "a node that holds other ones", _MANY),
        Journey(HTTP, "`GET /v1/revocations`", "a node", DEFAULT_LIMIT),
    ),
    "get_blocks": (Journey(STREAM, "`/aw/rr/1.0.0/get_blocks`, question", "a node that is behind", 1024),),
    "blocks": (
        Journey(STREAM, "`/aw/rr/1.0.0/get_blocks`, answer", "a node that has them", 2 * sync.BYTES_PER_ANSWER),
        Journey(HTTP, "`GET /v1/blocks`", "a node", MAX_ANSWER_BYTES),
    ),
    "block_bundle": (
        Journey(HTTP, "`GET /v1/blocks/{block}`", "a node", DEFAULT_LIMIT),
        Journey(LOG, "kind 2", "the node itself, once the block is decided", RECORD_LIMIT),
    ),
    "genesis": (Journey(HTTP, "`GET /v1/genesis`", "a node", DEFAULT_LIMIT),),
    "state_proof": (Journey(HTTP, "`GET /v1/state/{key}?proof=1`, in hexadecimal", "a node", DEFAULT_LIMIT),),
    "effect_receipt": (
        Journey(ACTION, "`receipt` in the payload of `effect.settle`", "who carried the effect out", MAX_RECEIPT_BYTES),
    ),
    "batch": (Journey(BLOB, "`action_root` of a block", "a node", BLOB_LIMIT),),
    "events": (Journey(BLOB, "`segments` of a block", "a node", SEGMENT_LIMIT),),
    "journal": (Journey(BLOB, "`journal_ref` of a block", "a node", BLOB_LIMIT),),
    "receipts": (Journey(BLOB, "`receipts_root` of a block", "a node", BLOB_LIMIT),),
    "snapshot_manifest": (Journey(BLOB, "`snapshot_ref` of a block", "a node", MANIFEST_LIMIT),),
    "state_chunk": (Journey(BLOB, "`chunks` of a snapshot_manifest", "a node", CHUNK_LIMIT),),
    "tree_leaf": (Journey(BLOB, "`state_root` and digests of tree_inner", "in proofs", MAX_NODE_BYTES),),
    "tree_inner": (Journey(BLOB, "`state_root` and digests of tree_inner", "in proofs", MAX_NODE_BYTES),),
    "equivocation": (
        Journey(GOSSIP, "`aw.<world>.consensus.evidence`", "a node that has just learned it", evidence.PROOF_LIMIT),
        Journey(HTTP, "`GET /v1/evidence/{hash}`", "a node", DEFAULT_LIMIT),
        Journey(LOG, "kind 70", "the node itself", RECORD_LIMIT),
    ),
    "evidence": (
        Journey(STREAM, "`/aw/rr/1.0.0/get_evidence`, answer", "a node that holds other ones", evidence.LIST_LIMIT),
        Journey(HTTP, "`GET /v1/evidence`", "a node", DEFAULT_LIMIT),
    ),
    "writer_transfer": (
        Journey(STREAM, "`/aw/rr/1.0.0/transfer_writer`, question", "a node that was asked", handover.MESSAGE_LIMIT),
        Journey(HTTP, "`POST /control/v1/writer`", "governance", MAX_BODY_BYTES),
    ),
    "stored_vote": (
        Journey(LOG, "kind 1 of votes, behind the height", "the node itself, before it sends the vote", RECORD_LIMIT),
    ),
    "snapshot_mark": (Journey(LOG, "kind 5", "the node itself", DEFAULT_LIMIT),),
}

SIGNERS = {
    "action": "the actor, with `public_key`; the first `agent.register` binds it to `actor_id`",
    "batch": "the proposer `proposer_id`, with a key that the directory at the block's height has for it",
    "block": "the proposer `proposer_id`, with a key that the directory at its height has for it",
    "proposal": "the member `proposer_id`, with a key that the directory at its height has for it",
    "vote": "the member `validator_id`, with a key that the directory at its height has for it",
    "effect_receipt": "who carried the effect out, with `public_key`: one that the capability or governance names",
    "head": "the node `announcer_id`; the certificate proves the head, so receivers need not check this signature",
    "directory": "governance: the threshold of the epoch before, and of its own when the governance changes",
    "revocation": "governance: the threshold of the newest epoch; each key at most once, in order of key ids",
    "genesis": "governance: the threshold of the directory inside",
    "writer_transfer": "governance: the threshold of the directory in force",
}

NETWORK = Limits()
