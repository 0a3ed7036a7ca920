"""Where a node's leases live, as its configuration says: a file, Kubernetes, or nowhere."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from agentworld_core.errors import NotAvailable
from agentworld_core.ordering.lease import LeaseTimings
from agentworld_core.topology.node_config import LeaseConfig
from agentworld_node.lease.file import FileLeaseStore
from agentworld_node.lease.loop import LeaseLoop
from agentworld_node.lease.port import LeaseStore

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 10.0
_MISSED_HEARTBEATS = 4


def lease_store(config: LeaseConfig) -> LeaseStore | None:
    """Returns the store of the writer lease, None for a world that has none."""
    if config.kind == "none":
        return None
    if config.kind == "file":
        return FileLeaseStore(Path(config.path))
    # Late, because only pods need it.
    from agentworld_node.kube.leases import KubernetesLeases, KubernetesLeaseStore

    return KubernetesLeaseStore(KubernetesLeases(config.namespace), config.name)


def lease_loop(
    config: LeaseConfig, *, node_id: str, wanted: Callable[[], bool], term_floor: Callable[[], int]
) -> LeaseLoop | None:
    """Returns the loop that keeps or watches the writer lease for a node, None for a world that has none."""
    store = lease_store(config)
    if store is None:
        return None
    timings = LeaseTimings(
        duration_ms=config.duration_ms, renew_deadline_ms=config.renew_deadline_ms, retry_ms=config.retry_period_ms
    )
    return LeaseLoop(node_id=node_id, store=store, timings=timings, wanted=wanted, term_floor=term_floor)


async def beat_forever(config: LeaseConfig, node_id: str) -> None:
    """Renews this node's own Lease, by which the operator sees that it lives, until it is cancelled."""
    from agentworld_node.kube.leases import KubernetesLeases, renew_heartbeat

    leases = KubernetesLeases(config.namespace)
    seconds = int(_MISSED_HEARTBEATS * HEARTBEAT_SECONDS)
    silent = False
    while True:
        try:
            await renew_heartbeat(leases, config.heartbeat_name, node_id, duration_seconds=seconds)
        except NotAvailable as error:
            if not silent:
                log.warning("the heartbeat cannot be written: %s", error)
            silent = True
        else:
            silent = False
        await asyncio.sleep(HEARTBEAT_SECONDS)
