"""The status document of a node: what ``GET /v1/status`` answers and what both homes base their next steps on."""

from __future__ import annotations

import time
from importlib import metadata
from typing import TYPE_CHECKING, Any

from agentworld_node.node_progress import verdict_document

if TYPE_CHECKING:
    from agentworld_node.node import Node


def node_status(node: Node) -> dict[str, Any]:
    """Returns everything the node says of itself; heights and epochs are numbers, hashes and key ids are hex."""
    chain, config = node.ledger.chain, node.config
    certificate = node.ledger.certificate(chain.height)
    in_force = chain.scheduled_at(chain.next_height)
    pending = chain.pending
    signer = node.keyring.signer_at(chain.next_height)
    keys = node.keyring.folder.keys
    holder, term = node.writer()
    network_height = node.sync.network_height
    reason = node.not_ready()
    lag = max(0, network_height - chain.height)
    return {
        "world_id": chain.world_id,
        "node_id": config.node_id,
        "roles": list(config.roles),
        "peer_id": node.network.peer_id,
        "version": metadata.version("agent-world"),
        "genesis_hash": chain.genesis_hash,
        "uptime_ms": int((time.monotonic() - node.started_at) * 1000),
        "head": {
            "height": chain.height,
            "block_hash": chain.block_hash,
            "state_root": chain.state_root,
            "time_ms": chain.time_ms,
            "term": chain.term,
            "signers": 0 if certificate is None else len(certificate.votes),
        },
        "directory": {
            "epoch": in_force.directory.epoch,
            "hash": in_force.directory_hash,
            "effective_height": in_force.effective_height,
        },
        "pending_directory": None
        if pending is None
        else {
            "epoch": pending.directory.epoch,
            "hash": pending.directory_hash,
            "effective_height": pending.effective_height,
        },
        "revocations": {
            "set_hash": node.keyring.revocations.hash,
            "key_ids": sorted(node.keyring.revocations.key_ids),
        },
        "signing": {
            "active_key_id": None if signer is None else signer.key_id,
            "available_key_ids": sorted(keys.signers),
            "problems": list(keys.problems),
            "voting": signer is not None,
        },
        "writer": {"holder": holder, "term": term},
        "sync": {
            "state": "in_sync" if reason is None else "lagging" if node.sync.in_touch else "syncing",
            "reason": reason,
            "lag": lag,
            "network_height": network_height,
        },
        "consensus": verdict_document(node.progress.verdict()),
        "mempool": {"actions": len(node.mempool)},
        "peers": {"connected": list(node.network.connected()), "expected": len(node.peers_file.peers)},
        "storage": {"state": "full" if node.ledger.full else "ok"},
        "evidence": node.evidence.rows(),
    }
