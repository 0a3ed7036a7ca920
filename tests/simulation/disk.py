"""A log that survives crashes up to what was synced, and sometimes a bit more."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from tests.simulation.kernel import Kernel

Record = tuple[str, Any]


class Disk:
    """Records are appended at once and durable after a sync; one sync covers all that was appended before it began."""

    def __init__(self, kernel: Kernel, name: str):
        self._kernel = kernel
        self._rng = kernel.rng(f"disk/{name}")
        self.durable: list[Record] = []
        self.names: dict[tuple[str, int, bytes], None] = {}
        self._pending: list[tuple[Record, Callable[[], None]]] = []
        self._syncing = False
        self._life = 0

    def append(self, record: Record, then: Callable[[], None]) -> None:
        """Appends the record and calls back once it is durable, unless a crash comes first."""
        self._pending.append((record, then))
        if not self._syncing:
            self._begin()

    def crash(self) -> None:
        """Loses what was not synced, but for a beginning of it that happened to be written."""
        if self._pending:
            self._kernel.reach("lost records")
            kept = self._rng.randrange(len(self._pending) + 1)
            self._keep(record for record, _ in self._pending[:kept])
        self._pending.clear()
        self._syncing = False
        self._life += 1

    def _keep(self, records: Iterable[Record]) -> None:
        for kind, value in records:
            self.durable.append((kind, value))
            if kind == "vote":
                self.names[kind, value[0].height, value[0].signature] = None

    def _begin(self) -> None:
        self._syncing = True
        covered, life = len(self._pending), self._life
        delay = self._rng.choice((1, 2, 5, 40, 250))
        self._kernel.after(delay, lambda: self._finish(covered, life))

    def _finish(self, covered: int, life: int) -> None:
        if life != self._life:
            return
        done, self._pending = self._pending[:covered], self._pending[covered:]
        self._keep(record for record, _ in done)
        self._syncing = False
        for _, then in done:
            if life == self._life:
                then()
        if self._pending and not self._syncing:
            self._begin()
