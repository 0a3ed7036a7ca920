"""Names on the wire are frozen: who changes one parts its nodes from all others."""

from __future__ import annotations

import pytest

from agentworld_core.errors import (
    RETRYABLE_WIRE_CODES,
    WIRE_CODES,
    ActorLimit,
    AgentWorldError,
    Busy,
    Expired,
    HashMismatch,
    InvalidField,
    InvalidSignature,
    KeyRevoked,
    MalformedEncoding,
    NotAvailable,
    NotFound,
    RateLimited,
    StateMismatch,
    TimedOut,
    Unauthorized,
    Unsupported,
)
from agentworld_core.ledger.errors import DirectoryPending, ExecutionMismatch, HeadConflict
from agentworld_core.names import TOPICS
from agentworld_core.world.modules.errors import SandboxMissing
from agentworld_node.network.port import PeerUnavailable
from agentworld_node.roles import evidence, handover, membership, parts, sync
from agentworld_node.storage.errors import BlobHashMismatch, BlobNotFound, InvalidBlobHash, StorageFull


@pytest.mark.box("S1.1", "protocols")
def test_requests_of_nodes_have_these_names() -> None:
    used = [
        sync.GET_BLOCKS,
        parts.GET_PART,
        membership.GET_REVOCATIONS,
        evidence.GET_EVIDENCE,
        handover.GET_WRITER,
        handover.TRANSFER_WRITER,
        handover.PREPARE_WRITER,
        handover.TAKE_WRITER,
        handover.LEASE_CHANGED,
    ]
    assert used == [
        "/aw/rr/1.0.0/get_blocks",
        "/aw/rr/1.0.0/get_part",
        "/aw/rr/1.0.0/get_revocations",
        "/aw/rr/1.0.0/get_evidence",
        "/aw/rr/1.0.0/get_writer",
        "/aw/rr/1.0.0/transfer_writer",
        "/aw/rr/1.0.0/prepare_writer",
        "/aw/rr/1.0.0/take_writer",
        "/aw/rr/1.0.0/lease_changed",
    ]


@pytest.mark.box("S1.1", "topics")
def test_there_are_these_topics_and_no_others() -> None:
    assert set(TOPICS) == {
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
    }


@pytest.mark.box("S1.3", "codes")
def test_there_are_ten_codes_of_which_four_may_be_retried() -> None:
    assert {
        "ERR_NOT_FOUND",
        "ERR_BAD_REQUEST",
        "ERR_INVALID_HASH",
        "ERR_STATE_MISMATCH",
        "ERR_UNSUPPORTED",
        "ERR_UNAUTHORIZED",
        "ERR_BUSY",
        "ERR_RATE_LIMITED",
        "ERR_TIMEOUT",
        "ERR_NOT_AVAILABLE",
    } == WIRE_CODES
    assert {"ERR_BUSY", "ERR_RATE_LIMITED", "ERR_TIMEOUT", "ERR_NOT_AVAILABLE"} == RETRYABLE_WIRE_CODES


KINDS: dict[type[AgentWorldError], tuple[str, str]] = {
    NotFound: ("not_found", "ERR_NOT_FOUND"),
    BlobNotFound: ("blob_not_found", "ERR_NOT_FOUND"),
    HashMismatch: ("hash_mismatch", "ERR_INVALID_HASH"),
    BlobHashMismatch: ("blob_hash_mismatch", "ERR_INVALID_HASH"),
    InvalidBlobHash: ("blob_hash_invalid", "ERR_INVALID_HASH"),
    StateMismatch: ("state_mismatch", "ERR_STATE_MISMATCH"),
    ExecutionMismatch: ("execution_mismatch", "ERR_STATE_MISMATCH"),
    HeadConflict: ("head_conflict", "ERR_STATE_MISMATCH"),
    DirectoryPending: ("directory_pending", "ERR_STATE_MISMATCH"),
    InvalidField: ("invalid_field", "ERR_BAD_REQUEST"),
    MalformedEncoding: ("malformed_encoding", "ERR_BAD_REQUEST"),
    InvalidSignature: ("invalid_signature", "ERR_UNAUTHORIZED"),
    Unauthorized: ("unauthorized", "ERR_UNAUTHORIZED"),
    KeyRevoked: ("key_revoked", "ERR_UNAUTHORIZED"),
    Unsupported: ("unsupported", "ERR_UNSUPPORTED"),
    Busy: ("busy", "ERR_BUSY"),
    RateLimited: ("rate_limited", "ERR_RATE_LIMITED"),
    ActorLimit: ("actor_limit", "ERR_RATE_LIMITED"),
    TimedOut: ("timed_out", "ERR_TIMEOUT"),
    Expired: ("action_expired", "ERR_TIMEOUT"),
    NotAvailable: ("not_available", "ERR_NOT_AVAILABLE"),
    PeerUnavailable: ("peer_unavailable", "ERR_NOT_AVAILABLE"),
    StorageFull: ("storage_full", "ERR_NOT_AVAILABLE"),
    SandboxMissing: ("sandbox_missing", "ERR_NOT_AVAILABLE"),
}


@pytest.mark.box("S1.3", "kinds")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_of_refusal_keeps_its_code(kind: type[AgentWorldError]) -> None:
    assert (kind.code, kind.wire) == KINDS[kind]
    assert len({code for code, _ in KINDS.values()}) == len(KINDS)
