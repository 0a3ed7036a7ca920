"""A log in the format of production, on a disk that keeps what was synced and any sectors of what was being written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agentworld_core.codec import encode
from agentworld_core.consensus.events import LockedValue
from agentworld_core.messages import Vote
from agentworld_node.records import VOTE, StoredVote, stored_lock
from agentworld_node.storage.wal_format import (
    FIRST_LINK,
    Link,
    Record,
    SegmentScan,
    encode_record,
    encode_segment_header,
)
from tests.simulation.kernel import Kernel

SECTOR = 512
_SYNC_MS = (1, 2, 5, 40, 250)
_SLOW_SYNC_MS = (250, 900, 2000)


class Disk:
    """Records are appended at once and durable after a sync; one sync covers all that was appended before it began."""

    def __init__(self, kernel: Kernel, name: str, *, torn_writes: bool):
        self._kernel = kernel
        self._name = name
        self._rng = kernel.rng(f"disk/{name}")
        self._torn_writes = torn_writes
        self._mark = self._rng.randbytes(8)
        self._data = bytearray(encode_segment_header(self._mark, FIRST_LINK))
        self._link: Link = FIRST_LINK
        self._durable = FIRST_LINK.sequence
        self._written: tuple[list[tuple[bytes, bytes | None, Callable[[], None]]], Link] | None = None
        self._unwritten: list[tuple[int, bytes, bytes | None, Callable[[], None]]] = []
        self._life = 0
        self.slow_until = 0
        self.fail_next: Callable[[], None] | None = None
        self.signatures: dict[bytes, None] = {}

    def append(self, kind: int, message: Any, then: Callable[[], None]) -> None:
        """Appends the record and calls back once it is durable, unless a crash comes first."""
        self._unwritten.append((kind, encode(message), None, then))
        if self._written is None:
            self._begin()

    def append_vote(self, vote: Vote, lock: LockedValue | None, then: Callable[[], None]) -> None:
        """Appends a signed vote with its lock."""
        data = encode(StoredVote(vote, stored_lock(lock)))
        self._unwritten.append((VOTE, data, vote.signature, then))
        if self._written is None:
            self._begin()

    def crash(self) -> None:
        """Loses what was not synced, but for any sectors of it that happened to be written."""
        self._life += 1
        self.fail_next = None
        if self._written is not None or self._unwritten:
            self._kernel.reach("lost records")
        if self._written is not None:
            self._tear(b"".join(data for data, _, _ in self._written[0]))
        self._written = None
        self._unwritten.clear()

    def records(self) -> list[Record]:
        """Returns what is on disk, as production finds it: a torn tail is cut, damage is an error."""
        scan = SegmentScan(bytes(self._data), file=self._name)
        records = list(scan.records())
        torn = scan.torn_tail(last_segment=True)
        if torn is not None:
            self._kernel.reach("torn tail")
            if torn.later_records:
                self._kernel.reach("a later record without an earlier one")
            del self._data[torn.offset :]
        self._link, self._durable = scan.link, scan.link.sequence
        return records

    def _tear(self, data: bytes) -> None:
        """Keeps a part of the write: nothing, all, a beginning, or whichever sectors were written first."""
        fate = self._rng.randrange(4)
        if fate == 1:
            self._data += data
        elif fate == 2:
            self._data += data[: self._rng.randrange(len(data) + 1)]
        elif fate == 3 and self._torn_writes:
            begin = len(self._data)
            kept = bytearray(data)
            first = SECTOR - begin % SECTOR
            for start in (0, *range(first, len(data), SECTOR)):
                end = first if start == 0 else start + SECTOR
                if self._rng.random() < 0.5:
                    kept[start:end] = bytes(len(kept[start:end]))
            self._data += kept

    def _begin(self) -> None:
        batch, link = [], self._link
        for kind, payload, signature, then in self._unwritten:
            data, link = encode_record(kind, payload, mark=self._mark, link=link, synced=self._durable)
            batch.append((data, signature, then))
        self._unwritten = []
        self._written = (batch, link)
        life = self._life
        slow = self.slow_until > self._kernel.now
        delay = self._rng.choice(_SLOW_SYNC_MS if slow else _SYNC_MS)
        self._kernel.after(delay, lambda: self._finish(life))

    def _finish(self, life: int) -> None:
        if life != self._life or self._written is None:
            return
        if self.fail_next is not None:
            fail, self.fail_next = self.fail_next, None
            fail()
            return
        batch, self._link = self._written
        self._written = None
        for data, signature, _ in batch:
            self._data += data
            if signature is not None:
                self.signatures[signature] = None
        self._durable = self._link.sequence
        for _, _, then in batch:
            if life == self._life:
                then()
        if life == self._life and self._unwritten and self._written is None:
            self._begin()
