"""The files of a log: one segment after the other in one folder, the last one open for writing.

A segment is written under a temporary name and renamed when its header is durable, so a segment with a bad header is
never the trace of a crash. Not thread-safe but for ``read``: the log calls everything else under one lock.
"""

from __future__ import annotations

import logging
import re
import secrets
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from agentworld_core.hashing import digest
from agentworld_node.storage.errors import CorruptLog, StorageFull, storage_error
from agentworld_node.storage.files import File, FileSystem, put_again
from agentworld_node.storage.wal_format import (
    FIRST_LINK,
    MARK_BYTES,
    SEGMENT_HEADER_BYTES,
    KnownEnd,
    Link,
    Record,
    SegmentScan,
    TornTail,
    decode_record,
    encode_segment_header,
)
from agentworld_node.storage.wal_notes import NOTE_SUFFIX, SegmentNote

logger = logging.getLogger(__name__)

_NAME = re.compile(r"([0-9]{20})\.wal")
_TEMPORARY = ".new"


def label_of(path: Path) -> str:
    """Returns how errors name a segment: a data folder has more than one log."""
    return f"{path.parent.name}/{path.name}"


@dataclass(frozen=True, slots=True)
class Segment:
    """One file of the log: the sequence it begins with, how many of its bytes are durable, and what they hold."""

    path: Path
    first_sequence: int
    size: int
    note: SegmentNote


