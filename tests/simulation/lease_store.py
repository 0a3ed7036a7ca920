"""The lease service: a record with compare-and-swap that can be slow, away, lost, or split in two."""

from __future__ import annotations

import dataclasses

from agentworld_core.ordering.lease import LeaseRecord, LeaseWrite
from tests.simulation.kernel import Kernel


class LeaseStore:
    """One record; during a split every node sees one of two, which then disagree."""

    def __init__(self, kernel: Kernel):
        self._kernel = kernel
        self._records: dict[int, LeaseRecord | None] = {0: None}
        self._halves: dict[str, int] = {}
        self._versions = 0
        self.away = False
        self.may_have_two_holders = False

    def read(self, node: str) -> LeaseRecord | None:
        """Returns what the node reads."""
        return self._records[self._halves.get(node, 0)]

    def write(self, node: str, wish: LeaseWrite) -> LeaseRecord | None:
        """Writes if the version is as expected; None where it is not."""
        half = self._halves.get(node, 0)
        record = self._records[half]
        if wish.expected_version != (record.version if record is not None else None):
            return None
        self._versions += 1
        stored = LeaseRecord(
            holder=wish.holder, term=wish.term, duration_ms=wish.duration_ms, version=str(self._versions)
        )
        self._records[half] = stored
        where = f" (half {half})" if half else ""
        self._kernel.note("lease", "written", f"{wish.holder or 'nobody'} has term {wish.term}{where}")
        return stored

    def lose(self) -> None:
        """Forgets the record, as when somebody deletes the object."""
        self._kernel.note("lease", "deleted", "")
        self._records[0] = None
        self.may_have_two_holders = True

    def edit(self, *, holder: str | None, term: int) -> None:
        """Writes what nobody asked for, as when somebody edits the object by hand."""
        record = self._records[0]
        if record is None:
            return
        self._kernel.note("lease", "edited", f"{holder or 'nobody'} has term {term}")
        self._versions += 1
        self._records[0] = dataclasses.replace(record, holder=holder, term=term, version=str(self._versions))
        self.may_have_two_holders = True

    @property
    def record(self) -> LeaseRecord | None:
        """The record, or the first of two."""
        return self._records[0]

    def split(self, half: dict[str, int]) -> None:
        """Lets some nodes see a record of their own from now on."""
        self._kernel.note("lease", "split", " ".join(f"{name}:{side}" for name, side in half.items()))
        self._halves = half
        self._records[1] = self._records[0]
        self.may_have_two_holders = True

    def join(self) -> None:
        """Lets all nodes see the first record again."""
        self._halves = {}
