"""The files of a log: one segment after the other in one folder, the last one open for writing.

A segment is written under a temporary name and renamed when its header is durable, so a segment with a bad header is
never the trace of a crash. Not thread-safe but for ``read``: the log calls everything else under one lock.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from agentworld_node.storage.errors import CorruptLog, StorageFull, storage_error
from agentworld_node.storage.files import File, FileSystem
from agentworld_node.storage.wal_format import (
    FIRST_LINK,
    MARK_BYTES,
    Link,
    Record,
    SegmentScan,
    TornTail,
    encode_segment_header,
)

_NAME = re.compile(r"([0-9]{20})\.wal")
_TEMPORARY = ".new"


@dataclass(frozen=True, slots=True)
class Segment:
    """One file of the log: the sequence it begins with, and how many of its bytes are durable."""

    path: Path
    first_sequence: int
    size: int


class SegmentFolder:
    """Reads, repairs and extends the segments in a folder. Raises OSError where the log must stop."""

    def __init__(self, folder: Path, *, files: FileSystem):
        self._folder = folder
        self._files = files
        self._segments: list[Segment] = []
        self._active: File | None = None
        self.mark = b""
        self.link: Link = FIRST_LINK
        self.torn: TornTail | None = None

    @property
    def folder(self) -> Path:
        """The folder."""
        return self._folder

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The segments, oldest first."""
        return tuple(self._segments)

    def scan(self) -> tuple[SegmentScan, bytes] | None:
        """Checks every record and changes nothing on the disk; returns the last segment, None when there is none.

        Afterwards ``read`` yields the records. Raises CorruptLog.
        """
        paths = [self._folder / name for name in self._files.names(self._folder) if name.endswith(".wal")]
        scan: SegmentScan | None = None
        data = b""
        for path in paths:
            data = self._files.read(path)
            scan = self._check(path, data, before=scan)
            self.torn = scan.torn_tail(last_segment=path == paths[-1])
            self._segments.append(Segment(path, self._first_sequence(path), scan.offset))
        return None if scan is None else (scan, data)

    def recover(self) -> None:
        """Checks every record, cuts a torn tail, makes the rest durable; raises CorruptLog and changes nothing."""
        names = self._files.names(self._folder)
        last = self.scan()
        for name in names:
            if name.endswith(_TEMPORARY):
                self._files.remove(self._folder / name)
        if last is None:
            self.mark = secrets.token_bytes(MARK_BYTES)
            self.begin_segment(FIRST_LINK)
            return
        scan, data = last
        self.mark, self.link = scan.mark, scan.link
        self._repair(scan, data)

    def _first_sequence(self, path: Path) -> int:
        match = _NAME.fullmatch(path.name)
        if match is None:
            raise CorruptLog("this is not the name of a segment", file=path.name, offset=0, sequence=0)
        return int(match.group(1))

    def _check(self, path: Path, data: bytes, *, before: SegmentScan | None) -> SegmentScan:
        """Returns the scan of a segment, exhausted, after checking that it continues the one before it."""
        first = self._first_sequence(path)
        scan = SegmentScan(data, file=path.name)
        reason = None
        if scan.link.sequence + 1 != first:
            reason = f"the file is named for record {first}, its header for {scan.link.sequence + 1}"
        elif before is not None and scan.mark != before.mark:
            reason = "the segment belongs to another log"
        elif before is not None and scan.link != before.link:
            reason = f"the segment does not continue the one before it, which ends with record {before.link.sequence}"
        elif first == 1 and scan.link != FIRST_LINK:
            reason = "the segment begins the log but names a record before it"
        if reason is not None:
            raise CorruptLog(reason, file=path.name, offset=0, sequence=first)
        scan.check()
        return scan

    def _repair(self, scan: SegmentScan, data: bytes) -> None:
        """Cuts what is torn and makes sure that everything read is really on the disk."""
        self._active = self._files.open(self._segments[-1].path)
        if self.torn is not None:
            self._active.truncate(scan.offset)
        # The last write may be in the page cache only, marked clean by a sync that failed before the process ended:
        # a sync alone would then wrongly succeed. Writing the same bytes again makes the sync cover them.
        unconfirmed = data[scan.unconfirmed_offset : scan.offset]
        if unconfirmed:
            self._active.write_at(scan.unconfirmed_offset, unconfirmed)
        self._active.sync()
        self._files.sync_folder(self._folder)

    def room(self, segment_bytes: int) -> int:
        """Returns how many bytes the open segment takes before it is this long; an empty one always takes some."""
        active = self._segments[-1]
        empty = active.first_sequence > self.link.sequence
        return max(int(empty), segment_bytes - active.size)

    def begin_segment(self, link: Link) -> None:
        """Continues the log in a new file; raises StorageFull and stays on the old one when there is no room."""
        path = self._folder / f"{link.sequence + 1:020d}.wal"
        temporary = path.with_suffix(_TEMPORARY)
        header = encode_segment_header(self.mark, link)
        try:
            created = self._files.create(temporary)
        except OSError as error:
            self._raise_if_full(error)
            raise
        try:
            created.write_at(0, header)
            created.sync()
            self._files.rename(temporary, path)
        except OSError as error:
            created.close()
            self._files.remove(temporary)
            self._raise_if_full(error)
            raise
        self._files.sync_folder(self._folder)
        if self._active is not None:
            self._active.close()
        self._active = created
        self._segments.append(Segment(path, link.sequence + 1, len(header)))

    def append(self, data: bytes) -> None:
        """Writes the bytes behind the last record and syncs; StorageFull leaves the segment as it was."""
        assert self._active is not None
        segment = self._segments[-1]
        try:
            self._active.write_at(segment.size, data)
        except OSError as error:
            self._active.truncate(segment.size)
            self._raise_if_full(error)
            raise
        self._active.sync()
        self._segments[-1] = replace(segment, size=segment.size + len(data))

    def _raise_if_full(self, error: OSError) -> None:
        typed = storage_error(error, doing="a log record", path=self._folder)
        if isinstance(typed, StorageFull):
            raise typed from error

    def prune(self, before_sequence: int) -> int:
        """Drops the oldest segments that hold only records before the sequence; returns how many."""
        dropped = 0
        while len(self._segments) > 1 and self._segments[1].first_sequence <= before_sequence:
            self._files.remove(self._segments[0].path)
            # One at a time: were a later name gone before an earlier one, a crash would leave a hole.
            self._files.sync_folder(self._folder)
            del self._segments[0]
            dropped += 1
        return dropped

    def read(self, *, after: int) -> Iterator[Record]:
        """Yields the durable records behind the sequence, checking each again, without segments pruned meanwhile."""
        segments = self.segments
        for segment, following in zip(segments, (*segments[1:], None), strict=True):
            if following is not None and following.first_sequence <= after + 1:
                continue
            try:
                data = self._files.read(segment.path)[: segment.size]
            except FileNotFoundError:
                if segment.path in {kept.path for kept in self._segments}:
                    raise
                continue
            scan = SegmentScan(data, file=segment.path.name)
            for record in scan.records():
                if record.sequence > after:
                    yield record
            scan.torn_tail(last_segment=False)

    def close(self) -> None:
        """Closes the open file."""
        if self._active is not None:
            self._active.close()
            self._active = None