class SegmentFolder:
    """Reads, repairs and extends the segments in a folder. Raises OSError where the log must stop."""

    def __init__(self, folder: Path, *, files: FileSystem):
        self._folder = folder
        self._files = files
        self._segments: list[Segment] = []
        self._kept: dict[int, int] = {}  # how much of a segment the note on the disk covers, by its first sequence
        self._keeps_notes = False
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

    def scan(self, *, trusting: bool = False) -> SegmentScan | None:
        """Checks every record and changes nothing on the disk; returns the last segment, None when there is none.

        With ``trusting`` only those records that are not noted beside their segment. Afterwards ``read`` yields the
        records. Raises CorruptLog.
        """
        paths = [self._folder / name for name in self._files.names(self._folder) if name.endswith(".wal")]
        before: tuple[bytes, Link] | None = None
        scan: SegmentScan | None = None
        for path in paths:
            is_last = path == paths[-1]
            note = self._trusted_note(path, is_last=is_last, before=before) if trusting else None
            if note is None:
                scan = self._check(path, self._files.read(path), before=before)
                note = SegmentNote(mark=scan.mark, first=self._first_sequence(path), link=scan.link, covered=0)
            else:
                tail = self._part(path, note.covered, (self._files.size(path) or 0) - note.covered)
                end = KnownEnd(note.mark, note.link, note.covered)
                scan = SegmentScan(tail, file=label_of(path), behind=end)
                scan.check()
            note.add(scan.found, link=scan.link, covered=scan.offset)
            self.torn = scan.torn_tail(last_segment=is_last)
            self._segments.append(Segment(path, self._first_sequence(path), scan.offset, note))
            before = (scan.mark, scan.link)
        return scan

    def _trusted_note(self, path: Path, *, is_last: bool, before: tuple[bytes, Link] | None) -> SegmentNote | None:
        """Returns the note beside a segment, None when there is none that is proved by what it is about.

        Raises CorruptLog when it is about more than there is: only what was synced is noted.
        """
        place = path.with_suffix(NOTE_SUFFIX)
        size = self._files.size(path) or 0
        if self._files.size(place) is None:
            return None
        try:
            note = SegmentNote.decode(self._files.map(place))
        except ValueError as error:
            logger.warning("the note %s is made again: it is %s", place, error)
            return None
        if len(note) == 0 or size < SEGMENT_HEADER_BYTES or (note.covered < size and not is_last):
            return None
        # Its begin must continue the segment before it, and its last record must be the one that was noted.
        header = SegmentScan(self._part(path, 0, SEGMENT_HEADER_BYTES), file=label_of(path))
        self._check_begin(path, header, before=before)
        if (note.mark, note.first) != (header.mark, header.link.sequence + 1):
            return None
        if note.covered > size:
            reason = f"it has {size} bytes, and {note.covered} are noted, bytes that were synced"
            raise CorruptLog(reason, file=label_of(path), offset=size, sequence=note.first)
        begin, end = note.span(note.link.sequence)
        if digest(self._part(path, begin, end - begin)) != note.link.record_hash:
            return None
        self._kept[note.first] = note.covered
        return note

    def _part(self, path: Path, offset: int, length: int) -> bytes:
        return self._files.open_to_read(path).read_at(offset, length)

    def recover(self, *, trusting: bool = False) -> None:
        """Checks every record, cuts a torn tail, makes the rest durable; raises CorruptLog and changes nothing.

        With ``trusting`` it does not read again what is noted beside the segments.
        """
        names = self._files.names(self._folder)
        last = self.scan(trusting=trusting)
        segments = {segment.path.stem for segment in self._segments}
        for name in names:
            if name.endswith(_TEMPORARY) or (name.endswith(NOTE_SUFFIX) and Path(name).stem not in segments):
                self._files.remove(self._folder / name)
        if last is None:
            self.mark = secrets.token_bytes(MARK_BYTES)
            self.begin_segment(FIRST_LINK)
            self._keeps_notes = trusting
            return
        self.mark, self.link = last.mark, last.link
        self._repair(last)
        self._keeps_notes = trusting
        for segment in self._segments[:-1]:
            self._keep_note(segment)

    def _first_sequence(self, path: Path) -> int:
        match = _NAME.fullmatch(path.name)
        if match is None:
            raise CorruptLog("this is not the name of a segment", file=label_of(path), offset=0, sequence=0)
        return int(match.group(1))

    def _check(self, path: Path, data: bytes, *, before: tuple[bytes, Link] | None) -> SegmentScan:
        """Returns the scan of a segment, exhausted, after checking that it continues the one before it."""
        scan = SegmentScan(data, file=label_of(path))
        self._check_begin(path, scan, before=before)
        scan.check()
        return scan

    def _check_begin(self, path: Path, scan: SegmentScan, *, before: tuple[bytes, Link] | None) -> None:
        first = self._first_sequence(path)
        reason = None
        if scan.link.sequence + 1 != first:
            reason = f"the file is named for record {first}, its header for {scan.link.sequence + 1}"
        elif before is not None and scan.mark != before[0]:
            reason = "the segment belongs to another log"
        elif before is not None and scan.link != before[1]:
            reason = f"the segment does not continue the one before it, which ends with record {before[1].sequence}"
        elif first == 1 and scan.link != FIRST_LINK:
            reason = "the segment begins the log but names a record before it"
        if reason is not None:
            raise CorruptLog(reason, file=label_of(path), offset=0, sequence=first)

    def _repair(self, scan: SegmentScan) -> None:
        """Cuts what is torn and makes sure that everything read is really on the disk."""
        self._active = self._files.open(self._segments[-1].path)
        if self.torn is not None:
            self._active.truncate(scan.offset)
        # The last write may be in the page cache only, marked clean by a sync that failed before the process ended:
        # a sync alone would then wrongly succeed. Writing the same bytes again makes the sync cover them.
        unconfirmed = scan.unconfirmed()
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
        self.keep_note()
        self._active = created
        note = SegmentNote(mark=self.mark, first=link.sequence + 1, link=link, covered=len(header))
        self._segments.append(Segment(path, link.sequence + 1, len(header), note))

    def append(self, parts: Sequence[bytes], kinds: Sequence[int], *, link: Link) -> None:
        """Writes records behind the last one, the last of which is the link's, and syncs.

        StorageFull leaves the segment as it was.
        """
        assert self._active is not None
        segment, data = self._segments[-1], b"".join(parts)
        try:
            self._active.write_at(segment.size, data)
        except OSError as error:
            self._active.truncate(segment.size)
            self._raise_if_full(error)
            raise
        self._active.sync()
        offset, records = segment.size, []
        for kind, part in zip(kinds, parts, strict=True):
            records.append((kind, offset))
            offset += len(part)
        segment.note.add(records, link=link, covered=offset)
        self._segments[-1] = replace(segment, size=offset)
        self.link = link

    def keep_note(self) -> None:
        """Writes what the last segment holds beside it, so that the next start need not read it."""
        if self._segments:
            self._keep_note(self._segments[-1])

    def _keep_note(self, segment: Segment) -> None:
        note, path = segment.note, segment.path
        if not self._keeps_notes or len(note) == 0 or self._kept.get(note.first) == note.covered:
            return
        place = path.with_suffix(NOTE_SUFFIX)
        temporary = place.with_name(place.name + _TEMPORARY)
        data = note.encode()
        try:
            put_again(self._files, place, data, temporary=temporary)
        except OSError as error:
            # Without it the next start reads the segment.
            logger.warning("the note %s is not written: %s", place, error)
        else:
            self._kept[note.first] = note.covered

    def _raise_if_full(self, error: OSError) -> None:
        typed = storage_error(error, doing="a log record", path=self._folder)
        if isinstance(typed, StorageFull):
            raise typed from error

    def can_prune(self, before_sequence: int) -> bool:
        """True when the oldest segment holds only records before the sequence, and is not the last."""
        segments = self.segments
        return len(segments) > 1 and segments[1].first_sequence <= before_sequence

    def prune(self, before_sequence: int) -> int:
        """Drops the oldest segments that hold only records before the sequence; returns how many.

        Raises StorageFull where even that takes room; then what was not dropped is as it was.
        """
        dropped = 0
        while self.can_prune(before_sequence):
            note = self._segments[0].path.with_suffix(NOTE_SUFFIX)
            try:
                if self._files.size(note) is not None:
                    self._files.remove(note)
                self._files.remove(self._segments[0].path)
            except OSError as error:
                self._raise_if_full(error)
                raise
            # One at a time: were a later name gone before an earlier one, a crash would leave a hole.
            self._files.sync_folder(self._folder)
            del self._segments[0]
            dropped += 1
        return dropped

    def read(self, *, after: int) -> Iterator[Record]:
        """Yields the durable records behind the sequence, checking each again, without segments pruned meanwhile."""
        segments = self.segments
        for segment, following in zip(segments, (*segments[1:], None), strict=True):
            if after > segment.note.link.sequence or (following and following.first_sequence <= after + 1):
                continue
            try:
                scan = self._scan_from(segment, after=after)
            except FileNotFoundError:
                if segment.path in {kept.path for kept in self._segments}:
                    raise
                continue
            yield from scan.records()
            scan.torn_tail(last_segment=False)

    def _scan_from(self, segment: Segment, *, after: int) -> SegmentScan:
        """Returns the scan of what follows a record in a segment, or of all of it."""
        path, note = segment.path, segment.note
        if after < segment.first_sequence:
            return SegmentScan(self._part(path, 0, segment.size), file=label_of(path))
        begin, end = note.span(after)
        before = self._part(path, begin, end - begin)
        decode_record(before, mark=note.mark, sequence=after, file=label_of(path), offset=begin)
        tail = self._part(path, end, max(0, segment.size - end))
        return SegmentScan(tail, file=label_of(path), behind=KnownEnd(note.mark, Link(after, digest(before)), end))

    def record(self, sequence: int) -> Record:
        """Returns one durable record, checked again; raises IndexError for a sequence that is not here."""
        for segment in reversed(self.segments):
            if segment.first_sequence <= sequence:
                note = segment.note
                begin, end = note.span(sequence)
                data = self._part(segment.path, begin, end - begin)
                return decode_record(data, mark=note.mark, sequence=sequence, file=label_of(segment.path), offset=begin)
        raise IndexError(sequence)

    def sequences(self, kind: int) -> array[int]:
        """Returns the sequences of all durable records of a kind, in order."""
        found = array("Q")
        for segment in self.segments:
            found.extend(segment.note.sequences(kind))
        return found

    def close(self) -> None:
        """Closes the open file."""
        if self._active is not None:
            self._active.close()
            self._active = None
