"""The write-ahead log: what ``sync`` has returned for is there after any crash, in order, unchanged.

``append`` only takes a place in the order and keeps the record in memory; ``sync`` writes everything appended so far
and syncs it once for all who wait (group commit). Records are never written while an earlier write is not synced: that
is what lets recovery tell a torn tail from damage, see ``wal_format``.

When a sync fails, nobody can know what reached the disk, and asking again may wrongly succeed; so the log then refuses
everything until it is opened again. A full disk is different: the half-written part is taken back, the records stay in
memory in their order, and the next ``sync`` tries again.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from array import array
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self

from agentworld_core.errors import AgentWorldError, InvalidField, NotFound
from agentworld_node.shielding import begin
from agentworld_node.storage.errors import (
    CorruptLog,
    FolderLocked,
    LogBusy,
    LogClosed,
    LogFailed,
    RecordTooLarge,
    StorageFull,
    typed_errors,
)
from agentworld_node.storage.files import LOCAL_FILES, Closing, FileSystem, make_folders
from agentworld_node.storage.wal_format import MAX_KIND, RECORD_HEADER_BYTES, Record, TornTail, encode_record
from agentworld_node.storage.wal_segments import SegmentFolder, label_of

logger = logging.getLogger(__name__)

_LOCK = "lock"


@dataclass(frozen=True, slots=True)
class LogLimits:
    """Bounds of a log in bytes, see ``WriteAheadLog.open``."""

    segment_bytes: int
    record_bytes: int
    buffer_bytes: int


class WriteAheadLog:
    """An ordered, durable sequence of records in one folder, numbered from 1 without gaps.

    ``append`` and ``sync`` belong to one event loop; the blocking methods may be called from any thread. Raises
    LogClosed after ``close`` and LogFailed after an operation whose outcome is not known.
    """

    def __init__(self, segments: SegmentFolder, *, lock: Closing, limits: LogLimits):
        self._segments = segments
        self._lock = lock
        self._limits = limits
        self._appended = segments.link.sequence
        self._durable = segments.link.sequence
        self._pending: deque[tuple[int, bytes]] = deque()
        self._pending_bytes = 0
        self._failure: BaseException | None = None
        self._closed = False
        self._state = threading.Lock()  # the fields above; held for moments
        self._writing = threading.Lock()  # the files; held during a sync
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="wal")
        self._flight: asyncio.Task[None] | None = None

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        segment_bytes: int = 16 * 2**20,
        record_bytes: int = 16 * 2**20,
        buffer_bytes: int = 64 * 2**20,
        check_all: bool = False,
        files: FileSystem = LOCAL_FILES,
    ) -> Self:
        """Opens or creates the log in the folder and recovers it.

        What was noted beside the segments is not read again; damage there shows when it is read. With ``check_all``
        every record is checked now, and no notes are made.

        A segment is closed when it has reached ``segment_bytes``; a payload has at most ``record_bytes``; at most
        ``buffer_bytes`` wait for a sync. Raises FolderLocked when another process has the log open, CorruptLog when
        durable records are damaged, and StorageFull or StorageFailed when the disk refuses.
        """
        with typed_errors("opening the log", folder):
            make_folders(files, folder)
            try:
                lock = files.lock(folder / _LOCK)
            except BlockingIOError as error:
                raise FolderLocked(
                    "another process has this log open",
                    field="path",
                    value=folder,
                    remedy=f"stop it first (`fuser {folder / _LOCK}` names it)",
                ) from error
            segments = SegmentFolder(folder, files=files)
            try:
                segments.recover(trusting=not check_all)
            except BaseException:
                segments.close()
                lock.close()
                raise
        if segments.torn is not None:
            logger.warning("log %s: cut a torn tail: %s", folder, segments.torn)
        limits = LogLimits(segment_bytes=segment_bytes, record_bytes=record_bytes, buffer_bytes=buffer_bytes)
        return cls(segments, lock=lock, limits=limits)

    @property
    def torn(self) -> TornTail | None:
        """What was cut on opening, None when the log ended with a whole record."""
        return self._segments.torn

    @property
    def first_sequence(self) -> int:
        """Sequence of the oldest record that is kept (one more than the last when there is none)."""
        return self._segments.segments[0].first_sequence

    @property
    def last_sequence(self) -> int:
        """Sequence of the last appended record, durable or not; 0 when there is none."""
        return self._appended

    @property
    def durable_sequence(self) -> int:
        """Everything up to this sequence survives a crash."""
        return self._durable

    @property
    def size_bytes(self) -> int:
        """Bytes on the disk."""
        return sum(segment.size for segment in self._segments.segments)

    @property
    def segment_count(self) -> int:
        """Number of files."""
        return len(self._segments.segments)

    def append(self, kind: int, payload: bytes) -> int:
        """Takes the next place in the log and returns its sequence; nothing is durable before the next sync.

        Raises RecordTooLarge, and LogBusy when too much waits for a sync.
        """
        if not 0 <= kind <= MAX_KIND:
            raise InvalidField("is not a record kind", field="kind", value=kind, remedy=f"use 0 to {MAX_KIND}")
        if len(payload) > self._limits.record_bytes:
            raise RecordTooLarge(
                f"a record may have {self._limits.record_bytes} bytes", field="payload", value=len(payload)
            )
        size = RECORD_HEADER_BYTES + len(payload)
        with self._state:
            self._check_usable()
            if self._pending and self._pending_bytes + size > self._limits.buffer_bytes:
                raise LogBusy(
                    f"{self._pending_bytes} bytes wait to be written", field="wal", remedy="wait for a sync, then retry"
                )
            self._pending.append((kind, bytes(payload)))
            self._pending_bytes += size
            self._appended += 1
            return self._appended

    async def sync(self) -> None:
        """Returns when everything appended before the call is durable; concurrent callers share one sync of the disk.

        Raises StorageFull, after which the records are still waiting and sync may be called again.
        """
        target = self._appended
        while True:
            with self._state:
                if self._durable >= target:
                    return
                self._check_usable()
            if self._flight is None or self._flight.done():
                self._flight = begin(self._fly(), name="wal-sync")
            try:
                # Shielded: a caller that gives up must not take the others' sync with it.
                await asyncio.shield(self._flight)
            except AgentWorldError:
                # The sync may have failed, or the log been closed, behind the records this caller waits for.
                if self._durable < target:
                    raise

    async def _fly(self) -> None:
        """Syncs in the worker thread.

        As a task it begins after everybody whom the last sync has woken: they append now, and share this one instead of
        waiting for it and for another.
        """
        await asyncio.get_running_loop().run_in_executor(self._worker, self.sync_now)

    def sync_now(self) -> None:
        """Blocks until everything appended before the call is durable; raises as ``sync`` does."""
        with self._writing:
            with self._state:
                self._check_usable()
                waiting = len(self._pending)
            try:
                while waiting > 0:
                    waiting -= self._write_some(waiting)
            except StorageFull:
                raise
            except BaseException as error:
                self._fail(error)
                raise self._failed() from error

    def _write_some(self, limit: int) -> int:
        """Makes some of the oldest waiting records durable, as many as the segment takes; returns how many."""
        segments = self._segments
        if segments.room(self._limits.segment_bytes) == 0:
            segments.begin_segment(segments.link)
        with self._state:
            waiting = list(islice(self._pending, limit))
        link = segments.link
        room = segments.room(self._limits.segment_bytes)
        parts: list[bytes] = []
        for kind, payload in waiting:
            part, link = encode_record(kind, payload, mark=segments.mark, link=link, synced=segments.link.sequence)
            parts.append(part)
            room -= len(part)
            if room <= 0:
                break
        segments.append(parts, [kind for kind, _ in waiting[: len(parts)]], link=link)
        with self._state:
            for part in parts:
                self._pending.popleft()
                self._pending_bytes -= len(part)
            self._durable = link.sequence
        return len(parts)

    def records(self, *, after: int = 0) -> Iterator[Record]:
        """Iterates the durable records behind the sequence in order, recovered ones and new ones.

        Every record is checked again: raises CorruptLog when it has been damaged since the log was opened.
        """
        with self._state:
            self._check_usable()
        with typed_errors("reading the log", self._segments.folder):
            yield from self._segments.read(after=after)

    def record(self, sequence: int) -> Record:
        """Returns one durable record, which is checked again; raises NotFound, and CorruptLog when it is damaged."""
        with self._state:
            self._check_usable()
        try:
            with typed_errors("reading the log", self._segments.folder):
                return self._segments.record(sequence)
        except IndexError:
            raise NotFound("the log has no such record", field="sequence", value=sequence) from None

    def sequences(self, kind: int) -> array[int]:
        """Returns the sequences of all durable records of a kind, in order, without reading them."""
        return self._segments.sequences(kind)

    def lost(self, reason: str) -> CorruptLog:
        """Returns the error for records that must come after the last one, and do not."""
        last = self._segments.segments[-1]
        return CorruptLog(reason, file=label_of(last.path), offset=last.size, sequence=self._durable + 1)

    def keep_note(self) -> None:
        """Notes what the log holds, so that the next start reads no more than what comes after this."""
        with self._writing:
            self._segments.keep_note()

    def can_prune(self, before_sequence: int) -> bool:
        """True when ``prune`` would drop something."""
        return self._segments.can_prune(before_sequence)

    def prune(self, before_sequence: int) -> int:
        """Drops the segments that hold only records before the sequence, never the last; returns how many.

        Raises StorageFull where the disk needs room to remove a file; then it may be called again.
        """
        with self._writing:
            with self._state:
                self._check_usable()
            try:
                return self._segments.prune(before_sequence)
            except StorageFull:
                raise
            except BaseException as error:
                self._fail(error)
                raise self._failed() from error

    def close(self) -> None:
        """Makes what waits durable and releases the folder, also when it raises; closing twice does nothing."""
        with self._state:
            if self._closed:
                return
        try:
            if self._failure is None:
                self.sync_now()
                self.keep_note()
        finally:
            with self._state:
                self._closed = True
            self._worker.shutdown(wait=True)
            self._segments.close()
            self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _fail(self, error: BaseException) -> None:
        with self._state:
            self._failure = error

    def _check_usable(self) -> None:
        if self._closed:
            raise LogClosed("the log has been closed", field="wal")
        if self._failure is not None:
            raise self._failed() from self._failure

    def _failed(self) -> LogFailed:
        return LogFailed(
            f"the log stopped because of: {self._failure}",
            field="wal",
            remedy="check the disk, then restart the node; the log recovers what is really on the disk",
        )
