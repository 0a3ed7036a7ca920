"""The lease service of simulated nodes: one record with compare-and-swap, slow, away, deleted or edited at times."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import Callable

from agentworld_core.errors import NotAvailable
from agentworld_core.ordering.lease import LeaseRecord, LeaseWrite


class LeaseService:
    """Keeps the record and who has held which term; ``note`` is told of every change of the holder."""

    def __init__(self, rng: random.Random, note: Callable[[str, str], None]):
        self.record: LeaseRecord | None = None
        self.away = False
        self.seconds = (0.0005, 0.01)
        self.granted: set[tuple[int, str | None]] = set()
        self._rng = rng
        self._note = note
        self._versions = 0
        self._written = asyncio.Event()

    async def read(self) -> LeaseRecord | None:
        await self._reach()
        return self.record

    async def write(self, wanted: LeaseWrite) -> LeaseRecord | None:
        await self._reach()
        known = self.record
        if wanted.expected_version != (None if known is None else known.version):
            return None
        if known is not None and wanted.term < known.term:
            return None
        self._put(LeaseRecord(holder=wanted.holder, term=wanted.term, duration_ms=wanted.duration_ms, version=""))
        if known is None or (known.holder, known.term) != (wanted.holder, wanted.term):
            self._note("written", f"{wanted.holder or 'nobody'} has term {wanted.term}")
        written = self.record
        await self._reach()
        return written

    async def changed(self) -> None:
        await self._written.wait()

    def delete(self) -> None:
        """Forgets the record, as when somebody deletes the object."""
        self._note("deleted", "")
        self.record = None
        self._tell()

    def edit(self, holder: str | None, term: int) -> None:
        """Writes what nobody asked for, as when somebody edits the object by hand."""
        if self.record is not None:
            self._note("edited", f"{holder or 'nobody'} has term {term}")
            self._put(dataclasses.replace(self.record, holder=holder, term=term))

    def _put(self, record: LeaseRecord) -> None:
        self._versions += 1
        self.record = dataclasses.replace(record, version=str(self._versions))
        self.granted.add((record.term, record.holder))
        self._tell()

    def _tell(self) -> None:
        self._written.set()
        self._written = asyncio.Event()

    async def _reach(self) -> None:
        await asyncio.sleep(self._rng.uniform(*self.seconds))
        if self.away:
            raise NotAvailable("the lease service is away")
