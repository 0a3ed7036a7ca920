"""The gauges of a node: where each is read from when the metrics page is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentworld_node.node import Node


def register_gauges(node: Node) -> None:
    """Registers the gauges of everything that the node is made of."""
    metrics, ledger = node.metrics, node.ledger
    metrics.gauge("agentworld_head_height", lambda: ledger.height)
    metrics.gauge("agentworld_head_time_seconds", lambda: ledger.chain.time_ms / 1000)
    metrics.gauge("agentworld_directory_epoch", lambda: ledger.chain.directory_at(ledger.height + 1).epoch)
    metrics.gauge("agentworld_revoked_keys", lambda: len(node.keyring.revocations))
    metrics.gauge("agentworld_mempool_actions", lambda: len(node.mempool))
    metrics.gauge("agentworld_peers_connected", lambda: len(node.network.connected()))
    metrics.gauge("agentworld_writer", lambda: int(node.lease is not None and node.lease.is_held))
    metrics.gauge("agentworld_lease_term", lambda: node.writer()[1])
    metrics.gauge("agentworld_network_height", lambda: node.sync.network_height)
    metrics.gauge("agentworld_storage_full", lambda: int(ledger.full))
    metrics.gauge("agentworld_stalled", lambda: int(node.progress.verdict().stalled))
    metrics.table("agentworld_network_total", "name", node.network.counters)
