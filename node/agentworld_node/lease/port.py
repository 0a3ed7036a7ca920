"""What a store of the writer lease offers: read the record, and write it if it has not changed meanwhile."""

from __future__ import annotations

from typing import Protocol

from agentworld_core.ordering.lease import LeaseRecord, LeaseWrite


class LeaseStore(Protocol):
    """Compare-and-swap on one record; errors of the store are NotAvailable, so that the loop tries again."""

    async def read(self) -> LeaseRecord | None:
        """Returns the record, None when nobody has ever held the lease."""
        ...

    async def changed(self) -> None:
        """Returns when somebody may have written the record since the last call; waits for as long as that takes.

        It may miss a write and never fails: who waits for it also reads at times of its own.
        """
        ...

    async def write(self, wanted: LeaseWrite) -> LeaseRecord | None:
        """Writes the record and returns it as stored, or None when it has changed since, or has a higher term."""
        ...
