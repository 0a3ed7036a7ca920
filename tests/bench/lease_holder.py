"""Holds a lease until it is killed: ``python -m tests.bench.lease_holder WHERE``.

WHERE is ``file PATH``, ``kubernetes KUBECONFIG LEASE`` or ``etcd PORT``.

One line on standard output says that the lease is held.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from agentworld_core.ordering.lease import LeaseTimings
from agentworld_node.lease.file import FileLeaseStore
from agentworld_node.lease.loop import LeaseLoop
from agentworld_node.lease.port import LeaseStore
from tests.bench.apiserver import lease_store
from tests.bench.etcd_peer import EtcdClient

TTL_SECONDS = 2
"""The shortest that etcd grants with the election timeout it ships with."""
TIMINGS = LeaseTimings(duration_ms=TTL_SECONDS * 1000, renew_deadline_ms=1_500, retry_ms=TTL_SECONDS * 1000 // 3)
"""Both renew three times in a duration, as etcd's own client does."""
KEY = "lease"


def open_store(where: Sequence[str]) -> LeaseStore:
    """Returns the store of ours that the words name."""
    if where[0] == "file":
        return FileLeaseStore(Path(where[1]))
    return lease_store(Path(where[1]), where[2])


def lease_loop(store: LeaseStore, node_id: str) -> LeaseLoop:
    """Returns one side of a lease of ours."""
    return LeaseLoop(node_id=node_id, store=store, timings=TIMINGS, wanted=lambda: True, term_floor=lambda: 0)


async def _hold(store: LeaseStore) -> None:
    loop = lease_loop(store, "holder")
    loop.on_view = lambda _term, holder: print("held" if holder == "holder" else "lost", flush=True)
    await loop.run()


def _hold_etcd(port: int) -> None:
    client = EtcdClient(port)
    lease = client.grant(TTL_SECONDS)
    while not client.create(KEY, "holder", lease):
        time.sleep(0.01)
        client.keep_alive(lease)
    print("held", flush=True)
    while True:
        time.sleep(TIMINGS.retry_ms / 1000)
        client.keep_alive(lease)


if __name__ == "__main__":
    if sys.argv[1] == "etcd":
        _hold_etcd(int(sys.argv[2]))
    else:
        asyncio.run(_hold(open_store(sys.argv[1:])))
