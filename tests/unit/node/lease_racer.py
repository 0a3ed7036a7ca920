"""A process that takes the lease of a file again and again; prints every write that succeeded."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from agentworld_core.ordering.lease import LeaseWrite
from agentworld_node.lease.file import FileLeaseStore


async def race(path: Path, name: str, rounds: int) -> list[tuple[str, int]]:
    store = FileLeaseStore(path)
    won = []
    for _ in range(rounds):
        record = await store.read()
        wanted = LeaseWrite(
            holder=name,
            term=(record.term if record else 0) + 1,
            duration_ms=1000,
            expected_version=record.version if record else None,
        )
        stored = await store.write(wanted)
        if stored is not None:
            won.append((stored.version, stored.term))
    return won


if __name__ == "__main__":
    json.dump(asyncio.run(race(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))), sys.stdout)
