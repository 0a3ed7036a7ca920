"""The writer lease of nodes that share one process and one event loop: a record in memory, gone with the process."""

from __future__ import annotations

import asyncio

from agentworld_core.ordering.lease import LeaseRecord, LeaseWrite


class MemoryLease:
    """The record of one world; every node gets a store of its own from it."""

    def __init__(self) -> None:
        self.record: LeaseRecord | None = None
        self._written = asyncio.Event()

    @property
    def version(self) -> int:
        """How often the record has been written."""
        return 0 if self.record is None else int(self.record.version)

    def store(self) -> MemoryLeaseStore:
        """Returns one node's way to the record."""
        return MemoryLeaseStore(self)

    def write(self, wanted: LeaseWrite) -> LeaseRecord | None:
        """Replaces the record and wakes who waits for that; None when the write may not replace it."""
        if not wanted.may_replace(self.record):
            return None
        self.record = LeaseRecord(
            holder=wanted.holder, term=wanted.term, duration_ms=wanted.duration_ms, version=str(self.version + 1)
        )
        self._written.set()
        self._written = asyncio.Event()
        return self.record

    async def written_after(self, version: int) -> int:
        """Returns the version once it is not the given one."""
        while self.version == version:
            await self._written.wait()
        return self.version


class MemoryLeaseStore:
    """Keeps the lease in the record that all stores of a ``MemoryLease`` share; it is always available."""

    def __init__(self, lease: MemoryLease):
        self._lease = lease
        self._told = 0

    async def read(self) -> LeaseRecord | None:
        """Returns the record, None before the first write."""
        return self._lease.record

    async def write(self, wanted: LeaseWrite) -> LeaseRecord | None:
        """Writes the record if its version is still the expected one and its term not higher, else None."""
        return self._lease.write(wanted)

    async def changed(self) -> None:
        """Returns when the record has been written since the last call."""
        self._told = await self._lease.written_after(self._told)
