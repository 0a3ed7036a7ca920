"""Holds a lease until it is killed: ``python -m tests.bench.lease_holder file PATH`` or ``etcd PORT``.

One line on standard output says that the lease is held.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path

from agentworld_core.ordering.lease import LeaseTimings
from agentworld_node.lease.file import FileLeaseStore
from agentworld_node.lease.loop import LeaseLoop
from tests.bench.etcd_peer import EtcdClient

TTL_SECONDS = 2
"""The shortest that etcd grants with the election timeout it ships with."""
TIMINGS = LeaseTimings(duration_ms=TTL_SECONDS * 1000, renew_deadline_ms=1_500, retry_ms=TTL_SECONDS * 1000 // 3)
"""Both renew three times in a duration, as etcd's own client does."""
KEY = "lease"


def file_loop(path: Path, node_id: str, *, wanted: Callable[[], bool] = lambda: True) -> LeaseLoop:
    """Returns one side of the lease in a file."""
    return LeaseLoop(node_id=node_id, store=FileLeaseStore(path), timings=TIMINGS, wanted=wanted, term_floor=lambda: 0)


async def _hold_file(path: Path) -> None:
    loop = file_loop(path, "holder")
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
    if sys.argv[1] == "file":
        asyncio.run(_hold_file(Path(sys.argv[2])))
    else:
        _hold_etcd(int(sys.argv[2]))
